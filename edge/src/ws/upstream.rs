//! The leg of a socket to core-manager, opened with the first message that has to get there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::{Failure, Outcome};
use http::Request;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::BUFFER_BYTES;
use super::side::{Event, Outlet, Side};
use crate::claims::Caller;
use crate::front::{REQUEST_ID, RequestContext, TRACEPARENT};
use crate::gateway::{Gateway, UpstreamUrl, identity_headers, upstream_away};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A core-manager that takes longer than this to accept a message does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest message that core-manager may send, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// An open connection to core-manager.
pub struct Leg {
    side: Side<TcpStream>,
    /// When core-manager was pinged, if it has not been heard since.
    pinged: Option<Instant>,
    /// The version of the claims that core-manager was told.
    pub version: i64,
}

/// What happens at a leg.
pub enum Heard {
    /// All that was said has left.
    Sent,
    Text(String),
    Gone,
    /// core-manager does not read.
    Unread,
    /// core-manager sent what is no message, or too large a one.
    Unfit(Error),
}

impl Leg {
    /// Connects in the name of the caller.
    ///
    /// # Errors
    /// GW001 when core-manager is away or refuses, or the circuit is open; GW002 when it does not answer in time.
    pub async fn open(gateway: Arc<Gateway>, caller: Caller, context: RequestContext) -> Outcome<Box<Leg>> {
        let upstream = gateway.upstream();
        let mut request = handshake(upstream.url(), &caller, &context)?;
        if let Some(signer) = gateway.signer() {
            signer.sign(&mut request)?;
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(MAX_MESSAGE_BYTES + BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES));
        let authority = upstream.url().authority();
        let connect = async {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let stream = Outlet::new(stream);
            match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
                Ok((stream, _)) => Ok(Ok(stream)),
                // An answer, though not the one that was wanted: core-manager is there.
                Err(error @ Error::Http(_)) => Ok(Err(upstream_away().because(error))),
                Err(error) => Err(error),
            }
        };
        let stream = upstream.attempt(CONNECT_TIMEOUT, connect).await??;
        Ok(Box::new(Leg {
            side: Side::new(stream, SEND_TIMEOUT),
            pinged: None,
            version: caller.claims().ver,
        }))
    }

    /// Passes a text on; it leaves with [`Leg::event`].
    ///
    /// # Errors
    /// GW001 when core-manager is gone or does not read.
    pub fn say(&mut self, text: String) -> Outcome<()> {
        self.side.say(Message::text(text)).map_err(|error| upstream_away().because(error))
    }

    /// Asks core-manager whether it is there. Gives whether it has been heard within `patience` of being asked before.
    pub fn ping(&mut self, patience: Duration) -> bool {
        match self.pinged {
            Some(at) => at.elapsed() < patience,
            None => {
                self.pinged = Some(Instant::now());
                self.side.say(Message::Ping(Bytes::new())).is_ok()
            }
        }
    }

    /// Whether all that was passed on has left.
    pub fn is_clear(&self) -> bool {
        self.side.is_clear()
    }

    /// What happens next; nothing is received unless `listening`. Dropping the future loses nothing.
    pub async fn event(&mut self, listening: bool) -> Heard {
        loop {
            let event = self.side.event(listening).await;
            if matches!(event, Event::Received(_)) {
                self.pinged = None;
            }
            match event {
                Event::Sent => return Heard::Sent,
                Event::Unread => return Heard::Unread,
                Event::Received(Message::Text(text)) => return Heard::Text(text.as_str().to_owned()),
                Event::Received(Message::Close(_)) | Event::Gone => return Heard::Gone,
                Event::Failed(error @ (Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_)))
                    if !matches!(error, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) =>
                {
                    return Heard::Unfit(error);
                }
                Event::Failed(_) => return Heard::Gone,
                Event::Received(Message::Binary(_)) => {
                    tracing::warn!("core-manager sent a binary frame, which has no meaning")
                }
                Event::Received(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            }
        }
    }
}

fn handshake(url: &UpstreamUrl, caller: &Caller, context: &RequestContext) -> Outcome<Request<()>> {
    let mut request = Request::get(format!("ws://{}/ws", url.authority()))
        .header("host", url.authority())
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header(REQUEST_ID, context.id_header())
        .header(TRACEPARENT, context.traceparent())
        .header("x-forwarded-for", context.client().header())
        .body(())
        .map_err(Failure::internal)?;
    request.headers_mut().extend(identity_headers(caller)?.iter().cloned());
    Ok(request)
}
