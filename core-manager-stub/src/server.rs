//! The accept loop. It is our own because a handler must be able to reset its TCP connection, which axum's cannot.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::gauge::Gauge;

/// Well above what a gateway lets through: its own limit is what a test wants to see.
const MAX_HEADERS: usize = 1000;

/// The connection of a request, for handlers that break it off.
#[derive(Clone, Default)]
pub struct Connection(CancellationToken);

impl Connection {
    /// Resets the connection. It does not come back: the task that awaits it ends with the connection.
    pub async fn reset(&self) {
        self.mark_reset();
        pending().await
    }

    /// Makes the connection end with a reset, at once or, for a WebSocket, when its owner drops it.
    pub fn mark_reset(&self) {
        self.0.cancel();
    }
}

/// A TCP stream that ends with RST, not FIN, once its connection is marked. Being the stream itself it works in
/// whoever's hands it is at the end: hyper's, or those of a WebSocket after the upgrade.
struct Socket {
    stream: TcpStream,
    connection: Connection,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.0.is_cancelled() {
            // It fails when the peer has gone already, and then there is nobody to reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts until the process is told to end, then waits for what runs.
pub async fn serve(listener: TcpListener, router: Router, closing: CancellationToken) {
    let connections = Gauge::default();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (open, answer) = (connections.enter(), answer(stream, router.clone(), closing.clone()));
                    tokio::spawn(async move {
                        answer.await;
                        drop(open);
                    });
                }
                // Out of file descriptors, most likely: to try again at once would only spin.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    connections.emptied().await;
}

/// Answers the requests of one connection until either side, a handler, or the end of the process ends it.
async fn answer(stream: TcpStream, router: Router, closing: CancellationToken) {
    // Without it small frames wait for the peer's acknowledgement. Failure means that the peer has gone.
    let _ = stream.set_nodelay(true);
    let connection = Connection::default();
    let socket = Socket { stream, connection: connection.clone() };
    let for_handlers = connection.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(for_handlers.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    // Errors are the peer's, or were asked for by a switch.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = connection.0.cancelled() => return,
        () = closing.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = serving => {}
        () = connection.0.cancelled() => {}
    }
}
