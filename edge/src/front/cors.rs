//! CORS: exact origins, `Vary: Origin` on every answer (Fetch standard; OWASP ASVS 3.4).

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// What a page may read of an answer beside what any may (Fetch standard, `Access-Control-Expose-Headers`): all that the
/// contract and the document of the routes speak of, and where core-manager says that something is.
const EXPOSED: &str = "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, Idempotency-Replayed, Location, \
                       WWW-Authenticate, Allow, Content-Disposition, ETag";

/// An origin as browsers say it (RFC 6454 section 6.1).
#[derive(Clone, Debug)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FAULT: &str =
            "must be an origin such as https://app.example.com, without a path; there is no wildcard";
        // A trailing slash is not part of an origin, but people write it.
        let text = text.strip_suffix('/').unwrap_or(text);
        let (scheme, host) = text.split_once("://").ok_or(FAULT)?;
        let is_host = host.parse::<Authority>().is_ok_and(|host| !host.as_str().contains(['@', '*']));
        if matches!(scheme, "http" | "https") && is_host && host == host.to_ascii_lowercase() {
            Ok(Origin(text.to_owned()))
        } else {
            Err(FAULT)
        }
    }
}

/// The origins of browsers that may call.
#[derive(Clone, Debug)]
pub struct Origins(Arc<[Origin]>);

impl Origins {
    pub fn new(origins: Vec<Origin>) -> Self {
        Origins(origins.into())
    }

    /// Whether a browser page of this origin may call.
    pub fn admits(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|known| known.0.as_bytes() == origin.as_bytes())
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
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// The origin that a browser says the request comes from.
pub fn origin_of(request: &Request) -> Option<HeaderValue> {
    request.headers().get(ORIGIN).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_browser_would_say_is_no_origin() {
        for good in ["https://app.example.com", "http://localhost:3000", "https://app.example.com/"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in
            ["*", "app.example.com", "https://x/y", "https://", "https://*.x.org", "ftp://x", "https://X"]
        {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
