//! `/ws`: the socket that a frontend keeps open. [`upgrade`] decides who gets one, [`socket`] does the I/O,
//! [`session`] decides what each message leads to, and [`upstream`] is the leg to core-manager.

mod envelope;
mod session;
mod socket;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::{IntoResponse, Response};
use chassis::drain::Drain;
use contract::{ErrorCode, Failure, Outcome};
use http::header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, StatusCode};
use prometheus::IntGauge;

use crate::answer::{Answer, Refusal};
use crate::claims::{Authenticator, Caller, bearer};
use crate::front::{Origins, RequestContext};
use crate::gateway::UpstreamUrl;
use crate::services::Services;
use crate::settings::SocketSettings;

/// The subprotocol that we speak.
const PROTOCOL: &str = "persona.v1";
/// Browsers cannot set `Authorization`, so the token comes as one more subprotocol.
const TOKEN_PROTOCOL_PREFIX: &str = "bearer.";
/// Read and write buffers of a socket, in bytes: ten thousand idle ones must be cheap.
const BUFFER_BYTES: usize = 4096;

/// What all sockets share.
pub struct Sockets {
    settings: SocketSettings,
    origins: Origins,
    authenticator: Authenticator,
    services: Services,
    core_manager: UpstreamUrl,
    drain: Drain,
    per_user: Mutex<HashMap<String, usize>>,
}

impl Sockets {
    pub fn new(
        settings: SocketSettings,
        origins: Origins,
        authenticator: Authenticator,
        services: Services,
        core_manager: UpstreamUrl,
        drain: Drain,
    ) -> Self {
        let per_user = Mutex::default();
        Sockets { settings, origins, authenticator, services, core_manager, drain, per_user }
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

/// GET `/ws`. The origin and the token are checked before 101.
pub async fn upgrade(
    State(sockets): State<Arc<Sockets>>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    if headers.get(ORIGIN).is_some_and(|origin| !sockets.origins.admits(origin)) {
        return Err(Failure::new(ErrorCode::Forbidden).saying("This origin is not allowed").into());
    }
    let caller = sockets.authenticator.verify(token(&headers)?)?;
    sockets.authenticator.count(&caller, &context).await?;
    let upgrade = upgrade.map_err(not_an_upgrade)?;
    let limit = sockets.settings.max_message_bytes;
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(BUFFER_BYTES + 16 * limit)
        .max_frame_size(limit)
        .max_message_size(limit);
    Ok(upgrade.on_upgrade(move |socket| open(sockets, caller, context, socket)).into_response())
}

async fn open(
    sockets: Arc<Sockets>,
    caller: Caller,
    context: RequestContext,
    socket: axum::extract::ws::WebSocket,
) {
    match sockets.place(caller.user_id()) {
        Some(place) => socket::run(sockets.clone(), place, caller, context, socket).await,
        None => socket::refuse(socket).await,
    }
}

/// The token of the `Authorization` header, or of the subprotocols; never of the URL, which ends up in logs.
fn token(headers: &HeaderMap) -> Outcome<&str> {
    if headers.contains_key(AUTHORIZATION) {
        return bearer(headers);
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let mut tokens = offered
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().strip_prefix(TOKEN_PROTOCOL_PREFIX));
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        _ => Err(Failure::new(ErrorCode::TokenInvalid).saying("One bearer token is needed")),
    }
}

fn not_an_upgrade(_: WebSocketUpgradeRejection) -> Refusal {
    let failure = Failure::field("upgrade", "must be a WebSocket handshake (RFC 6455)");
    failure.with_http(StatusCode::BAD_REQUEST).into()
}

static OPEN: std::sync::LazyLock<IntGauge> = std::sync::LazyLock::new(|| {
    prometheus::register_int_gauge!("edge_websockets_open", "Open WebSockets")
        .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
