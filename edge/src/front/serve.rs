//! The accept loop of the public listener. axum's own sets no timeouts and no cap on connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use chassis::drain::Drain;
use http::Request;
use http::header::UPGRADE;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutWriter;
use tower_http::timeout::TimeoutBody;

use super::Client;
use super::bare_errors::ShapedErrors;
use super::patience::{Activity, Answering};
use crate::routes::Public;
use crate::settings::{FrontSettings, Patience};

/// The place of a connection among those that are served; in the extensions of requests that ask for an upgrade, since
/// the connection outlives their answer.
#[derive(Clone)]
pub struct ConnectionPlace {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Largest header list of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// How long the loop pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain, then lets what runs finish within the drain's limit.
pub async fn serve(listener: TcpListener, public: Public, settings: &FrontSettings, drain: Drain) {
    let builder = Arc::new(builder(settings));
    let patience = settings.patience;
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
                    let place = ConnectionPlace { _permit: Arc::new(place) };
                    let connection = Connection { stream, peer, patience, place };
                    tokio::spawn(connection.serve(builder.clone(), public.clone(), graceful.watcher()));
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
        .header_read_timeout(settings.patience.headers)
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

/// A body that fails when it makes no progress. To wait for none takes no timer.
fn patient(body: Incoming, stall: Duration) -> Body {
    if body.is_end_stream() { Body::empty() } else { Body::new(TimeoutBody::new(stall, body)) }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    patience: Patience,
    place: ConnectionPlace,
}

impl Connection {
    async fn serve(self, builder: Arc<Builder<TokioExecutor>>, public: Public, watcher: Watcher) {
        let Connection { stream, peer, patience, place } = self;
        // Small answers must not wait for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let client = Client::new(peer.ip());
        let activity = Arc::new(Activity::default());
        let requests = activity.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let running = requests.begin();
            if request.headers().contains_key(UPGRADE) {
                request.extensions_mut().insert(place.clone());
            }
            let (public, client) = (public.clone(), client.clone());
            async move {
                let request = request.map(|body| patient(body, patience.stall));
                let response = public.answer(&client, request).await;
                Ok::<_, Infallible>(response.map(|body| Answering::new(body, running)))
            }
        });
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(patience.stall));
        let io = TokioIo::new(ShapedErrors::new(Box::pin(stream), activity.clone()));
        let serving = watcher.watch(builder.serve_connection_with_upgrades(io, service));
        tokio::select! {
            outcome = serving => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, %peer, "a connection ended");
                }
            }
            () = activity.ceases(patience.headers, patience.idle) => {
                tracing::debug!(%peer, "an idle connection was closed");
            }
        }
    }
}
