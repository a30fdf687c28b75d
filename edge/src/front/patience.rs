//! How long a connection may hold its place without being of use: before its first request, between requests, and
//! while a client sends no more of a body or reads no more of an answer (slowloris and its relatives).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};

/// What goes on at one connection.
#[derive(Default)]
pub struct Activity {
    begun: AtomicU64,
    running: AtomicUsize,
    /// Some of the last answer may not have been written yet.
    unwritten: AtomicBool,
}

impl Activity {
    /// A request that runs until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    /// Whether no answer is being made or written.
    pub fn is_quiet(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0 && !self.unwritten.load(Ordering::Relaxed)
    }

    /// Everything that was to be written has been.
    pub fn written(&self) {
        if self.running.load(Ordering::Relaxed) == 0 {
            self.unwritten.store(false, Ordering::Relaxed);
        }
    }

    /// Returns once no request came in the first `first`, or, later, none ran and none came for `idle`, or up to
    /// twice as long: looking now and then costs requests nothing.
    pub async fn ceases(&self, first: Duration, idle: Duration) {
        let (mut seen, mut patience) = (0, first);
        loop {
            tokio::time::sleep(patience).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.running.load(Ordering::Relaxed) == 0 {
                return;
            }
            (seen, patience) = (begun, idle);
        }
    }
}

/// A request that has begun and whose answer has not been sent whole.
pub struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.unwritten.store(true, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; its request runs for as long as it is sent.
pub struct Answering<B> {
    body: B,
    _running: Running,
}

impl<B> Answering<B> {
    pub fn new(body: B, running: Running) -> Self {
        Answering { body, _running: running }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_connection_ceases_when_no_request_comes_and_none_runs() {
        let started = tokio::time::Instant::now();
        Arc::new(Activity::default()).ceases(FIRST, IDLE).await;
        assert_eq!(started.elapsed(), FIRST);

        let activity = Arc::new(Activity::default());
        let long = activity.begin();
        let ceases = activity.ceases(FIRST, IDLE);
        tokio::pin!(ceases);
        assert!(tokio::time::timeout(10 * IDLE, &mut ceases).await.is_err(), "while one runs it stays");
        drop(long);
        assert!(tokio::time::timeout(2 * IDLE, &mut ceases).await.is_ok());
    }
}
