//! How long a connection may hold its place without being of use: before its first request, between requests, and
//! while a client sends no more of a body or reads no more of an answer (slowloris and its relatives); and how many
//! requests it may give up, each of which costs us what it costs no one else (HTTP/2 rapid reset, CVE-2023-44487).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::crowd::Seat;

/// What an answer of HTTP/2 hands on at once, in bytes: to take so much within the time of a stall is all that is asked
/// of a slow client. core-manager's answers come in pieces that are many times as long.
const MAX_PIECE_BYTES: usize = 16 * 1024;

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
    /// Answers of HTTP/2 that wait for the client to let more be sent, by whether they began to in a period of an even
    /// number or an odd one.
    awaiting: [AtomicUsize; 2],
    /// The number of the period, of which each is as long as a stall.
    period: AtomicUsize,
}

/// Why a connection ceases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceased {
    /// The first request did not come, or the headers of a later one not whole.
    Unheard,
    Idle,
    /// An answer waited for the client for too long.
    Stalled,
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
        Running { activity: self.clone(), is_answered: false, awaits_client_since: None }
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

    /// Answers that began to wait for the client in a period.
    fn awaiting(&self, period: usize) -> &AtomicUsize {
        &self.awaiting[period % 2]
    }

    /// Ends a period. Whether an answer has waited for the client during all of it: windows of HTTP/2 that stay shut
    /// block no write, and pings are answered beside them.
    fn is_stalled(&self) -> bool {
        let period = self.period.fetch_add(1, Ordering::Relaxed);
        self.awaiting(period + 1).load(Ordering::Relaxed) > 0
    }

    /// Returns once no request came in the first `headers`; or, later, the headers of one took longer, or none ran and
    /// none came for `idle`; or an answer waited for the client for `stall`, up to twice as long: each up to `headers`
    /// more, as looking now and then costs requests nothing. hyper's own timer of headers would run between requests,
    /// too.
    pub async fn ceases(&self, headers: Duration, idle: Duration, stall: Duration) -> Ceased {
        let (mut seen, mut rested, mut was_half_heard) = (0, Duration::ZERO, true);
        let mut period = Duration::ZERO;
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
            period += pause;
            if period >= stall {
                if self.is_stalled() {
                    return Ceased::Stalled;
                }
                period = Duration::ZERO;
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
    /// The period in which its answer began to wait for the client.
    awaits_client_since: Option<usize>,
}

impl Running {
    /// Notes whether the client is what the answer waits for from now on.
    fn await_client(&mut self, is_awaited: bool) {
        let since = is_awaited.then(|| self.activity.period.load(Ordering::Relaxed));
        if since == self.awaits_client_since {
            return;
        }
        if let Some(period) = since {
            self.activity.awaiting(period).fetch_add(1, Ordering::Relaxed);
        }
        if let Some(period) = std::mem::replace(&mut self.awaits_client_since, since) {
            self.activity.awaiting(period).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.await_client(false);
        self.activity.ended(self.is_answered);
        self.activity.unwritten.store(true, Ordering::Relaxed);
        self.activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; its request runs, and holds its seat, for as long as it is sent.
pub struct Answering<B> {
    body: B,
    /// What was taken of the body and not handed on.
    rest: Bytes,
    /// Whether it is handed on as the windows of HTTP/2 allow, instead of as fast as the client takes it off the wire.
    has_window: bool,
    running: Running,
    _seat: Option<Arc<Seat>>,
}

impl<B> Answering<B> {
    pub fn new(body: B, mut running: Running, seat: Option<Arc<Seat>>) -> Self {
        running.is_answered = true;
        let has_window = running.activity.is_http2.load(Ordering::Relaxed);
        // A piece may be asked for before the client has room for it, and no other then. An answer without one is gone by then.
        running.await_client(has_window);
        Answering { body, rest: Bytes::new(), has_window, running, _seat: seat }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answering<B> {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(MAX_PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.has_window {
            return Pin::new(&mut self.body).poll_frame(context);
        }
        let piece = self.poll_piece(context);
        // The next one is asked for as soon as the client has room; until this one is there it waits for us.
        self.running.await_client(piece.is_ready());
        piece
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use futures_util::stream;

    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);
    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_connection_ceases_when_no_request_comes_and_none_runs() {
        let started = tokio::time::Instant::now();
        assert_eq!(Arc::new(Activity::default()).ceases(FIRST, IDLE, STALL).await, Ceased::Unheard);
        assert_eq!(started.elapsed(), FIRST);

        let activity = Arc::new(Activity::default());
        let long = activity.begin(Version::HTTP_11);
        let ceases = activity.ceases(FIRST, IDLE, STALL);
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
            let ceases = activity.ceases(FIRST, IDLE, STALL);
            tokio::pin!(ceases);
            assert!(tokio::time::timeout(3 * FIRST, &mut ceases).await.is_err(), "a body is no half request");
            activity.heard();
            assert_eq!(ceases.await, expected, "{version:?}");
        }
    }

    /// Why a connection ceases whose one answer is asked for more after each `pause`.
    async fn asked_every(pause: Duration, version: Version, body: axum::body::Body) -> Option<Ceased> {
        let activity = Arc::new(Activity::default());
        let mut answer = Answering::new(body, activity.begin(version), None);
        let asking = async {
            loop {
                tokio::time::sleep(pause).await;
                poll_fn(|context| Poll::Ready(Pin::new(&mut answer).poll_frame(context).is_ready())).await;
            }
        };
        tokio::select! {
            ceased = activity.ceases(FIRST, IDLE, STALL) => Some(ceased),
            () = tokio::time::sleep(2 * STALL + FIRST) => None,
            () = asking => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_http2_that_lets_nothing_be_sent_is_not_waited_for() {
        let long = || axum::body::Body::from(vec![0; 1 << 20]);
        let never_there = || axum::body::Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let (often, never) = (STALL / 3, 100 * STALL);
        assert_eq!(asked_every(never, Version::HTTP_2, long()).await, Some(Ceased::Stalled));
        assert_eq!(asked_every(often, Version::HTTP_2, long()).await, None, "it reads slowly");
        assert_eq!(asked_every(often, Version::HTTP_2, never_there()).await, None, "it waits for us");
        assert_eq!(asked_every(never, Version::HTTP_11, long()).await, None, "its writes are watched");
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_the_same_answer() {
        use http_body_util::BodyExt;
        let whole: Vec<u8> = (0..3 * MAX_PIECE_BYTES + 1).map(|number| number as u8).collect();
        let activity = Arc::new(Activity::default());
        let body = axum::body::Body::from(whole.clone());
        let mut answer = Answering::new(body, activity.begin(Version::HTTP_2), None);
        let mut taken = Vec::new();
        while !answer.is_end_stream() {
            assert_eq!(answer.size_hint().exact(), Some((whole.len() - taken.len()) as u64));
            let piece = answer.frame().await.expect("more").expect("no error").into_data().expect("data");
            assert!(piece.len() <= MAX_PIECE_BYTES);
            taken.extend_from_slice(&piece);
        }
        assert!(taken == whole && answer.frame().await.is_none());
        drop(answer);
        assert!(!activity.is_stalled() && !activity.is_stalled(), "who is gone waits for nobody");
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
