use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::{BoxError, Service};

use super::tls::Tls;
use super::{CALL_TIMEOUT, Settings, call, handshakes, meters};
use crate::health::State;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PROBE_INTERVAL: Duration = Duration::from_millis(300);
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
/// How much of an answer may lie unread, in bytes. Of the 5 MB that a connection may hold, with the default of 2 MB three
/// exports that are read slowly leave nothing to all other calls.
const STREAM_WINDOW: u32 = 64 * 1024;

/// A channel to the replicas of a service: adds the internal token and what the call that is being served hands down,
/// and goes round those that are healthy. Cheap to clone.
#[derive(Clone)]
pub struct InternalChannel(Arc<Replicas>);

struct Replicas {
    replicas: Vec<Replica>,
    next: AtomicUsize,
    authorization: HeaderValue,
    connect: Box<dyn Fn(&Uri) -> Channel + Send + Sync>,
}

struct Replica {
    uri: Uri,
    /// Made anew when those at both ends would not trust each other any more.
    channel: ArcSwap<Channel>,
    serving: AtomicBool,
}

/// A channel to the given replicas. Connections are made when needed, and again whenever they are lost; the health
/// of each replica is probed from now on.
pub fn channel(replicas: &[Uri], settings: &Settings) -> InternalChannel {
    settings.tls.keep_current();
    let tls = settings.tls.clone();
    channel_over(replicas, settings, move |uri| connect(uri, &tls))
}

/// As [`channel`], over connections that are made otherwise, as in the simulation.
pub fn channel_over(
    replicas: &[Uri],
    settings: &Settings,
    connect: impl Fn(&Uri) -> Channel + Send + Sync + 'static,
) -> InternalChannel {
    let mut authorization = HeaderValue::from_str(&settings.token.authorization())
        // A token with a control character cannot be sent; every call is then refused, which says why.
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    authorization.set_sensitive(true);
    let replica = |uri: &Uri| Replica {
        uri: uri.clone(),
        channel: ArcSwap::from_pointee(connect(uri)),
        serving: AtomicBool::new(false),
    };
    let replicas = Replicas {
        replicas: replicas.iter().map(replica).collect(),
        next: AtomicUsize::new(0),
        authorization,
        connect: Box::new(connect),
    };
    let channel = InternalChannel(Arc::new(replicas));
    for place in 0..channel.0.replicas.len() {
        tokio::spawn(probe(Arc::downgrade(&channel.0), place, settings.tls.clone()));
    }
    channel
}

fn connect(uri: &Uri, tls: &Tls) -> Channel {
    if uri.scheme() == Some(&Scheme::HTTPS) {
        handshakes::channel(uri, tls.clone(), endpoint)
    } else {
        endpoint(uri.clone()).connect_lazy()
    }
}

/// How a replica is called, however the connection to it is made.
pub fn endpoint(uri: Uri) -> Endpoint {
    Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
}

async fn probe(replicas: std::sync::Weak<Replicas>, place: usize, tls: Tls) {
    let mut trust = tls.trust();
    while let Some(all) = replicas.upgrade() {
        let replica = &all.replicas[place];
        if trust.is_cancelled() {
            // What was begun goes on in the former one for as long as that lasts.
            trust = tls.trust();
            replica.channel.store(Arc::new((all.connect)(&replica.uri)));
        }
        let mut client = HealthClient::new(replica.channel());
        let check = tokio::time::timeout(PROBE_TIMEOUT, client.check(HealthCheckRequest::default())).await;
        let serving =
            check.is_ok_and(|answer| answer.is_ok_and(|a| a.get_ref().status() == ServingStatus::Serving));
        replica.serving.store(serving, Ordering::Relaxed);
        drop(all);
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

impl Replica {
    fn channel(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }
}

impl InternalChannel {
    /// Healthy when every replica serves, degraded when some do.
    pub fn state(&self) -> State {
        let serving = self.0.replicas.iter().filter(|r| r.serving.load(Ordering::Relaxed)).count();
        match serving {
            0 => State::Unhealthy,
            n if n == self.0.replicas.len() => State::Healthy,
            _ => State::Degraded,
        }
    }

    /// Whether one dependency of the service works, as the service itself reports it.
    pub async fn dependency(&self, name: &'static str) -> State {
        let request = HealthCheckRequest { service: name.to_owned() };
        let answer = HealthClient::new(self.clone()).check(request).await;
        match answer {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => State::Healthy,
            _ => State::Unhealthy,
        }
    }

    /// The next replica that serves; when none is known to, the next one all the same, whose own error then tells.
    fn pick(&self) -> &Replica {
        let replicas = &self.0.replicas;
        let first = self.0.next.fetch_add(1, Ordering::Relaxed);
        let place = (0..replicas.len())
            .map(|step| (first + step) % replicas.len())
            .find(|place| replicas[*place].serving.load(Ordering::Relaxed))
            .unwrap_or(first % replicas.len());
        &replicas[place]
    }
}

impl Service<Request<Body>> for InternalChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(AUTHORIZATION, self.0.authorization.clone());
        call::hand_down(request.headers_mut());
        let (channel, path) = (self.clone(), request.uri().path().to_owned());
        Box::pin(async move {
            let since = Instant::now();
            let outcome = channel.send(request).await;
            meters::called(&path, outcome.as_ref().ok().map(Response::headers), since);
            outcome
        })
    }
}

impl InternalChannel {
    /// Sends a call to a replica, to the next one when it could not be reached at all, and once more when its connection
    /// was just closing. A call that may have arrived is never sent twice.
    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        // Calls are unary or have one message: what is to be sent again must be at hand.
        let message = body.collect().await?.to_bytes();
        let (mut attempt, mut was_late) = (1, false);
        loop {
            let replica = self.pick();
            let mut channel = replica.channel();
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            let request = Request::from_parts(parts.clone(), Body::new(Full::new(message.clone())));
            match channel.call(request).await {
                Err(error) if is_unreached(&error) => {
                    replica.serving.store(false, Ordering::Relaxed);
                    if attempt == self.0.replicas.len() {
                        return Err(error.into());
                    }
                    attempt += 1;
                }
                Err(error) if !was_late && was_not_sent(&error) => was_late = true,
                outcome => return outcome.map_err(Into::into),
            }
        }
    }
}

fn is_unreached(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<tonic::ConnectError>())
}

/// Whether the connection was given up before anything of the call left, or the other side says that it has not looked
/// at it (RFC 9113 sections 6.8 and 8.7).
fn was_not_sent(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref().is_some_and(hyper::Error::is_canceled)
            || cause.downcast_ref().is_some_and(|error: &h2::Error| {
                let is_end = error.is_go_away() && error.is_remote();
                is_end && error.reason() == Some(h2::Reason::NO_ERROR)
                    || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            })
    })
}

/// An error and what it comes from.
fn causes<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause| StdError::source(*cause))
}
