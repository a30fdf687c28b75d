//! What the stand-in was sent, for tests to look at.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::TryStreamExt;
use serde::{Serialize, Serializer};

use crate::app::{App, lock};

/// How much is kept of each kind; the oldest goes first.
const KEPT: usize = 10_000;

/// A request as it came.
#[derive(Clone, Serialize)]
pub struct Seen {
    method: String,
    /// Path and query, undecoded.
    path: String,
    headers: Vec<(String, String)>,
    /// The bytes read of the body so far: it grows while an upload runs.
    #[serde(serialize_with = "so_far")]
    body_length: Arc<AtomicU64>,
}

fn so_far<S: Serializer>(count: &AtomicU64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(count.load(Relaxed))
}

/// A WebSocket text as it came.
#[derive(Clone, Serialize)]
pub struct Frame {
    pub user_id: String,
    pub text: String,
}

/// The last requests and texts.
#[derive(Default)]
pub struct Recorder {
    requests: Mutex<VecDeque<Seen>>,
    frames: Mutex<VecDeque<Frame>>,
}

impl Recorder {
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.requests).iter().cloned().collect()
    }

    pub fn forget_requests(&self) {
        lock(&self.requests).clear();
    }

    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.frames).iter().cloned().collect()
    }

    pub fn forget_frames(&self) {
        lock(&self.frames).clear();
    }

    pub fn frame(&self, frame: Frame) {
        keep(&self.frames, frame);
    }
}

fn keep<T>(ring: &Mutex<VecDeque<T>>, one: T) {
    let mut ring = lock(ring);
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(one);
}

/// Records each request before anything else may refuse it or break it off.
pub async fn record(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Seen {
        method: request.method().to_string(),
        path: raw_path(request.uri()),
        headers: header_list(request.headers()),
        body_length: count.clone(),
    };
    keep(&app.recorder.requests, seen);
    next.run(request.map(|body| counted(body, count))).await
}

fn counted(body: Body, count: Arc<AtomicU64>) -> Body {
    let add = move |chunk: &Bytes| {
        count.fetch_add(chunk.len() as u64, Relaxed);
    };
    Body::from_stream(body.into_data_stream().inspect_ok(add))
}

/// Path and query as on the wire.
pub fn raw_path(uri: &Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.path().to_owned(), |path| path.as_str().to_owned())
}

/// Names and values in the order in which the names came; a name that came twice stands twice.
pub fn header_list(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// The value as UTF-8, or else byte for byte as Latin-1, so that nothing is lost.
pub fn text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
    }
}
