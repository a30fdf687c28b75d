//! What every request of the public listener passes first and every answer last: ids, path rules, CORS, security
//! headers, panics, error bodies, metrics and the access log.

mod bare_errors;
mod cors;
mod crowd;
mod framing;
mod ids;
mod label;
mod limits;
mod path;
mod patience;
mod room;
mod serve;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use chassis::{logs, traces};
use contract::{ErrorCode, Failure, Outcome};
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CONNECTION, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};
use http::{Extensions, HeaderName, HeaderValue, Method, Uri};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::answer::{self, Refusal};
use crate::places::Slot;
use crate::rate::{RateLimiter, Standing};

pub use cors::Origins;
pub use crowd::Household;
pub use ids::{RequestIds, TRACEPARENT};
pub use label::{RouteLabel, label_route};
pub use limits::Limit;
pub use path::check as check_path;
pub use room::fit;
pub use serve::{ConnectionPlace, serve};

/// The header by which a request is found in all logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request before anything looks at it; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Known>);

#[derive(Debug)]
struct Known {
    ids: RequestIds,
    client: Client,
    scheme: &'static str,
    /// The route that serves it, once that is known.
    route: OnceLock<RouteLabel>,
    /// Where what the caller holds is counted, once that is known.
    caller: OnceLock<Slot>,
    /// How the caller stands, once the request was counted.
    standing: OnceLock<Standing>,
}

impl RequestContext {
    /// The context of a request of the public listener.
    ///
    /// # Errors
    /// SRV001 for any other.
    pub fn of(extensions: &Extensions) -> Outcome<&RequestContext> {
        extensions.get().ok_or_else(|| Failure::internal("a request without its context"))
    }

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
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Notes who the caller is; the first time counts.
    pub fn is_of(&self, caller: Slot) {
        let _ = self.0.caller.set(caller);
    }

    /// The caller; `None` as long as nobody has shown good credentials.
    pub fn caller(&self) -> Option<Slot> {
        self.0.caller.get().copied()
    }

    /// Notes which route serves the request; the first time counts.
    pub fn took(&self, route: RouteLabel) {
        let _ = self.0.route.set(route);
    }

    /// How the caller stands with its rate limit; `None` when the request was not counted.
    pub fn standing(&self) -> Option<Standing> {
        self.0.standing.get().copied()
    }

    /// Notes that the request was counted; the first time counts.
    pub fn note(&self, standing: Standing) {
        let _ = self.0.standing.set(standing);
    }
}

/// An address that requests come from, as logs and headers say it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(HeaderValue);

impl Client {
    pub fn new(address: IpAddr) -> Self {
        let text = address.to_string();
        Client(HeaderValue::from_str(&text).unwrap_or_else(|_| unreachable!("an address is plain: {text}")))
    }

    pub fn address(&self) -> &str {
        // What is kept was made here.
        self.0.to_str().unwrap_or_default()
    }

    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Who is counted as one with this address.
    pub fn household(&self) -> Household {
        self.address().parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into()
    }
}

/// The settings of [`pass`].
pub struct Front {
    pub origins: Origins,
    pub trusted_hops: usize,
    /// Largest header list of HTTP/2, in bytes.
    pub header_limit: usize,
    pub rate: RateLimiter,
}

