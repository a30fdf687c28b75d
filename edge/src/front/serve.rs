//! The accept loop of the public listener. axum's own sets no timeouts and no cap on connections.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use chassis::descriptors;
use chassis::drain::Drain;
use contract::{ErrorCode, Failure, Outcome};
use http::Request;
use http::header::UPGRADE;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutWriter;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::bare_errors::ShapedErrors;
use super::crowd::{Crowd, Seat};
use super::patience::{Activity, Answering, Ceased};
use super::{Client, Limit, forwarded_for};
use crate::routes::Public;
use crate::settings::{FrontSettings, Patience};

/// The place of a connection among those that are served; in the extensions of requests that ask for an upgrade, since
/// the connection outlives their answer.
#[derive(Clone)]
pub struct ConnectionPlace {
    _permit: Arc<(OwnedSemaphorePermit, Option<Seat>)>,
    /// That of the request, where requests are counted.
    _seat: Option<Arc<Seat>>,
}

/// What an answer of HTTP/2 may have waiting to be written, in bytes: a client that reads nothing holds as much for
/// each of its requests.
const MAX_SEND_BYTES: usize = 64 * 1024;
/// Streams of HTTP/2 that break a rule, and are reset by us, before the connection is closed (CVE-2025-8671).
const MAX_OWN_RESETS: usize = 100;
/// How long the loop pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain, then lets what runs finish within the drain's limit.
pub async fn serve(listener: TcpListener, public: Public, settings: &FrontSettings, drain: Drain) {
    let guests = Arc::new(Guests {
        builder: builder(settings),
        public,
        patience: settings.patience,
        resets: settings.http2.resets,
        trusted_hops: settings.trusted_hops,
        crowd: Crowd::new(settings.per_address),
    });
    let places = Arc::new(Semaphore::new(settings.connections));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            // A place first: connections beyond the cap wait in the kernel's queue instead of in our memory.
            if places.available_permits() == 0 {
                Limit::Connections.bites();
            }
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Who holds too many already learns it by the end of this one, which costs us the least.
                    let Some(seat) = guests.seat_of_connection(peer) else { continue };
                    let place = ConnectionPlace { _permit: Arc::new((place, seat)), _seat: None };
                    let connection = Connection::new(guests.clone(), peer, place);
                    tokio::spawn(connection.serve(stream, graceful.watcher()));
                }
                Err(error) => {
                    if descriptors::are_spent(&error) {
                        Limit::Descriptors.bites();
                    }
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
        // It would close connections between requests, too: see `Activity::ceases`.
        .header_read_timeout(None)
        .max_buf_size(settings.header_limit);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.http2.streams)
        // The library answers what is larger without a body; up to here we do it, with one.
        .max_header_list_size(u32::try_from(2 * settings.header_limit).unwrap_or(u32::MAX))
        .max_send_buf_size(MAX_SEND_BYTES)
        .max_local_error_reset_streams(MAX_OWN_RESETS)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// What all connections share.
struct Guests {
    builder: Builder<TokioExecutor>,
    public: Public,
    patience: Patience,
    resets: u32,
    trusted_hops: usize,
    crowd: Crowd,
}

impl Guests {
    /// The seat of a connection, where connections are counted; `None` when its address has no more.
    fn seat_of_connection(&self, peer: SocketAddr) -> Option<Option<Seat>> {
        if self.trusted_hops > 0 {
            return Some(None);
        }
        self.seat(peer.ip()).map(Some)
    }

