//! The accept loop of the public listener. axum's own sets no header timeout and no cap on connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use chassis::drain::Drain;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::bare_errors::ShapedErrors;
use crate::settings::FrontSettings;

/// The address that a connection comes from; in the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Largest header list of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// How long the loop pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain, then lets what runs finish within the drain's limit.
pub async fn serve(listener: TcpListener, router: Router, settings: &FrontSettings, drain: Drain) {
    let builder = Arc::new(builder(settings));
    let places = Arc::new(Semaphore::new(settings.connections));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            // A place first: connections beyond the cap wait in the kernel's queue instead of in our memory.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection =
                        connection(builder.clone(), stream, peer, router.clone(), graceful.watcher());
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = drain.stop_accepting() => {}
    }
    drop(listener);
    if tokio::time::timeout(drain.limit(), graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running at the end of the drain");
    }
}

fn builder(settings: &FrontSettings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

async fn connection(
    builder: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
) {
    // Small answers must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let io = TokioIo::new(ShapedErrors::new(stream));
    let serving = watcher.watch(builder.serve_connection_with_upgrades(io, service));
    if let Err(error) = serving.await {
        tracing::debug!(%error, %peer, "a connection ended");
    }
}
