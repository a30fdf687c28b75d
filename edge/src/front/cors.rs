//! CORS: exact origins, `Vary: Origin` on every answer (Fetch standard; OWASP ASVS 3.4).

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// The origins of browsers that may call.
#[derive(Clone, Debug)]
pub struct Origins(Arc<[String]>);

impl Origins {
    pub fn new(origins: Vec<String>) -> Self {
        // A trailing slash is not part of an origin (RFC 6454 section 6.1), but people write it.
        Origins(origins.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect())
    }

    /// Whether a browser page of this origin may call.
    pub fn admits(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|known| known.as_bytes() == origin.as_bytes())
    }

    /// The answer to a preflight, if the request is one. It says nothing to an unknown origin.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(ORIGIN)
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        if self.admits(request.headers().get(ORIGIN)?) {
            let headers = response.headers_mut();
            let fixed = HeaderValue::from_static;
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, fixed("GET, POST, PUT, PATCH, DELETE"));
            headers.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                fixed("Authorization, Content-Type, Idempotency-Key, X-Request-ID, Traceparent"),
            );
            headers.insert(ACCESS_CONTROL_MAX_AGE, fixed("600"));
        }
        Some(response)
    }

    /// Lets the page of an admitted origin read the answer.
    pub fn permit(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
        // Only the edge decides who may read; what came from behind must not.
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        if let Some(origin) = origin.filter(|origin| self.admits(origin)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("X-Request-ID, Retry-After, RateLimit, RateLimit-Policy"),
            );
        }
    }
}

/// The origin that a browser says the request comes from.
pub fn origin_of(request: &Request) -> Option<HeaderValue> {
    request.headers().get(ORIGIN).cloned()
}
