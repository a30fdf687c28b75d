//! The connection to core-manager: pooled, streaming both ways, never repeating a request, never following a
//! redirect; with a timeout, a cap on waiting requests and a circuit breaker.

use std::error::Error;
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::body::Body;
use chassis::health::State;
use contract::{ErrorCode, Failure, Outcome};
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use prometheus::{IntCounter, IntCounterVec};

use super::answers::{Answering, OpenAnswers};
use super::bodies::{Upload, Uploading, within};
use super::breaker::Breaker;
use super::pool::{Answer, Fault, Pool};
use super::stragglers::Stragglers;
use crate::claims::Rights;
use crate::places::{Place, Places, Short, Slot};

/// The name of the service behind the gateway, in health and in error details.
pub const CORE_MANAGER: &str = "core-manager";

/// Where core-manager is: `http://host:port`, without a path.
#[derive(Clone, Debug)]
pub struct UpstreamUrl {
    authority: Authority,
    host: HeaderValue,
}

impl FromStr for UpstreamUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FAULT: &str = "must be http://host:port without a path";
        let uri: Uri = text.parse().map_err(|_| FAULT)?;
        let authority = uri.authority().cloned().ok_or(FAULT)?;
        if uri.scheme() != Some(&Scheme::HTTP) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(FAULT);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FAULT)?;
        Ok(UpstreamUrl { authority, host })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl UpstreamUrl {
    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }
}

/// core-manager, as the gateway reaches it.
pub struct Upstream {
    url: UpstreamUrl,
    pool: Pool,
    timeout: Duration,
    places: Places,
    stragglers: Stragglers,
    open_answers: OpenAnswers,
    breaker: Breaker,
}

/// Why there is no answer of core-manager.
#[derive(Debug)]
pub struct SendFault {
    pub failure: Failure,
    /// Whether the request may have had an effect all the same.
    pub may_have_arrived: bool,
}

/// What is found before a request is sent.
impl From<Failure> for SendFault {
    fn from(failure: Failure) -> Self {
        SendFault { failure, may_have_arrived: false }
    }
}

impl Upstream {
    pub fn new(url: UpstreamUrl, timeout: Duration, concurrency: usize) -> Self {
        let pool = Pool::new(url.authority.clone());
        let (places, stragglers) = (Places::new(concurrency), Stragglers::new(concurrency));
        let open_answers = OpenAnswers::new(concurrency);
        Upstream { url, pool, timeout, places, stragglers, open_answers, breaker: Breaker::default() }
    }

    /// Where core-manager is.
    pub fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    /// Sends a request on and gives the answer once it has begun. Either breaks off when its rights do not stand any more.
    ///
    /// # Errors
    /// GW001 when core-manager is away, GW002 when it does not answer in time, GW003 when too many already wait; AUTH003,
    /// AUTH004 when rights were taken while the request came.
    pub async fn send(
        &self,
        mut request: Request<Body>,
        rights: Rights,
    ) -> Result<Response<Answering>, SendFault> {
        // An upload takes its time; core-manager's begins when it has everything, or takes no more of it.
        let upload = (!request.body().is_end_stream()).then(Upload::default);
        let _place = self.place(rights.caller().slot(), upload.is_some()).map_err(|short| {
            RESULTS
                .with_label_values(&[if short == Short::All { "overloaded" } else { "share_used_up" }])
                .inc();
            Failure::from(short)
        })?;
        if !self.breaker.admits(millis) {
            RESULTS.with_label_values(&["circuit_open"]).inc();
            return Err(away().with_fact("circuit", "open").into());
        }
        self.aim(&mut request);
        if let Some(upload) = &upload {
            let (upload, rights, stragglers) = (upload.clone(), rights.clone(), self.stragglers.clone());
            request = request.map(|body| Body::new(Uploading::new(body, upload, rights, stragglers)));
        }
        let sending = pin!(self.pool.send(request));
        let answer = within(self.timeout, upload.as_ref(), sending).await;
        let response = self.judge(answer, upload.as_ref())?;
        Ok(response.map(|answer| Answering::new(answer, rights, &self.open_answers)))
    }

    /// A place for a request of a user who has room for what it may come to hold.
    fn place(&self, user: Slot, is_upload: bool) -> Result<Place, Short> {
        if self.open_answers.has_room(user) && (!is_upload || self.stragglers.has_room(user)) {
            self.places.take(user)
        } else {
            Err(Short::Share)
        }
    }

