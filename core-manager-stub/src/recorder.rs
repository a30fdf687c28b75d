//! What the stub was sent, for tests to look at.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::extract::Request;
use serde::Serialize;

/// How much is kept of each kind.
const KEPT: usize = 10_000;

/// A request as it came.
#[derive(Clone, Serialize)]
pub struct Seen {
    pub method: String,
    /// Path and query, undecoded.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn of(request: &Request) -> Self {
        let path = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string);
        let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        Seen {
            method: request.method().to_string(),
            path,
            headers,
        }
    }
}

/// A WebSocket message as it came.
#[derive(Clone, Serialize)]
pub struct Frame {
    pub user_id: String,
    pub text: String,
}

/// The last requests and messages.
#[derive(Default)]
pub struct Recorder {
    requests: Mutex<VecDeque<Seen>>,
    frames: Mutex<VecDeque<Frame>>,
}

fn keep<T>(all: &Mutex<VecDeque<T>>, one: T) {
    let mut all = all.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if all.len() == KEPT {
        all.pop_front();
    }
    all.push_back(one);
}

fn all<T: Clone>(all: &Mutex<VecDeque<T>>) -> Vec<T> {
    all.lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .iter()
        .cloned()
        .collect()
}

impl Recorder {
    pub fn request(&self, seen: Seen) {
        keep(&self.requests, seen);
    }

    pub fn frame(&self, frame: Frame) {
        keep(&self.frames, frame);
    }

    pub fn requests(&self) -> Vec<Seen> {
        all(&self.requests)
    }

    pub fn frames(&self) -> Vec<Frame> {
        all(&self.frames)
    }
}