/// What surrounds the serving of every request.
pub async fn pass<F: Future<Output = Response>>(
    front: &Front,
    peer: &Client,
    request: Request,
    serve: impl FnOnce(Request, RequestContext) -> F,
) -> Response {
    let started = Instant::now();
    let span = span_of(&request);
    let context = know(front, peer, &request, &span);
    let seen = Seen::of(&request);
    let origin = cors::origin_of(&request);

    let has_credentials = request.headers().contains_key(AUTHORIZATION);
    let mut response = match refused(front, &request).or_else(|| front.origins.preflight(&request)) {
        Some(response) => response,
        None => {
            // Pinned here, since it is large and would be moved into each that surrounds it.
            let serving = pin!(serve(request, context.clone()));
            handle(serving).instrument(span.clone()).await
        }
    };

    let code = answer::render(&mut response, context.id(), has_credentials);
    front.origins.permit(origin, response.headers_mut());
    let headers = response.headers_mut();
    front.rate.tell(&context, headers);
    headers.insert(REQUEST_ID, context.id_header());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if context.scheme() == "https" {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    seen.report(&response, code, &context, &span, started);
    response
}

/// Bytes of a path that are logged: one of HTTP/2 that is sent again costs the client a byte.
const LOGGED_PATH: usize = 512;

/// What no handler needs to see. After ambiguous framing nobody knows where the next request begins.
fn refused(front: &Front, request: &Request) -> Option<Response> {
    let (version, headers) = (request.version(), request.headers());
    if let Err(failure) = framing::check_size(version, request.uri(), headers, front.header_limit) {
        return Some(Refusal::from(failure).into_response());
    }
    if let Err(failure) = framing::check(version, request.uri(), headers) {
        let mut response = Refusal::from(failure).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    let failure = path::check(request.uri().path()).err()?;
    Some(Refusal::from(failure).into_response())
}

/// A panic costs the one request that ran into it.
async fn handle(serving: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(serving).catch_unwind().await {
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

fn know(front: &Front, peer: &Client, request: &Request, span: &Span) -> RequestContext {
    let client = forwarded_for(request, front.trusted_hops).map_or_else(|| peer.clone(), Client::new);
    // The edge itself speaks plain HTTP; only a trusted proxy can know better.
    let says_https = || request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let scheme = if front.trusted_hops > 0 && says_https() { "https" } else { "http" };
    let ids = RequestIds::of(request.headers(), traces::traceparent(span));
    span.record("request_id", ids.request_id());
    let (route, caller, standing) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
    RequestContext(Arc::new(Known { ids, client, scheme, route, caller, standing }))
}

/// The address that the outermost trusted proxy saw: each proxy appends the address that it was called from, so
/// that only the last `hops` entries can be believed.
fn forwarded_for<B>(request: &http::Request<B>, hops: usize) -> Option<IpAddr> {
    if hops == 0 {
        return None;
    }
    // An entry counts whatever it holds, or a client could move the others by what it sends.
    let lines = request.headers().get_all("x-forwarded-for").into_iter().rev();
    let entry = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).nth(hops - 1)?;
    address_in(std::str::from_utf8(entry).ok()?.trim())
}

/// The address of an entry. Some proxies write the port, too, and that of IPv6 after brackets.
fn address_in(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let with_port = || entry.parse().map(|address: SocketAddr| address.ip());
    bare.parse().or_else(|_| with_port()).ok()
}

/// What the access log says of a request, taken before it is handed on.
struct Seen {
    method: Method,
    uri: Uri,
}

impl Seen {
    fn of(request: &Request) -> Self {
        Seen { method: request.method().clone(), uri: request.uri().clone() }
    }

    fn report(
        self,
        response: &Response,
        code: Option<ErrorCode>,
        context: &RequestContext,
        span: &Span,
        started: Instant,
    ) {
        let time = started.elapsed();
        let route = context.0.route.get().copied().unwrap_or_else(RouteLabel::none);
        let status = response.status();
        route.count(&self.method, status, time.as_secs_f64());
        if !span.is_disabled() {
            traces::rename(span, format!("{} {}", label::method_label(&self.method), route.template()));
            span.record("http.route", route.template());
            span.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.record("otel.status_code", "ERROR");
            }
        }
        logs::access(|line| {
            line.text("request_id", context.id());
            line.text("method", self.method.as_str());
            let path = self.uri.path();
            line.text("path", &path[..path.floor_char_boundary(LOGGED_PATH)]);
            line.text("route", route.template());
            line.number("status", status.as_u16().into());
            if let Some(code) = code {
                line.text("code", code.name());
            }
            // To the headers of the answer.
            line.millis("ms", time.as_micros() as u64);
            line.text("client", context.client().address());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of a client that sent these lines behind so many proxies.
    fn client_of(lines: &[&[u8]], hops: usize) -> Option<String> {
        let mut request = http::Request::new(());
        for line in lines {
            let line = HeaderValue::from_bytes(line).expect("a value");
            request.headers_mut().append("x-forwarded-for", line);
        }
        forwarded_for(&request, hops).map(|address| address.to_string())
    }

    #[test]
    fn the_entry_of_a_trusted_proxy_is_found_whatever_the_client_wrote_before_it() {
        for claimed in [&b"9.9.9.9"[..], b"", b",", b"\xff", b"9.9.9.9, \xe9", b"\"a, b\""] {
            let one_line = [claimed, b", 192.0.2.1"].concat();
            assert_eq!(client_of(&[&one_line], 1).as_deref(), Some("192.0.2.1"), "{claimed:?}");
            assert_eq!(client_of(&[claimed, b"192.0.2.1"], 1).as_deref(), Some("192.0.2.1"), "{claimed:?}");
            let two_hops = [&one_line, &b", 10.0.0.1"[..]].concat();
            assert_eq!(client_of(&[&two_hops], 2).as_deref(), Some("192.0.2.1"), "{claimed:?}");
        }
        assert_eq!(client_of(&[b"192.0.2.1, \xff"], 1), None);
        assert_eq!(client_of(&[b"192.0.2.1"], 2), None);
        assert_eq!(client_of(&[b"192.0.2.1"], 0), None);
    }

    #[test]
    fn an_address_is_read_as_any_proxy_writes_it() {
        for written in ["192.0.2.1", " 192.0.2.1 ", "192.0.2.1:50000"] {
            assert_eq!(client_of(&[written.as_bytes()], 1).as_deref(), Some("192.0.2.1"), "{written:?}");
        }
        for written in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:50000"] {
            assert_eq!(client_of(&[written.as_bytes()], 1).as_deref(), Some("2001:db8::1"), "{written:?}");
        }
        for none in ["unknown", "192.0.2.1:", "[2001:db8::1", "2001:db8::1]:50000", "192.0.2.1 x", ""] {
            assert_eq!(client_of(&[none.as_bytes()], 1), None, "{none:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_the_answer_of_one_request() {
        let response = handle(async { panic!("a secret") }).await;
        assert_eq!(response.status(), 500);
        let failure = response.extensions().get::<Arc<Failure>>().expect("a refusal");
        assert_eq!(failure.code(), ErrorCode::Internal);
        assert!(!failure.message().contains("secret"), "{}", failure.message());
    }
}
