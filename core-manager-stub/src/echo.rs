//! Answers a request with what it was, so that a test sees what the gateway really forwarded.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt;
use serde_json::json;

use crate::answers::detail;
use crate::recorder::{header_list, raw_path};
use crate::switches::Behaviour;

/// How much of a body is shown as text.
const SHOWN: usize = 64 * 1024;

/// Method, raw path and query, headers; the body whole in Base64 and its beginning as text. A body to be discarded is counted while it streams and never held.
pub async fn answer(Extension(behaviour): Extension<Behaviour>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok((length, kept)) = read(body, !behaviour.discard_body).await else {
        return detail(StatusCode::BAD_REQUEST, "the body broke off");
    };
    let mut told = json!({
        "method": parts.method.as_str(),
        "path": raw_path(&parts.uri),
        "headers": header_list(&parts.headers),
        "body_length": length,
    });
    if !behaviour.discard_body {
        told["body"] = String::from_utf8_lossy(&kept[..kept.len().min(SHOWN)]).into();
        told["body_base64"] = STANDARD.encode(kept).into();
    }
    Json(told).into_response()
}

async fn read(body: Body, keep: bool) -> Result<(u64, Vec<u8>), axum::Error> {
    let (mut length, mut kept) = (0, Vec::new());
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.try_next().await? {
        length += chunk.len() as u64;
        if keep {
            kept.extend_from_slice(&chunk);
        }
    }
    Ok((length, kept))
}
