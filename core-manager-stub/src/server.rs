//! The accept loop. It is our own because a handler must be able to reset its TCP connection, which axum's cannot.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

use crate::app::lock;
use crate::garbage::Garbage;
use crate::gauge::Gauge;

/// Well above what a gateway lets through: its own limit is what a test wants to see.
const MAX_HEADERS: usize = 1000;

/// The connection of a request, for handlers that break it off.
#[derive(Clone, Default)]
pub struct Connection {
    broken_off: CancellationToken,
    last_words: Arc<Mutex<Option<Garbage>>>,
}

impl Connection {
    /// Resets the connection. It does not come back: the task that awaits it ends with the connection.
    pub async fn reset(&self) {
        self.mark_reset();
        pending().await
    }

    /// Makes the connection end with a reset, at once or, for a WebSocket, when its owner drops it.
    pub fn mark_reset(&self) {
        self.broken_off.cancel();
    }

    /// Says garbage and closes the connection. It does not come back either.
    pub async fn say(&self, garbage: Garbage) {
        self.mark_garbage(garbage);
        pending().await
    }

    /// Makes the connection end with garbage, at once or, for a WebSocket, when its owner drops it.
    pub fn mark_garbage(&self, garbage: Garbage) {
        *lock(&self.last_words) = Some(garbage);
        self.broken_off.cancel();
    }
}

/// A TCP stream that ends as its connection is told to: with RST instead of FIN, or with garbage. Being the stream
/// itself it works in whoever's hands it is at the end: hyper's, or those of a WebSocket after the upgrade.
struct Socket {
    stream: TcpStream,
    connection: Connection,
    /// After how long a rest it ends as more arrives, in milliseconds; never for 0.
    keep_alive: Arc<AtomicU64>,
    /// When it last said something.
    spoke: Instant,
}

impl Socket {
    /// Whether it has rested for longer than connections are kept.
    fn is_stale(&self) -> bool {
        let keep_alive = self.keep_alive.load(Relaxed);
        keep_alive > 0 && self.spoke.elapsed() >= Duration::from_millis(keep_alive)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.connection.broken_off.is_cancelled() {
            return;
        }
        let Some(garbage) = lock(&self.connection.last_words).take() else {
            // It fails when the peer has gone already, and then there is nobody to reset.
            let _ = self.stream.set_zero_linger();
            return;
        };
        let again = self.stream.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
        if let Ok(stream) = again.and_then(TcpStream::from_std) {
            tokio::spawn(garbage.say(stream));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > filled && self.is_stale() {
            // As a server whose patience has just come to its end.
            buf.set_filled(filled);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.spoke = Instant::now();
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
pub async fn serve(
    listener: TcpListener,
    router: Router,
    closing: CancellationToken,
    keep_alive: Arc<AtomicU64>,
) {
    let connections = Gauge::default();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (open, answer) = (connections.enter(), answer(stream, router.clone(), closing.clone(), keep_alive.clone()));
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
async fn answer(stream: TcpStream, router: Router, closing: CancellationToken, keep_alive: Arc<AtomicU64>) {
    // Without it small frames wait for the peer's acknowledgement. Failure means that the peer has gone.
    let _ = stream.set_nodelay(true);
    let connection = Connection::default();
    let socket = Socket { stream, connection: connection.clone(), keep_alive, spoke: Instant::now() };
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
        () = connection.broken_off.cancelled() => return,
        () = closing.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = serving => {}
        () = connection.broken_off.cancelled() => {}
    }
}
