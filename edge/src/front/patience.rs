//! How long a connection may hold its place without being of use: before its first request, between requests, and
//! while a client sends no more of a body or reads no more of an answer (slowloris and its relatives); and how many
//! requests it may give up, each of which costs us what it costs no one else (HTTP/2 rapid reset, CVE-2023-44487).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};

use super::crowd::Seat;

/// What goes on at one connection.
#[derive(Default)]
pub struct Activity {
    begun: AtomicU64,
    running: AtomicUsize,
    /// Requests that were given up before they were answered, beyond those that were answered.
    given_up: AtomicU32,
    /// Most of them.
    most_given_up: u32,
    /// Some of the last answer may not have been written yet.
    unwritten: AtomicBool,
}

/// Why a connection ceases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceased {
    /// No request ever came.
    Unused,
    Idle,
}

impl Activity {
    /// Of a client that may give up so many requests more than it lets us answer.
    pub fn new(most_given_up: u32) -> Self {
        Activity { most_given_up, ..Activity::default() }
    }

    /// A request that runs until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { activity: self.clone(), is_answered: false }
    }

    /// Whether the client has given up more requests than it may.
    pub fn is_overdone(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) > self.most_given_up
    }

    /// An answered request makes up for one that was given up.
    fn ended(&self, is_answered: bool) {
        if !is_answered {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        } else if self.given_up.load(Ordering::Relaxed) > 0 {
            // It fails when it is nought by now.
            let _ = self
                .given_up
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |given_up| given_up.checked_sub(1));
        }
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
    pub async fn ceases(&self, first: Duration, idle: Duration) -> Ceased {
        let (mut seen, mut patience) = (0, first);
        loop {
            tokio::time::sleep(patience).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.running.load(Ordering::Relaxed) == 0 {
                return if begun == 0 { Ceased::Unused } else { Ceased::Idle };
            }
            (seen, patience) = (begun, idle);
        }
    }
}

/// A request that has begun and whose answer has not been sent whole.
pub struct Running {
    activity: Arc<Activity>,
    is_answered: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.activity.ended(self.is_answered);
        self.activity.unwritten.store(true, Ordering::Relaxed);
        self.activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; its request runs, and holds its seat, for as long as it is sent.
pub struct Answering<B> {
    body: B,
    _running: Running,
    _seat: Option<Seat>,
}

impl<B> Answering<B> {
    pub fn new(body: B, mut running: Running, seat: Option<Seat>) -> Self {
        running.is_answered = true;
        Answering { body, _running: running, _seat: seat }
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
        assert_eq!(Arc::new(Activity::default()).ceases(FIRST, IDLE).await, Ceased::Unused);
        assert_eq!(started.elapsed(), FIRST);

        let activity = Arc::new(Activity::default());
        let long = activity.begin();
        let ceases = activity.ceases(FIRST, IDLE);
        tokio::pin!(ceases);
        assert!(tokio::time::timeout(10 * IDLE, &mut ceases).await.is_err(), "while one runs it stays");
        drop(long);
        assert_eq!(tokio::time::timeout(2 * IDLE, &mut ceases).await, Ok(Ceased::Idle));
    }

    #[test]
    fn what_is_given_up_counts_until_as_much_was_answered() {
        let activity = Arc::new(Activity::new(2));
        let answer = || drop(Answering::new((), activity.begin(), None));
        for _ in 0..100 {
            drop(activity.begin());
            answer();
        }
        assert!(!activity.is_overdone());
        (0..3).for_each(|_| drop(activity.begin()));
        assert!(activity.is_overdone());
    }
}
