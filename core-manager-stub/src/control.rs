//! `/stub/*`, by which a test looks in and sets behaviour, and `/health`. Neither needs the identity headers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answers::refused;
use crate::app::App;
use crate::recorder::{Frame, Seen};
use crate::switches::Rule;

/// The routes of the control plane.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/stub/behaviour", post(set_behaviour).delete(clear_behaviour))
        .route("/stub/requests", get(requests).delete(forget_requests))
        .route("/stub/frames", get(frames).delete(forget_frames))
        .route("/stub/sockets", delete(close_sockets))
        .route("/stub/state", get(state))
        .route("/stub/health", post(set_health))
        .route("/stub/keep-alive", post(set_keep_alive))
}

/// `GET /health`.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let (code, status) = match app.healthy.load(Relaxed) {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    let note = "a stand-in for core-manager, for development and tests";
    let body = json!({ "status": status, "service": "core-manager-stub", "note": note });
    (code, Json(body)).into_response()
}

#[derive(Deserialize)]
struct Health {
    healthy: bool,
}

async fn set_health(State(app): State<Arc<App>>, Json(health): Json<Health>) -> StatusCode {
    app.healthy.store(health.healthy, Relaxed);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct KeepAlive {
    ms: u64,
}

async fn set_keep_alive(State(app): State<Arc<App>>, Json(keep_alive): Json<KeepAlive>) -> StatusCode {
    app.keep_alive.store(keep_alive.ms, Relaxed);
    StatusCode::NO_CONTENT
}

async fn set_behaviour(State(app): State<Arc<App>>, Json(wanted): Json<Map<String, Value>>) -> Response {
    match Rule::from_json(wanted) {
        Ok(rule) => {
            app.switches.set(rule);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(fault) => refused(&fault),
    }
}

/// Which rule to take away; all of them when it is not given.
#[derive(Deserialize)]
struct Which {
    path_prefix: Option<String>,
}

async fn clear_behaviour(State(app): State<Arc<App>>, Query(which): Query<Which>) -> StatusCode {
    app.switches.clear(which.path_prefix.as_deref());
    StatusCode::NO_CONTENT
}

async fn requests(State(app): State<Arc<App>>) -> Json<Vec<Seen>> {
    Json(app.recorder.requests())
}

async fn forget_requests(State(app): State<Arc<App>>) -> StatusCode {
    app.recorder.forget_requests();
    StatusCode::NO_CONTENT
}

async fn frames(State(app): State<Arc<App>>) -> Json<Vec<Frame>> {
    Json(app.recorder.frames())
}

async fn forget_frames(State(app): State<Arc<App>>) -> StatusCode {
    app.recorder.forget_frames();
    StatusCode::NO_CONTENT
}

/// Which sockets to close.
#[derive(Deserialize)]
struct OfTier {
    tier: String,
}

async fn close_sockets(State(app): State<Arc<App>>, Query(OfTier { tier }): Query<OfTier>) -> StatusCode {
    // Without a socket nobody hears it, which is as well.
    let _ = app.close_of_tier.send(tier);
    StatusCode::NO_CONTENT
}

/// How many there are now; a workflow counts while it runs.
async fn state(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "templates": app.templates.len(),
        "instances": app.instances.len(),
        "sockets": app.sockets.count(),
        "workflows": app.workflows.count(),
    }))
}
