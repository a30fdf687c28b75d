//! The accept loop, the routes, and the ways to break a connection off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::recorder::{Recorder, Seen};
use crate::resources::{self, Collection};
use crate::{identity, socket, switches};

/// What all requests share. Cheap to clone.
#[derive(Clone)]
pub struct Stub(pub Arc<Shared>);

pub struct Shared {
    pub end: CancellationToken,
    pub recorder: Recorder,
    pub templates: Mutex<Collection>,
    pub instances: Mutex<Collection>,
    pub sockets: AtomicUsize,
    healthy: AtomicBool,
}

impl Stub {
    pub fn new(end: CancellationToken) -> Self {
        Stub(Arc::new(Shared {
            end,
            recorder: Recorder::default(),
            templates: Mutex::default(),
            instances: Mutex::default(),
            sockets: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
        }))
    }
}

/// Breaks the connection of a request off.
#[derive(Clone, Default)]
pub struct Abort(Arc<Notify>);

impl Abort {
    /// At once, before anything more is sent.
    pub fn now(&self) {
        self.0.notify_one();
    }

    /// Once what is being sent has had time to leave.
    pub fn soon(self) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.now();
        });
    }
}

/// An error in core-manager's own format, which is not the gateway's.
pub fn refusal(status: u16, detail: &str) -> (StatusCode, Json<Value>) {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({ "detail": detail })))
}

fn routes(stub: Stub) -> Router {
    let api = Router::new()
        .merge(resources::routes())
        .route("/api/v1/echo", any(resources::echo))
        .route("/api/v1/echo/{*rest}", any(resources::echo))
        .route("/ws", get(socket::upgrade))
        .layer(middleware::from_fn(resources::echo_on_request))
        .layer(middleware::from_fn(identity::require));
    Router::new()
        .merge(api)
        .route("/health", get(health))
        .route("/stub/health", post(set_health))
        .route(
            "/stub/requests",
            get(|State(stub): State<Stub>| async move { Json(stub.0.recorder.requests()) }),
        )
        .route(
            "/stub/frames",
            get(|State(stub): State<Stub>| async move { Json(stub.0.recorder.frames()) }),
        )
        .route("/stub/state", get(state))
        .fallback(|| async { refusal(404, "no such route") })
        .layer(middleware::from_fn(switches::obey))
        .layer(middleware::from_fn_with_state(stub.clone(), record))
        .with_state(stub)
}

async fn record(State(stub): State<Stub>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/stub/") && request.uri().path() != "/health" {
        stub.0.recorder.request(Seen::of(&request));
    }
    let mut response = next.run(request).await;
    let name = axum::http::HeaderValue::from_static("core-manager-stub");
    response.headers_mut().insert(axum::http::header::SERVER, name);
    response
}

async fn health(State(stub): State<Stub>) -> Response {
    if !stub.0.healthy.load(Ordering::Relaxed) {
        return refusal(503, "told to be unhealthy").into_response();
    }
    let note = "a stand-in, for development and tests";
    Json(json!({ "status": "healthy", "service": "core-manager-stub", "note": note })).into_response()
}

async fn set_health(State(stub): State<Stub>, Json(body): Json<Value>) -> StatusCode {
    stub.0
        .healthy
        .store(body["healthy"] != json!(false), Ordering::Relaxed);
    StatusCode::NO_CONTENT
}

async fn state(State(stub): State<Stub>) -> Json<Value> {
    let count = |all: &Mutex<Collection>| resources::lock(all).len();
    Json(json!({
        "templates": count(&stub.0.templates),
        "instances": count(&stub.0.instances),
        "sockets": stub.0.sockets.load(Ordering::Relaxed),
    }))
}

/// Accepts until the end, then gives what runs a moment.
pub async fn serve(listener: TcpListener, stub: Stub) {
    let end = stub.0.end.clone();
    let router = routes(stub);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(connection(stream, router.clone()));
                }
            }
            () = end.cancelled() => break,
        }
    }
    drop(listener);
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn connection(stream: TcpStream, router: Router) {
    // Small answers go at once; without it they only go later.
    let _ = stream.set_nodelay(true);
    let abort = Abort::default();
    let extension = abort.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(extension.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => {}
        // The drop of the connection closes it at once, with whatever was not sent.
        () = abort.0.notified() => {}
    }
}
