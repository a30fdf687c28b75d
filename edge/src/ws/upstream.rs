//! The leg of a socket to core-manager, opened with the first message that has to get there.

use std::time::Duration;

use contract::{Failure, Outcome};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::BUFFER_BYTES;
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::gateway::{UpstreamUrl, identity_headers, upstream_away};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest message that core-manager may send, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// An open connection to core-manager.
pub struct Leg(WebSocketStream<TcpStream>);

impl Leg {
    /// Connects in the name of the caller.
    ///
    /// # Errors
    /// GW001 when core-manager is away or refuses.
    pub async fn open(url: &UpstreamUrl, caller: &Caller, context: &RequestContext) -> Outcome<Leg> {
        let request = handshake(url, caller, context)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(MAX_MESSAGE_BYTES + BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES));
        let connect = async {
            let stream = TcpStream::connect(url.authority()).await?;
            stream.set_nodelay(true)?;
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok((stream, _))) => Ok(Leg(stream)),
            Ok(Err(error)) => Err(upstream_away().because(error)),
            Err(_) => Err(upstream_away()),
        }
    }

    /// Passes a text on.
    ///
    /// # Errors
    /// GW001 when core-manager is gone or does not read.
    pub async fn send(&mut self, text: String) -> Outcome<()> {
        match tokio::time::timeout(SEND_TIMEOUT, self.0.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(upstream_away().because(error)),
            Err(_) => Err(upstream_away()),
        }
    }

    /// The next text of core-manager; `None` when it has gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(Message::Binary(_)) => {
                    tracing::warn!("core-manager sent a binary frame, which has no meaning")
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
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
        .header("x-request-id", context.id_header())
        .header("traceparent", context.traceparent())
        .header("x-forwarded-for", context.client().to_string())
        .body(())
        .map_err(Failure::internal)?;
    request.headers_mut().extend(identity_headers(caller)?.iter().cloned());
    Ok(request)
}
