//! What every request of the public listener passes first and every answer last: ids, path rules, CORS, security
//! headers, panics, error bodies, metrics and the access log.

mod bare_errors;
mod cors;
mod framing;
mod ids;
mod path;
mod patience;
mod serve;

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chassis::traces;
use contract::{ErrorCode, Failure};
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Method};
use prometheus::{HistogramVec, IntCounterVec};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::answer::{self, Refusal};
use crate::gateway::RouteLabel;

pub use cors::Origins;
pub use ids::RequestIds;
pub use serve::{ConnectionPlace, Peer, serve};

/// What is known of a request before anything looks at it; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Known>);

#[derive(Debug)]
struct Known {
    ids: RequestIds,
    client: IpAddr,
    scheme: &'static str,
}

impl RequestContext {
    /// The id of the request, as the `X-Request-ID` header of the answer says it.
    pub fn id(&self) -> &str {
        self.0.ids.request_id()
    }

    /// The `X-Request-ID` header.
    pub fn id_header(&self) -> HeaderValue {
        self.0.ids.request_id_header()
    }

    /// The W3C `traceparent` for calls that this request causes.
    pub fn traceparent(&self) -> HeaderValue {
        self.0.ids.traceparent()
    }

    /// How the client reached the outermost trusted proxy, or us: `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        self.0.scheme
    }

    /// The address of the client, behind the trusted proxies.
    pub fn client(&self) -> IpAddr {
        self.0.client
    }
}

/// The settings of [`pass`].
pub struct Front {
    pub origins: Origins,
    pub trusted_hops: usize,
}

/// What surrounds the serving of every request.
pub async fn pass<F: Future<Output = Response>>(
    front: &Front,
    mut request: Request,
    serve: impl FnOnce(Request) -> F,
) -> Response {
    let started = Instant::now();
    let span = span_of(&request);
    let context = know(front, &request, &span);
    let seen = Seen::of(&request);
    let origin = cors::origin_of(&request);
    request.extensions_mut().insert(context.clone());

    let has_credentials = request.headers().contains_key(AUTHORIZATION);
    let mut response = match refused(&request).or_else(|| front.origins.preflight(&request)) {
        Some(response) => response,
        None => handle(request, serve).instrument(span.clone()).await,
    };

    let code = answer::render(&mut response, context.id(), has_credentials);
    front.origins.permit(origin, response.headers_mut());
    let headers = response.headers_mut();
    headers.insert("x-request-id", context.id_header());
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if context.scheme() == "https" {
        headers.insert("strict-transport-security", HeaderValue::from_static("max-age=31536000"));
    }
    seen.report(&response, code, &context, &span, started);
    response
}

/// What no handler needs to see. After ambiguous framing nobody knows where the next request begins.
fn refused(request: &Request) -> Option<Response> {
    if let Err(failure) = framing::check(request.version(), request.headers()) {
        let mut response = Refusal::from(failure).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    let failure = path::check(request.uri().path()).err()?;
    Some(Refusal::from(failure).into_response())
}

/// A panic costs the one request that ran into it.
async fn handle<F: Future<Output = Response>>(
    request: Request,
    serve: impl FnOnce(Request) -> F,
) -> Response {
    match AssertUnwindSafe(async { serve(request).await }).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            Refusal::from(Failure::internal(format!("a panic: {}", said.unwrap_or_default()))).into_response()
        }
    }
}

/// The request as traces show it, under the client's own trace when it sent one. It ends with the answer's headers.
fn span_of(request: &Request) -> Span {
    let span = tracing::info_span!(
        target: traces::TARGET,
        "request",
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = request.method().as_str(),
        url.path = request.uri().path(),
        http.route = Empty,
        http.response.status_code = Empty,
        request_id = Empty
    );
    traces::continue_from(&span, request.headers());
    span
}

fn know(front: &Front, request: &Request, span: &Span) -> RequestContext {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
    let client = forwarded_for(request, front.trusted_hops).unwrap_or(peer);
    // The edge itself speaks plain HTTP; only a trusted proxy can know better.
    let says_https = request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let scheme = if front.trusted_hops > 0 && says_https { "https" } else { "http" };
    let ids = RequestIds::of(request.headers(), traces::traceparent(span));
    span.record("request_id", ids.request_id());
    RequestContext(Arc::new(Known { ids, client, scheme }))
}

/// The address that the outermost trusted proxy saw: each proxy appends the address that it was called from, so
/// that only the last `hops` entries can be believed.
fn forwarded_for(request: &Request, hops: usize) -> Option<IpAddr> {
    let values =
        request.headers().get_all("x-forwarded-for").into_iter().filter_map(|value| value.to_str().ok());
    let all: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let place = all.len().checked_sub(hops.max(1)).filter(|_| hops > 0)?;
    all[place].parse().ok()
}

/// What the access log says of a request, taken before it is handed on.
struct Seen {
    method: Method,
    path: String,
}

impl Seen {
    fn of(request: &Request) -> Self {
        Seen { method: request.method().clone(), path: request.uri().path().to_owned() }
    }

    fn report(
        self,
        response: &Response,
        code: Option<ErrorCode>,
        context: &RequestContext,
        span: &Span,
        started: Instant,
    ) {
        let seconds = started.elapsed().as_secs_f64();
        let extensions = response.extensions();
        let route = extensions.get::<RouteLabel>().map_or("none", |label| label.0);
        let status = response.status().as_u16();
        let status_label = STATUS_LABELS[usize::from(status / 100).min(5)];
        METRICS.requests.with_label_values(&[route, self.method_label(), status_label]).inc();
        METRICS.seconds.with_label_values(&[route]).observe(seconds);
        if !span.is_disabled() {
            traces::rename(span, format!("{} {route}", self.method_label()));
            span.record("http.route", route).record("http.response.status_code", status);
            if status >= 500 {
                span.record("otel.status_code", "ERROR");
            }
        }
        tracing::info!(
            target: "access",
            request_id = context.id(),
            method = %self.method,
            path = self.path,
            route,
            status,
            code = code.map(ErrorCode::name),
            ms = seconds * 1000.0,
            client = %context.client(),
            "request"
        );
    }

    /// Methods are free text; a label must not be.
    fn method_label(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            Method::HEAD => "HEAD",
            _ => "other",
        }
    }
}

const STATUS_LABELS: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Puts the template of the matched route where the access log finds it.
pub async fn label_route(request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(matched) = matched {
        // Route templates are few and known at compile time; each is kept once.
        response.extensions_mut().insert(RouteLabel::intern(matched.as_str()));
    }
    response
}

struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    requests: prometheus::register_int_counter_vec!(
        "edge_requests_total",
        "Requests by route template, method and class of status",
        &["route", "method", "status"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}")),
    seconds: prometheus::register_histogram_vec!(
        "edge_request_seconds",
        "Time from a request's headers to those of its answer, by route template",
        &["route"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}")),
});
