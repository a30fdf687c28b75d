//! Misbehaviour on request: each switch is a request header, `X-Stub-…`.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::server::{Abort, refusal};

/// Bytes that a truncated answer declares, and those that it sends.
const DECLARED: usize = 1000;
const SENT: usize = 100;
const CHUNK: usize = 64 * 1024;

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Does what the headers of the request ask for, and lets the rest be answered as usual.
pub async fn obey(request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let abort = request.extensions().get::<Abort>().cloned();
    if let Some(ms) = number(&headers, "x-stub-delay-ms") {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if headers.contains_key("x-stub-hang") {
        return std::future::pending().await;
    }
    if let (true, Some(abort)) = (headers.contains_key("x-stub-reset"), &abort) {
        abort.now();
        return std::future::pending().await;
    }
    let mut response = match instead(&headers, abort) {
        Some(response) => response,
        None => next.run(request).await,
    };
    for value in headers.get_all("x-stub-response-header") {
        add(response.headers_mut(), value);
    }
    response
}

fn instead(headers: &HeaderMap, abort: Option<Abort>) -> Option<Response> {
    if let Some(status) = number(headers, "x-stub-status") {
        return Some(refusal(status as u16, "stub").into_response());
    }
    if let Some(location) = headers.get("x-stub-redirect") {
        return Some((StatusCode::FOUND, [(header::LOCATION, location.clone())]).into_response());
    }
    if headers.contains_key("x-stub-truncate") {
        return Some(truncated(abort?));
    }
    if let Some(ms) = number(headers, "x-stub-slow-body-ms") {
        return Some(slow(Duration::from_millis(ms)));
    }
    number(headers, "x-stub-stream-bytes").map(|bytes| streamed(bytes as usize))
}

/// Declares more than it sends, then breaks the connection off.
fn truncated(abort: Abort) -> Response {
    let body = stream::unfold(Some(abort), |abort| async move {
        let abort = abort?;
        abort.soon();
        Some((Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; SENT])), None))
    });
    let rest = stream::pending();
    let body = Body::from_stream(futures_util::StreamExt::chain(body, rest));
    ([(header::CONTENT_LENGTH, DECLARED)], body).into_response()
}

fn slow(pause: Duration) -> Response {
    let chunks = stream::unfold(0, move |sent| async move {
        if sent == 10 {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"chunk\n")), sent + 1))
    });
    Body::from_stream(chunks).into_response()
}

fn streamed(bytes: usize) -> Response {
    let chunks = stream::unfold(bytes, |left| async move {
        let next = left.min(CHUNK);
        (next > 0).then(|| {
            (
                Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; next])),
                left - next,
            )
        })
    });
    ([(header::CONTENT_LENGTH, bytes)], Body::from_stream(chunks)).into_response()
}

/// Adds a header that a switch gives as `name=value`.
fn add(headers: &mut HeaderMap, switch: &HeaderValue) {
    let Some((name, value)) = switch.to_str().ok().and_then(|switch| switch.split_once('=')) else {
        return;
    };
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
        headers.append(name, value);
    }
}
