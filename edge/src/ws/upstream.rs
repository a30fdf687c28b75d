//! The leg of a socket to core-manager, opened with the first message that has to get there.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::{Failure, Outcome};
use futures_util::future::{Either, select};
use http::header::{
    CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Parts};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::side::{Event, Outlet, Side};
use super::{BUFFER_BYTES, READ_BYTES};
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
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(MAX_MESSAGE_BYTES + BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES));
        let authority = upstream.url().authority();
        let connect = async {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let answered = shake_hands(stream, request).await?;
            Ok::<_, Unanswered>(answered.map_err(|refused| upstream_away().because(refused)))
        };
        let Parts { io, read_buf, .. } = upstream.attempt(CONNECT_TIMEOUT, connect).await??;
        let (stream, begun) = (Outlet::new(io.into_inner()), read_buf.to_vec());
        let stream = WebSocketStream::from_partially_read(stream, begun, Role::Client, Some(config)).await;
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

/// core-manager is not there.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// core-manager is there, and answered otherwise than by opening a WebSocket.
#[derive(Debug, thiserror::Error)]
#[error("core-manager answered {0} instead of opening a WebSocket (RFC 6455)")]
struct Refused(StatusCode);

/// Opens a WebSocket. By hyper, because the handshake of the WebSocket library leaves its buffer with the stream,
/// 4 KiB for each socket.
async fn shake_hands(
    stream: TcpStream,
    request: Request<Body>,
) -> Result<Result<Parts<TokioIo<TcpStream>>, Refused>, Unanswered> {
    let accepted = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let agrees = |response: Response<Incoming>| {
        let is_open = response.status() == StatusCode::SWITCHING_PROTOCOLS
            && is_agreement(response.headers(), accepted.as_deref().unwrap_or_default());
        if is_open { Ok(()) } else { Err(Refused(response.status())) }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = pin!(connection.without_shutdown());
    let answer = pin!(sender.send_request(request));
    // The connection ends with the answer when that is the one that was asked for.
    match select(answer, connection).await {
        Either::Left((answer, connection)) => match agrees(answer?) {
            Ok(()) => Ok(Ok(connection.await?)),
            Err(refused) => Ok(Err(refused)),
        },
        Either::Right((connection, answer)) => match agrees(answer.await?) {
            Ok(()) => Ok(Ok(connection?)),
            Err(refused) => Ok(Err(refused)),
        },
    }
}

/// Whether the headers of a 101 are those of this handshake (RFC 6455 section 4.1), which asked for no extension and no
/// subprotocol.
fn is_agreement(headers: &HeaderMap, accepted: &str) -> bool {
    let names = |header: &HeaderName, word: &str| {
        let words =
            headers.get_all(header).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        words.map(<[u8]>::trim_ascii).any(|named| named.eq_ignore_ascii_case(word.as_bytes()))
    };
    names(&UPGRADE, "websocket")
        && names(&CONNECTION, "upgrade")
        && headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == accepted)
        && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
        && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
}

fn handshake(url: &UpstreamUrl, caller: &Caller, context: &RequestContext) -> Outcome<Request<Body>> {
    let mut request = Request::get("/ws")
        .header(HOST, url.authority())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .header(REQUEST_ID, context.id_header())
        .header(TRACEPARENT, context.traceparent())
        .header("x-forwarded-for", context.client().header())
        .body(Body::empty())
        .map_err(Failure::internal)?;
    request.headers_mut().extend(identity_headers(caller)?.iter().cloned());
    Ok(request)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_handshake_is_agreed_to_only_with_all_that_it_asked_for() {
        let agreed = |headers: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            is_agreement(&headers.iter().map(pair).collect(), "key")
        };
        let whole = [("upgrade", "WebSocket"), ("connection", "x, Upgrade"), ("sec-websocket-accept", "key")];
        assert!(agreed(&whole));
        for missing in 0..whole.len() {
            let rest: Vec<_> =
                whole.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, h)| *h).collect();
            assert!(!agreed(&rest), "without {:?}", whole[missing]);
        }
        for other in [("upgrade", "h2c"), ("connection", "close"), ("sec-websocket-accept", "other")] {
            let changed: Vec<_> =
                whole.iter().map(|header| if header.0 == other.0 { other } else { *header }).collect();
            assert!(!agreed(&changed), "{other:?}");
        }
        for unasked in [("sec-websocket-extensions", "permessage-deflate"), ("sec-websocket-protocol", "a")] {
            assert!(!agreed(&[&whole[..], &[unasked]].concat()), "{unasked:?}");
        }
    }
}
