//! The shapes of core-manager's own errors, which are not the gateway's: a test sees by them that an answer passed
//! unchanged.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error of the service itself: `{"detail": …}`.
pub fn detail(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "detail": text }))).into_response()
}

/// A request that no gateway or test should have sent: 400 `{"error": …}`.
pub fn refused(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": text }))).into_response()
}
