//! The six headers that core-manager trusts. A request without them did not come through the gateway.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::server::refusal;

/// The headers, each of which must be there once.
const NAMES: [&str; 6] = [
    "x-user-id",
    "x-client-id",
    "x-user-role",
    "x-user-tier",
    "x-user-email",
    "x-user-permissions",
];

/// Refuses a request that lacks one of the headers or has one twice.
pub async fn require(request: Request, next: Next) -> Response {
    match fault(request.headers()) {
        Some(fault) => refusal(400, &fault).into_response(),
        None => next.run(request).await,
    }
}

fn fault(headers: &HeaderMap) -> Option<String> {
    let count = |name: &&str| headers.get_all(*name).iter().count();
    let name = NAMES.iter().find(|name| count(name) != 1)?;
    Some(format!(
        "{name} came {} times; this request did not pass the gateway",
        count(name)
    ))
}

/// The value of one of the headers.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Everything that came under `x-user-*` and `x-client-*`, in whatever spelling.
pub fn received(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    let about = |name: &str| {
        let folded = name.replace(['_', '.'], "-");
        folded.starts_with("x-user-") || folded.starts_with("x-client-")
    };
    let entries = headers.iter().filter(|(name, _)| about(name.as_str()));
    entries
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}
