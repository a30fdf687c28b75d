//! How long a connection may hold its place without being of use: before its first request, between requests, and
//! while a client sends no more of a body or reads no more of an answer (slowloris and its relatives); and how many
//! requests it may give up, each of which costs us what it costs no one else (HTTP/2 rapid reset, CVE-2023-44487).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::crowd::Seat;

/// What goes on at one connection.
#[derive(Default)]
pub struct Activity {
    begun: AtomicU64,
    running: AtomicUsize,
    /// Bytes have come that are no request yet.
    half_heard: AtomicBool,
    /// HTTP/2 also says things that are no request.
    is_http2: AtomicBool,
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
    /// The first request did not come, or the headers of a later one not whole.
    Unheard,
    Idle,
}

impl Activity {
    /// Of a client that may give up so many requests more than it lets us answer.
    pub fn new(most_given_up: u32) -> Self {
        Activity { most_given_up, ..Activity::default() }
    }

    /// A request that runs until the guard is dropped.
    pub fn begin(self: &Arc<Self>, version: Version) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.half_heard.store(false, Ordering::Relaxed);
        if version >= Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { activity: self.clone(), is_answered: false }
    }

    /// Bytes have come. Those of a body come while its request runs.
    pub fn heard(&self) {
        if self.running.load(Ordering::Relaxed) == 0 {
            self.half_heard.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the headers of a request have begun to come and are not there yet.
    fn is_half_heard(&self) -> bool {
        self.half_heard.load(Ordering::Relaxed) && !self.is_http2.load(Ordering::Relaxed)
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

    /// Returns once no request came in the first `headers`; or, later, the headers of one took longer, or none ran and
    /// none came for `idle`: either up to `headers` more, as looking now and then costs requests nothing. hyper's own
    /// timer of headers would run between requests, too.
    pub async fn ceases(&self, headers: Duration, idle: Duration) -> Ceased {
        let (mut seen, mut rested, mut was_half_heard) = (0, Duration::ZERO, true);
        let mut pause = headers;
        loop {
            tokio::time::sleep(pause).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == 0 {
                return Ceased::Unheard;
            }
            let is_at_rest = begun == seen && self.running.load(Ordering::Relaxed) == 0;
            let is_half_heard = self.is_half_heard();
            if is_at_rest && is_half_heard && was_half_heard {
                return Ceased::Unheard;
            }
            rested = if is_at_rest { rested + pause } else { Duration::ZERO };
            if rested >= idle {
                return Ceased::Idle;
            }
            (seen, was_half_heard) = (begun, is_half_heard);
            pause = headers.min(idle);
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
        assert_eq!(Arc::new(Activity::default()).ceases(FIRST, IDLE).await, Ceased::Unheard);
        assert_eq!(started.elapsed(), FIRST);

        let activity = Arc::new(Activity::default());
        let long = activity.begin(Version::HTTP_11);
        let ceases = activity.ceases(FIRST, IDLE);
        tokio::pin!(ceases);
        assert!(tokio::time::timeout(10 * IDLE, &mut ceases).await.is_err(), "while one runs it stays");
        drop(long);
        assert!(tokio::time::timeout(IDLE - FIRST, &mut ceases).await.is_err(), "it may rest");
        assert_eq!(tokio::time::timeout(4 * FIRST, &mut ceases).await, Ok(Ceased::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_request_must_be_heard_whole_as_soon_as_the_first() {
        for (version, expected) in [(Version::HTTP_11, Ceased::Unheard), (Version::HTTP_2, Ceased::Idle)] {
            let activity = Arc::new(Activity::default());
            let running = activity.begin(version);
            activity.heard();
            drop(running);
            let ceases = activity.ceases(FIRST, IDLE);
            tokio::pin!(ceases);
            assert!(tokio::time::timeout(3 * FIRST, &mut ceases).await.is_err(), "a body is no half request");
            activity.heard();
            assert_eq!(ceases.await, expected, "{version:?}");
        }
    }

    #[test]
    fn what_is_given_up_counts_until_as_much_was_answered() {
        let activity = Arc::new(Activity::new(2));
        let answer = || drop(Answering::new((), activity.begin(Version::HTTP_2), None));
        for _ in 0..100 {
            drop(activity.begin(Version::HTTP_2));
            answer();
        }
        assert!(!activity.is_overdone());
        (0..3).for_each(|_| drop(activity.begin(Version::HTTP_2)));
        assert!(activity.is_overdone());
    }
}
