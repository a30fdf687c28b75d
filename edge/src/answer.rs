//! Turns a failure into the one error body of the contract. Rules only name the failure; the body is written where
//! the request id is known, in [`render`].

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use contract::{ErrorCode, Failure};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

/// What a handler of the edge gives.
pub type Answer<T> = Result<T, Refusal>;

/// A failure on its way to [`render`].
#[derive(Debug)]
pub struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.0.http().into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

/// REQ002 with 405 and the methods that the route has.
pub fn method_not_allowed(allowed: &str) -> Response {
    let failure = Failure::new(ErrorCode::NoSuchRoute)
        .with_http(StatusCode::METHOD_NOT_ALLOWED)
        .saying("This method is not allowed here");
    let mut response = Refusal(failure).into_response();
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// Writes the error body, if the response is a refusal, and logs the failure: the one place where both happen.
/// Returns the code for the access log.
pub fn render(response: &mut Response, request_id: &str, has_credentials: bool) -> Option<ErrorCode> {
    let failure = response.extensions_mut().remove::<Arc<Failure>>()?;
    log(&failure, request_id);
    let headers = response.headers_mut();
    // The router has measured the empty body that stood in for this one.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if failure.http() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, challenge(failure.code(), has_credentials));
    }
    if let Some(wait) = failure.wait() {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    *response.body_mut() = body(&failure, request_id).to_string().into();
    Some(failure.code())
}

/// The error body of the contract.
pub fn body(failure: &Failure, request_id: &str) -> Value {
    let mut error = json!({ "code": failure.code().name(), "message": failure.message() });
    let mut details: Map<String, Value> =
        failure.facts().iter().map(|(name, fact)| (name.clone(), fact_value(fact))).collect();
    if !failure.fields().is_empty() {
        details.insert("fields".to_owned(), json!(failure.fields()));
    }
    if !details.is_empty() {
        error["details"] = Value::Object(details);
    }
    json!({ "error": error, "request_id": request_id })
}

/// Facts cross gRPC as text; a number becomes a number again.
fn fact_value(fact: &str) -> Value {
    fact.parse::<i64>().map_or_else(|_| Value::from(fact), Value::from)
}

/// RFC 6750 section 3.1: a request without credentials gets no error code, one with a bad token does.
fn challenge(code: ErrorCode, has_credentials: bool) -> HeaderValue {
    HeaderValue::from_static(match code {
        ErrorCode::TokenExpired | ErrorCode::TokenInvalid if has_credentials => {
            r#"Bearer realm="persona", error="invalid_token""#
        }
        _ => r#"Bearer realm="persona""#,
    })
}

fn log(failure: &Failure, request_id: &str) {
    let cause = failure.cause().map(|cause| cause.to_string());
    let cause = cause.as_deref();
    if failure.code() == ErrorCode::Internal {
        tracing::error!(request_id, cause, "{failure}");
    } else if failure.http().is_server_error() {
        let service = failure.facts().get("service").map(String::as_str);
        tracing::warn!(request_id, service, cause, "{failure}");
    }
}
