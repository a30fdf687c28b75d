//! The internal listener of every process: health, readiness, liveness, metrics. Never exposed outside the cluster.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use contract::{ErrorCode, Failure};
use http::Request;
use http::header::HOST;
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use prometheus::{Encoder, IntGauge, TextEncoder};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use uuid::Uuid;

use crate::VERSION;
use crate::drain::Drain;
use crate::health::{Health, State};

/// How long answers may take that were begun when the process stopped accepting.
const LINGER: Duration = Duration::from_secs(1);
/// How long a process may take to say whether it is ready.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Asks the process that listens at `listen` whether it takes work: the health check of a container without a shell.
///
/// # Errors
/// What is wrong, in words: nobody listens, no answer within two seconds, or the process is starting or ending.
pub async fn ask_ready(listen: SocketAddr) -> Result<(), String> {
    match timeout(ANSWER_LIMIT, readiness(from_here(listen))).await {
        Ok(Ok(StatusCode::OK)) => Ok(()),
        Ok(Ok(status)) => Err(format!("not ready: {status}")),
        Ok(Err(error)) => Err(format!("not ready: {error}")),
        Err(_) => Err(format!("not ready: no answer within {} s", ANSWER_LIMIT.as_secs())),
    }
}

async fn readiness(address: SocketAddr) -> Result<StatusCode, Box<dyn Error>> {
    let stream = TcpStream::connect(address).await?;
    let (mut requests, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz").header(HOST, "localhost").body(Empty::<Bytes>::new())?;
    tokio::select! {
        answer = requests.send_request(request) => Ok(answer?.status()),
        ended = connection => Err(ended.map_or_else(Into::into, |()| "the connection was closed".into())),
    }
}

/// Where one reaches, on the same machine, what listens on all addresses.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

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
    let serving = axum::serve(listener, routes(service, health, drain.clone()))
        .with_graceful_shutdown(async move { until.stop_accepting().await });
    // A connection that asks nothing must not hold the process back.
    let overdue = async {
        drain.stop_accepting().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
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

impl Internal {
    fn is_ready(&self) -> bool {
        self.health.is_ready() && !self.drain.is_ending()
    }
}

async fn ready(Shared(internal): Shared<Internal>) -> Response {
    if internal.drain.is_ending() {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending").into_response();
    }
    if !internal.health.is_ready() {
        let why = internal.health.hindrance().unwrap_or("starting");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    "ok".into_response()
}

async fn metrics(Shared(internal): Shared<Internal>) -> Response {
    READY.set(internal.is_ready().into());
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => ([("content-type", prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

static READY: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!("process_ready", "Whether the process takes work")
        .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