    /// The seat of a request, where requests are counted.
    ///
    /// # Errors
    /// GW003 when its address has no more.
    fn seat_of_request(&self, request: &Request<Incoming>, peer: SocketAddr) -> Outcome<Option<Arc<Seat>>> {
        if self.trusted_hops == 0 {
            return Ok(None);
        }
        let address = forwarded_for(request, self.trusted_hops).unwrap_or(peer.ip());
        match self.seat(address) {
            Some(seat) => Ok(Some(Arc::new(seat))),
            None => Err(Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))),
        }
    }

    fn patiently(&self, request: Request<Incoming>) -> Request<Body> {
        request.map(|body| patient(body, self.patience.stall))
    }

    fn seat(&self, address: IpAddr) -> Option<Seat> {
        let seat = self.crowd.seat(address);
        if seat.is_none() {
            Limit::PerAddress.bites();
        }
        seat
    }
}

/// A body that fails when it makes no progress. To wait for none takes no timer.
fn patient(body: Incoming, stall: Duration) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    Body::new(TimeoutBody::new(stall, body).map_err(|error| {
        if error.is::<TimeoutError>() {
            Limit::Stall.bites();
        }
        error
    }))
}

/// An accepted connection. Its requests share it, so that each costs one count of references.
struct Connection {
    guests: Arc<Guests>,
    peer: SocketAddr,
    client: Client,
    activity: Arc<Activity>,
    place: ConnectionPlace,
}

impl Connection {
    fn new(guests: Arc<Guests>, peer: SocketAddr, place: ConnectionPlace) -> Arc<Self> {
        let activity = Arc::new(Activity::new(guests.resets));
        Arc::new(Connection { guests, peer, client: Client::new(peer.ip()), activity, place })
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, watcher: Watcher) {
        let peer = self.peer;
        // Small answers must not wait for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let patience = self.guests.patience;
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(patience.stall));
        let io = TokioIo::new(ShapedErrors::new(Box::pin(stream), self.activity.clone()));
        let requests = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let running = requests.activity.begin(request.version());
            let connection = requests.clone();
            async move {
                let (response, seat) = connection.answer(request).await;
                Ok::<_, Infallible>(response.map(|body| Answering::new(body, running, seat)))
            }
        });
        let serving = watcher.watch(self.guests.builder.serve_connection_with_upgrades(io, service));
        tokio::select! {
            outcome = serving => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, %peer, "a connection ended");
                    if let Some(limit) = limit_met(&*error, &self.activity) {
                        limit.bites();
                    }
                }
            }
            ceased = self.activity.ceases(patience.headers, patience.idle, patience.stall) => {
                tracing::debug!(%peer, ?ceased, "a connection of no use was closed");
                match ceased {
                    Ceased::Unheard => Limit::HeaderTime.bites(),
                    Ceased::Idle => Limit::Idle.bites(),
                    Ceased::Stalled => Limit::Stall.bites(),
                }
            }
        }
    }

    /// The answer to a request, with the seat that it holds until it was sent.
    async fn answer(&self, mut request: Request<Incoming>) -> (Response, Option<Arc<Seat>>) {
        let seat = match self.guests.seat_of_request(&request, self.peer) {
            Ok(seat) => seat,
            Err(failure) => {
                let refusing =
                    self.guests.public.refuse(&self.client, self.guests.patiently(request), failure);
                return (Box::pin(refusing).await, None);
            }
        };
        if request.headers().contains_key(UPGRADE) {
            // Only a socket keeps it: everybody may ask for an upgrade, and be answered as if they had not.
            let place = ConnectionPlace { _seat: seat.clone(), ..self.place.clone() };
            request.extensions_mut().insert(place);
        }
        (self.guests.public.answer(&self.client, self.guests.patiently(request)).await, seat)
    }
}

/// The limit that a connection was ended by, if it was one.
fn limit_met(error: &(dyn Error + 'static), activity: &Activity) -> Option<Limit> {
    if activity.is_overdone() {
        return Some(Limit::Http2Resets);
    }
    let mut source = Some(error);
    while let Some(error) = source {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            return Some(Limit::HeaderSize);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>()
            && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        {
            return Some(Limit::Http2Frames);
        }
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Some(Limit::Stall);
        }
        source = error.source();
    }
    None
}
