//! Does what the switches of a request ask for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::answers::{detail, refused};
use crate::app::App;
use crate::echo;
use crate::garbage::Garbage;
use crate::recorder::raw_path;
use crate::server::Connection;
use crate::switches::Behaviour;

/// Bytes that a truncated answer declares, and those that it sends.
const DECLARED: u64 = 1000;
const SENT: &[u8] = &[b'x'; 100];
/// Chunks of a slow body.
const SLOW_CHUNKS: u32 = 10;
/// A chunk of a streamed body.
const CHUNK: &[u8] = &[b'x'; 64 * 1024];

/// Lays the request's own switches over those of the control plane, and obeys.
pub async fn obey(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut behaviour = app.switches.take(&raw_path(request.uri()));
    if let Err(fault) = behaviour.read_headers(request.headers()) {
        return refused(&fault);
    }
    if let Some(delay) = behaviour.delay {
        sleep(delay).await;
    }
    if behaviour.reset {
        connection.reset().await;
    }
    // Of a WebSocket the frames come after the handshake.
    if let Some(garbage) = behaviour.garbage.filter(|garbage| *garbage != Garbage::Frames) {
        connection.say(garbage).await;
    }
    if behaviour.hang {
        // Only the end of the process ends it, so that a hanging request does not hold the process up.
        app.closing.cancelled().await;
        connection.reset().await;
    }
    request.extensions_mut().insert(behaviour.clone());
    let mut response = answer(&behaviour, request, next).await;
    for name in behaviour.dropped_headers {
        response.headers_mut().remove(name);
    }
    for (name, value) in behaviour.response_headers {
        response.headers_mut().append(name, value);
    }
    response
}

async fn answer(behaviour: &Behaviour, request: Request, next: Next) -> Response {
    let mut response = if behaviour.truncate {
        truncated()
    } else if let Some(place) = &behaviour.redirect {
        (StatusCode::FOUND, [(header::LOCATION, place.clone())]).into_response()
    } else if let Some(bytes) = behaviour.stream_bytes {
        streamed(bytes)
    } else if let Some(pause) = behaviour.slow_body {
        slow(pause)
    } else if behaviour.echo {
        echo::answer(Extension(behaviour.clone()), request).await
    } else if let Some(status) = behaviour.status {
        detail(status, "stub")
    } else {
        next.run(request).await
    };
    if let Some(status) = behaviour.status {
        *response.status_mut() = status;
    }
    response
}

/// Sends less than it declares. The error at the end makes hyper close the connection.
fn truncated() -> Response {
    let chunks = stream::unfold(false, |sent| async move {
        if sent {
            // hyper writes out what it has while the body is not ready, and nothing any more after an error.
            yield_now().await;
            return Some((Err(io::Error::other("truncated on request")), true));
        }
        Some((Ok(Bytes::from_static(SENT)), true))
    });
    ([(header::CONTENT_LENGTH, DECLARED)], Body::from_stream(chunks)).into_response()
}

/// Of unknown length, so chunked.
fn slow(pause: Duration) -> Response {
    let chunks = stream::unfold(0, move |sent| async move {
        if sent == SLOW_CHUNKS {
            return None;
        }
        if sent > 0 {
            sleep(pause).await;
        }
        Some((Ok::<_, io::Error>(Bytes::from(format!("chunk {sent}\n"))), sent + 1))
    });
    Body::from_stream(chunks).into_response()
}

/// Of declared length. Every chunk is the same static memory.
fn streamed(bytes: u64) -> Response {
    let chunks = stream::unfold(bytes, |left| async move {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        let chunk = Bytes::from_static(&CHUNK[..size]);
        (size > 0).then(|| (Ok::<_, io::Error>(chunk), left - size as u64))
    });
    ([(header::CONTENT_LENGTH, bytes)], Body::from_stream(chunks)).into_response()
}
