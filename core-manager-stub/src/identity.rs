//! The six headers that core-manager trusts. A request without them did not come through the gateway.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::answers::refused;
use crate::recorder::text;

/// The headers, as the contract spells them.
const NAMES: [&str; 6] =
    ["X-User-ID", "X-Client-ID", "X-User-Role", "X-User-Tier", "X-User-Email", PERMISSIONS];

/// The only one that may be empty: a user may hold no permission.
const PERMISSIONS: &str = "X-User-Permissions";

/// Who a request is made for.
#[derive(Clone)]
pub struct Identity {
    pub user_id: String,
    pub client_id: String,
    /// Every `x-user-*` and `x-client-id` header as received.
    pub headers: Map<String, Value>,
}

/// Refuses a request that lacks one of the headers or has one twice, and gives its [`Identity`] to the rest.
pub async fn require(mut request: Request, next: Next) -> Response {
    match identity(request.headers()) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(fault) => refused(&format!("{fault}; this request did not come through the gateway")),
    }
}

fn identity(headers: &HeaderMap) -> Result<Identity, String> {
    for name in NAMES {
        once(headers, name)?;
    }
    Ok(Identity {
        user_id: once(headers, "X-User-ID")?,
        client_id: once(headers, "X-Client-ID")?,
        headers: received(headers),
    })
}

fn once(headers: &HeaderMap, name: &str) -> Result<String, String> {
    let values: Vec<_> = headers.get_all(name).iter().map(text).collect();
    match values.as_slice() {
        [] => Err(format!("{name} is missing")),
        [value] if value.is_empty() && name != PERMISSIONS => Err(format!("{name} is empty")),
        [value] => Ok(value.clone()),
        _ => Err(format!("{name} came {} times", values.len())),
    }
}

fn received(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-user-") || *name == "x-client-id")
        .map(|(name, value)| (name.to_string(), text(value).into()))
        .collect()
}
