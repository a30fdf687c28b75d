//! The internal listener of every process: health, readiness, liveness, metrics. Never exposed outside the cluster.

use std::io;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use contract::{ErrorCode, Failure};
use prometheus::{Encoder, TextEncoder};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::VERSION;
use crate::drain::Drain;
use crate::health::{Health, State};

#[derive(Clone)]
struct Internal {
    service: &'static str,
    health: Health,
    drain: Drain,
}

/// Serves the internal routes until the process has drained.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: &'static str,
    health: Health,
    drain: Drain,
) -> io::Result<()> {
    let until = drain.clone();
    axum::serve(listener, routes(service, health, drain))
        .with_graceful_shutdown(async move { until.stop_accepting().await })
        .await
}

fn routes(service: &'static str, health: Health, drain: Drain) -> Router {
    Router::new()
        .route("/internal/health", get(report))
        .route("/internal/metrics", get(metrics))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED))
        .fallback(async || refuse(StatusCode::NOT_FOUND))
        .with_state(Internal { service, health, drain })
}

/// REQ002 in the shape that every error has; axum adds `Allow`.
fn refuse(status: StatusCode) -> Response {
    let code = ErrorCode::NoSuchRoute;
    let failure = Failure::new(code).with_http(status);
    let request_id = Uuid::now_v7().to_string();
    let error = json!({ "code": code.name(), "message": failure.message() });
    let body = Json(json!({ "error": error, "request_id": request_id }));
    (status, [("x-request-id", request_id)], body).into_response()
}

async fn report(Shared(internal): Shared<Internal>) -> Response {
    let overall = internal.health.overall();
    let status = if overall == State::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({
        "status": overall,
        "service": internal.service,
        "version": VERSION,
        "dependencies": internal.health.dependencies(),
    });
    (status, Json(body)).into_response()
}

async fn ready(Shared(internal): Shared<Internal>) -> Response {
    if internal.drain.is_ending() {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending").into_response();
    }
    if !internal.health.is_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response();
    }
    "ok".into_response()
}

async fn metrics() -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => ([("content-type", prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