    /// How long core-manager may take to begin its answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Reaches core-manager in another way than by a request, under the same circuit. `connect` fails when core-manager
    /// is not there.
    ///
    /// # Errors
    /// GW001 when core-manager is away or the circuit is open, GW002 when it takes longer than `limit`.
    pub async fn attempt<T, E: Error + Send + Sync + 'static>(
        &self,
        limit: Duration,
        connect: impl Future<Output = Result<T, E>>,
    ) -> Outcome<T> {
        if !self.breaker.admits(millis) {
            return Err(away().with_fact("circuit", "open"));
        }
        match tokio::time::timeout(limit, connect).await {
            Ok(Ok(connected)) => {
                self.breaker.succeeded();
                Ok(connected)
            }
            Ok(Err(error)) => {
                self.breaker.failed(millis);
                Err(away().because(error))
            }
            Err(_) => {
                self.breaker.failed(millis);
                Err(Failure::new(ErrorCode::Timeout).with_fact("service", CORE_MANAGER))
            }
        }
    }

    fn aim(&self, request: &mut Request<Body>) {
        // The path's bytes are those that were matched and authorised.
        *request.uri_mut() =
            request.uri().path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone()));
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(HOST, self.url.host.clone());
        // Extensions of the incoming request mean nothing to the client.
        request.extensions_mut().clear();
    }

    fn judge(
        &self,
        answer: Result<Result<Response<Answer>, Fault>, ()>,
        upload: Option<&Upload>,
    ) -> Result<Response<Answer>, SendFault> {
        // Whoever keeps core-manager waiting says nothing about it.
        let awaits_client = upload.is_some_and(Upload::awaits_client);
        match answer {
            Ok(Ok(response)) => {
                self.breaker.succeeded();
                ANSWERED.inc();
                Ok(response)
            }
            Ok(Err(error)) if error.is_callers() => {
                let (result, failure) = match upload.and_then(Upload::broken_off) {
                    Some(failure) => ("broken_off", failure),
                    None => {
                        let fault = Failure::field("body", "ended before it was complete");
                        ("client_gone", fault.because(error))
                    }
                };
                RESULTS.with_label_values(&[result]).inc();
                Err(SendFault { failure, may_have_arrived: true })
            }
            Ok(Err(error)) => {
                if !awaits_client {
                    self.breaker.failed(millis);
                }
                RESULTS.with_label_values(&["away"]).inc();
                let may_have_arrived = error.may_have_arrived();
                Err(SendFault { failure: away().because(error), may_have_arrived })
            }
            Err(()) if awaits_client => {
                RESULTS.with_label_values(&["client_gone"]).inc();
                let failure = Failure::field("body", "did not go on for too long");
                Err(SendFault { failure, may_have_arrived: true })
            }
            Err(()) => {
                self.breaker.failed(millis);
                RESULTS.with_label_values(&["timeout"]).inc();
                let failure = Failure::new(ErrorCode::Timeout).with_fact("service", CORE_MANAGER);
                Err(SendFault { failure, may_have_arrived: true })
            }
        }
    }

    /// Whether core-manager takes connections and answers at all, whatever it answers.
    pub async fn probe(&self) -> State {
        let request = Request::get("/health").header(HOST, self.url.host.clone()).body(Body::empty());
        let Ok(request) = request else {
            return State::Unhealthy;
        };
        match self.pool.send(request).await {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => State::Unhealthy,
            Ok(answer) if answer.status().is_server_error() => State::Degraded,
            Ok(_) => State::Healthy,
            Err(_) => State::Unhealthy,
        }
    }
}

/// GW001 for core-manager.
pub fn away() -> Failure {
    Failure::new(ErrorCode::Unavailable).with_fact("service", CORE_MANAGER)
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub fn millis() -> u64 {
    STARTED.elapsed().as_millis() as u64
}

/// Looked up once: it is counted on every request.
static ANSWERED: LazyLock<IntCounter> = LazyLock::new(|| RESULTS.with_label_values(&["answered"]));

static RESULTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_upstream_requests_total",
        "Requests to core-manager by what came of them",
        &["result"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_plain_place() {
        assert!("http://127.0.0.1:8082".parse::<UpstreamUrl>().is_ok());
        for bad in ["", "core", "https://a:1", "http://a:1/x", "http://a?b"] {
            assert!(bad.parse::<UpstreamUrl>().is_err(), "{bad}");
        }
    }
}
