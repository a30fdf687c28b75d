//! What all requests share, and the routes.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{any, get};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::answers::detail;
use crate::gauge::Gauge;
use crate::instances::Owner;
use crate::recorder::Recorder;
use crate::shelf::Shelf;
use crate::switches::Switchboard;
use crate::{control, echo, identity, instances, misbehaviour, recorder, socket, templates};

/// The state of the stand-in. It lives in memory and ends with the process.
pub struct App {
    pub templates: Shelf<()>,
    pub instances: Shelf<Owner>,
    pub switches: Switchboard,
    pub recorder: Recorder,
    pub healthy: AtomicBool,
    /// After how long a connection that rests is closed as its next request arrives, in milliseconds; never for 0.
    pub keep_alive: Arc<AtomicU64>,
    pub sockets: Gauge,
    /// Sockets that were opened in this tier are to close.
    pub close_of_tier: broadcast::Sender<String>,
    pub workflows: Gauge,
    /// Cancelled when the process is told to end.
    pub closing: CancellationToken,
}

impl App {
    pub fn new(closing: CancellationToken) -> Arc<Self> {
        Arc::new(App {
            templates: Shelf::default(),
            instances: Shelf::default(),
            switches: Switchboard::default(),
            recorder: Recorder::default(),
            healthy: AtomicBool::new(true),
            keep_alive: Arc::default(),
            sockets: Gauge::default(),
            close_of_tier: broadcast::channel(16).0,
            workflows: Gauge::default(),
            closing,
        })
    }
}

/// Takes the lock. What a panic left behind is still good enough for a stand-in.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that is served. A request of the platform is recorded, then its identity is checked, then its switches
/// act. `/health` obeys the switches alone, `/stub` nothing: a test must be able to undo what it did.
pub fn router(app: Arc<App>) -> Router {
    let obey = from_fn_with_state(app.clone(), misbehaviour::obey);
    let platform = platform()
        .layer(obey.clone())
        .layer(from_fn(identity::require))
        .layer(from_fn_with_state(app.clone(), recorder::record));
    let health = Router::new().route("/health", get(control::health)).layer(obey);
    Router::new()
        .merge(platform)
        .merge(health)
        .merge(control::routes())
        .layer(DefaultBodyLimit::disable())
        .layer(map_response(sign))
        .with_state(app)
}

fn platform() -> Router<Arc<App>> {
    Router::new()
        .merge(templates::routes())
        .merge(instances::routes())
        .route("/api/v1/echo", any(echo::answer))
        .route("/api/v1/echo/", any(echo::answer))
        .route("/api/v1/echo/{*rest}", any(echo::answer))
        .route("/ws", get(socket::upgrade))
        .fallback(async || detail(StatusCode::NOT_FOUND, "no such route"))
        .method_not_allowed_fallback(async || detail(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"))
}

/// Says who answered, unless a switch already gave another `Server`.
async fn sign(mut response: Response) -> Response {
    response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static("core-manager-stub"));
    response
}
