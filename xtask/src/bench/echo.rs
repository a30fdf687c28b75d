//! Upstreams of our own: one for bodies of 1 GiB, and one that sends back every text of a WebSocket.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::Outcome;

/// 1 GiB.
pub const LARGE: u64 = 1 << 30;
/// In how large pieces it goes.
pub const PIECE: usize = 64 * 1024;

/// A server inside this process; it ends with its owner.
pub struct Inside {
    pub address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Inside {
    /// Serves each connection in a task of its own, all of which end with the server.
    async fn serve<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> Outcome<Inside>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Small answers must not wait for an acknowledgement; without it they are only slower.
                let _ = stream.set_nodelay(true);
                connections.spawn(each(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Inside { address, accepting: accepting.abort_handle() })
    }

    /// Answers a GET with 1 GiB, and a POST with how many bytes came.
    pub async fn large_bodies() -> Outcome<Inside> {
        Inside::serve(|stream| async move {
            let serving = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no fault of ours.
            let _ = serving.serve_connection(TokioIo::new(stream), service_fn(large)).await;
        })
        .await
    }

    /// Sends every text back.
    pub async fn web_sockets() -> Outcome<Inside> {
        Inside::serve(|stream| async move {
            let Ok(mut socket) =
                tokio_tungstenite::accept_async_with_config(stream, Some(small_buffers())).await
            else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                    return;
                }
            }
        })
        .await
    }
}

/// Thousands of sockets are open on our side as well.
pub fn small_buffers() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0)
}

async fn large(request: Request<Incoming>) -> hyper::Result<Response<BoxBody<Bytes, Infallible>>> {
    if request.method() == Method::GET {
        static ZEROS: [u8; PIECE] = [0; PIECE];
        let pieces =
            stream::iter(0..LARGE / PIECE as u64).map(|_| Ok(Frame::data(Bytes::from_static(&ZEROS))));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
        response.headers_mut().insert(CONTENT_LENGTH, LARGE.into());
        return Ok(response);
    }
    let (mut body, mut bytes) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(Response::new(Full::new(Bytes::from(bytes.to_string())).boxed()))
}
