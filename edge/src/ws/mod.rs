//! `/ws`: the socket that a frontend keeps open. [`upgrade`] decides who gets one, [`socket`] does the I/O,
//! [`session`] decides what each message leads to, [`passage`] takes it to core-manager over one of the [`legs`],
//! [`admission`] has a start counted, [`starts`] follows what was started, and [`drain`] ends all sockets with the process.

mod admission;
#[cfg(test)]
mod described;
mod drain;
mod end;
mod envelope;
mod legs;
mod meter;
mod passage;
mod session;
mod side;
mod socket;
mod starts;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use chassis::drain::Drain;
use contract::{ErrorCode, Failure, Outcome};
use http::header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Refusal};
use crate::claims::{Authenticator, Caller, Intent, bearer};
use crate::front::{ConnectionPlace, Origins, RequestContext};
use crate::gateway::Gateway;
use crate::services::Services;
use crate::settings::SocketSettings;

pub use envelope::Envelope;

use meter::Metered;
use side::Outlet;

/// The subprotocol that we speak.
const PROTOCOL: &str = "persona.v1";
/// Browsers cannot set `Authorization`, so the token comes as one more subprotocol.
const TOKEN_PROTOCOL_PREFIX: &str = "bearer.";
/// Write buffers of a socket, in bytes.
const BUFFER_BYTES: usize = 1024;
/// Read buffers, in bytes, which every idle socket has two of; most messages fit.
const READ_BYTES: usize = 768;

/// The client's end of a socket.
type ClientStream = WebSocketStream<Outlet<Metered<TokioIo<Upgraded>>>>;

/// What all sockets share.
pub struct Sockets {
    settings: SocketSettings,
    origins: Origins,
    authenticator: Authenticator,
    services: Services,
    gateway: Arc<Gateway>,
    drain: Drain,
    per_user: Mutex<HashMap<String, usize>>,
    /// Everything that runs for sockets.
    tasks: TaskTracker,
    /// At the end of the process each socket takes a permit and closes.
    turns: Semaphore,
}

impl Sockets {
    pub fn new(
        settings: SocketSettings,
        origins: Origins,
        authenticator: Authenticator,
        services: Services,
        gateway: Arc<Gateway>,
        drain: Drain,
    ) -> Self {
        Sockets {
            settings,
            origins,
            authenticator,
            services,
            gateway,
            drain,
            per_user: Mutex::default(),
            tasks: TaskTracker::new(),
            turns: Semaphore::new(0),
        }
    }

    /// A place for one more socket of the user; `None` when there are too many.
    fn place(self: &Arc<Self>, user_id: &str) -> Option<Place> {
        let mut counts = self.per_user.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = counts.entry(user_id.to_owned()).or_default();
        if *count >= self.settings.per_user {
            return None;
        }
        *count += 1;
        OPEN.inc();
        Some(Place { sockets: self.clone(), user_id: user_id.to_owned() })
    }

    /// The WebSocket on a connection that has been upgraded.
    async fn stream(&self, connection: Upgraded) -> ClientStream {
        let limit = self.settings.max_message_bytes;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            // What core-manager says, and some words of ours.
            .max_write_buffer_size(BUFFER_BYTES + upstream::MAX_MESSAGE_BYTES + 16 * limit)
            .max_frame_size(Some(limit))
            .max_message_size(Some(limit));
        let metered = Metered::new(TokioIo::new(connection), self.settings.messages_per_second);
        WebSocketStream::from_raw_socket(Outlet::new(metered), Role::Server, Some(config)).await
    }
}

/// A counted socket; dropping it gives the place back.
struct Place {
    sockets: Arc<Sockets>,
    user_id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.dec();
        let mut counts = self.sockets.per_user.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(count) = counts.get_mut(&self.user_id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user_id);
            }
        }
    }
}

/// GET `/ws`. The origin, the token and, while live claims are stale, the session are checked before 101.
#[utoipa::path(
    get,
    path = "/ws",
    operation_id = "open_socket",
    summary = "Open a WebSocket",
    description = "Its messages are described in `asyncapi.yaml`. Browsers, which cannot set `Authorization`, send the \
        token as a subprotocol: `persona.v1, bearer.<token>`.",
    params(
        ("Connection" = String, Header, pattern = "^Upgrade$", example = "Upgrade"),
        ("Upgrade" = String, Header, pattern = "^websocket$", example = "websocket"),
        ("Sec-WebSocket-Version" = String, Header, pattern = "^13$", example = "13"),
        ("Sec-WebSocket-Key" = String, Header, pattern = "^[A-Za-z0-9+/]{21}[AQgw]==$", example = "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol" = Option<String>, Header, example = "persona.v1"),
    ),
    responses((status = 101, description = "The connection is a WebSocket now")),
    extensions(("x-errors" = json!(["AUTH004"]))),
)]
pub async fn upgrade(State(sockets): State<Arc<Sockets>>, mut request: Request) -> Answer<Response> {
    if request.headers().get(ORIGIN).is_some_and(|origin| !sockets.origins.admits(origin)) {
        return Err(Failure::new(ErrorCode::Forbidden).saying("This origin is not allowed").into());
    }
    let epoch = sockets.authenticator.live().epochs();
    let context = RequestContext::of(request.extensions())?.clone();
    let caller = sockets.authenticator.identify(token(request.headers())?, &context).await?;
    let caller = sockets.authenticator.confirm(caller, Intent::Read).await?;
    let mut response = create_response_with_body(&request, Body::empty).map_err(|_| not_an_upgrade())?;
    let extensions = request.extensions_mut();
    let (Some(connection), Some(held)) =
        (extensions.remove::<OnUpgrade>(), extensions.remove::<ConnectionPlace>())
    else {
        return Err(not_an_upgrade());
    };
    sockets.authenticator.count(&caller, &context).await?;
    if offered(request.headers()).any(|protocol| protocol == PROTOCOL) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    sockets.tasks.spawn(open(sockets.clone(), (caller, epoch), context, connection, held));
    Ok(response)
}

/// With the epoch of live claims in which the caller was let in. `_held`: the place of the connection, until the socket has
/// ended.
async fn open(
    sockets: Arc<Sockets>,
    (caller, epoch): (Caller, u64),
    context: RequestContext,
    connection: OnUpgrade,
    _held: ConnectionPlace,
) {
    // The client may have gone before it got the answer.
    let Ok(connection) = connection.await else { return };
    let stream = sockets.stream(connection).await;
    match sockets.place(caller.user_id()) {
        Some(place) => socket::run(sockets.clone(), place, (caller, epoch), context, stream).await,
        None => Box::pin(socket::refuse(stream)).await,
    }
}

/// The subprotocols that a client offers.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The token of the `Authorization` header, or of the subprotocols; never of the URL, which ends up in logs.
fn token(headers: &HeaderMap) -> Outcome<&str> {
    if headers.contains_key(AUTHORIZATION) {
        return bearer(headers);
    }
    let mut tokens = offered(headers).filter_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL_PREFIX));
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        _ => Err(Failure::new(ErrorCode::TokenInvalid).saying("One bearer token is needed")),
    }
}

fn not_an_upgrade() -> Refusal {
    let failure = Failure::field("upgrade", "must be a WebSocket handshake (RFC 6455)");
    failure.with_http(StatusCode::BAD_REQUEST).into()
}

/// How many sockets are open.
pub fn open_sockets() -> i64 {
    OPEN.get()
}

static OPEN: std::sync::LazyLock<IntGauge> = std::sync::LazyLock::new(|| {
    prometheus::register_int_gauge!("edge_websockets_open", "Open WebSockets")
        .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
