//! Connections to core-manager and those of them that wait for their next request. A connection is driven by whoever
//! uses it and not by a task of its own, as a general client would have it: that would cost every request several
//! trips through the scheduler.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::uri::Authority;
use http::{Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than most servers keep idle connections, so that ours is rarely the one that finds it closed.
const IDLE: Duration = Duration::from_secs(15);
/// Most bytes that are read of an answer before they are asked for.
const READ_AHEAD: usize = 64 * 1024;
/// An answer of so many bytes is kept for whoever does not read it.
const LITTLE: usize = 8 * 1024;
/// After such a rest a server may close a connection just as the next request leaves; none keeps them for less long.
const RESTED: Duration = Duration::from_millis(100);

/// The connections to one place. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Known>);

struct Known {
    place: Authority,
    /// The one used last at the end. The lock is held for as long as it takes to put one in or take one out.
    idle: Mutex<VecDeque<Link>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
}

impl Fault {
    /// Whether the request could not be sent because its own body broke off.
    pub fn is_callers(&self) -> bool {
        matches!(self, Fault::Exchange(error) if error.is_user())
    }

    /// Whether the request may have had an effect.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Fault::Exchange(_))
    }
}

impl Pool {
    pub fn new(place: Authority) -> Self {
        Pool(Arc::new(Known { place, idle: Mutex::default() }))
    }

    /// Sends a request, whose target is a path alone, and gives the answer once it has begun. A request that may have
    /// had an effect is never sent twice: sent on another connection is one of which not one byte was written, since its
    /// connection turned out to be closed, and one that asks for nothing but an answer, on a connection that had rested
    /// and was closed without one. What may have an effect goes on no rested connection.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Answer>, Fault> {
        let is_safe =
            matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_end_stream();
        let mut rest = if is_safe { IDLE } else { RESTED };
        loop {
            let (mut link, is_used) = match self.take(rest) {
                Some(link) => (link, true),
                None => (Link::open(&self.0.place).await?, false),
            };
            let again = (is_safe && is_used && link.since.elapsed() >= RESTED).then(|| copy(&request));
            let mut fault = match link.exchange(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Response::from_parts(head, Answer::begin(body, link, self.clone()).await));
                }
                Err(fault) => fault,
            };
            request = match (fault.take_message(), again) {
                (Some(unsent), _) if is_used => unsent,
                (None, Some(again)) if !fault.error().is_parse() => {
                    // The second time on one that has not rested.
                    rest = RESTED;
                    again
                }
                _ => return Err(Fault::Exchange(fault.into_error())),
            };
        }
    }

    /// One that is still open and has rested for less than `rest`.
    fn take(&self, rest: Duration) -> Option<Link> {
        loop {
            let mut link = self.last_used(rest)?;
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    /// Those that have waited for too long leave by the way: the probe of core-manager's health comes by often enough. So
    /// does one for another that must be opened, or they would be more and more.
    fn last_used(&self, rest: Duration) -> Option<Link> {
        let mut idle = self.idle();
        while idle.front().is_some_and(|oldest| oldest.since.elapsed() > IDLE) {
            idle.pop_front();
        }
        if idle.back().is_some_and(|link| link.since.elapsed() >= rest) {
            idle.pop_front();
            return None;
        }
        idle.pop_back()
    }

    fn put(&self, link: Link) {
        self.idle().push_back(Link { since: Instant::now(), ..link });
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Link>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same request, which has no body.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// One connection.
struct Link {
    requests: SendRequest<Body>,
    connection: Box<Connection<TokioIo<TcpStream>, Body>>,
    has_ended: bool,
    /// When it was last used.
    since: Instant,
}

impl Link {
    async fn open(place: &Authority) -> Result<Self, Fault> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(place.as_str())).await;
        let stream = connecting.map_err(|_| Fault::Connect(io::ErrorKind::TimedOut.into()))?;
        let stream = stream.map_err(Fault::Connect)?;
        // Small requests must not wait for an acknowledgement.
        stream.set_nodelay(true).map_err(Fault::Connect)?;
        let (requests, connection) =
            Builder::new().max_buf_size(READ_AHEAD).handshake(TokioIo::new(stream)).await?;
        Ok(Link { requests, connection: Box::new(connection), has_ended: false, since: Instant::now() })
    }

    /// Lets the connection write, read, and notice its end.
    fn drive(&mut self, context: &mut Context<'_>) {
        if !self.has_ended {
            // What goes wrong is said to the request that it happens to.
            self.has_ended = Pin::new(&mut *self.connection).poll(context).is_ready();
        }
    }

    /// Whether the other side has not closed it, and its last exchange is over on both sides.
    fn is_usable(&mut self) -> bool {
        // Nobody needs to be woken: the request that is about to be sent would wake whoever sends it.
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.has_ended && self.requests.is_ready()
    }

    /// Sends a request at once and waits for the beginning of its answer.
    fn exchange(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> {
        let answer = self.requests.try_send_request(request);
        async {
            let mut answer = pin!(answer);
            poll_fn(|context| {
                self.drive(context);
                answer.as_mut().poll(context)
            })
            .await
        }
    }
}

/// The body of an answer, with the connection that it comes by.
pub struct Answer {
    body: Incoming,
    /// What was read and not handed on: at first what was there with its head.
    read: Option<Result<Frame<Bytes>, hyper::Error>>,
    /// Nothing more of it will come by the connection.
    is_whole: bool,
    /// `None` once the connection waits for its next request. One whose answer is not read to its end is closed.
    link: Option<Link>,
    pool: Pool,
}

impl Answer {
    /// One that is there whole with its head, as most are, gives its connection back at once: whoever asked may take their
    /// time.
    async fn begin(body: Incoming, link: Link, pool: Pool) -> Answer {
        let mut answer = Answer { is_whole: body.is_end_stream(), body, read: None, link: Some(link), pool };
        if !answer.is_whole {
            answer.read = poll_fn(|context| match answer.poll_body(context) {
                Poll::Ready(frame) => Poll::Ready(frame),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        answer.give_back();
        answer
    }

    /// As `poll_frame`, but hands on no more at once than is [`LITTLE`], and as a copy: whoever takes it may hold it for as long
    /// as they like.
    pub fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut *self).poll_frame(context)?) else { return Poll::Ready(None) };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                let piece = Bytes::copy_from_slice(&data.split_to(data.len().min(LITTLE)));
                if !data.is_empty() {
                    self.read = Some(Ok(Frame::data(data)));
                }
                Frame::data(piece)
            }
            Err(trailers) => trailers,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether it is whole and small. It then holds no more than its own bytes: what is read is a part of a larger buffer.
    pub fn holds_little(&mut self) -> bool {
        if let Some(Ok(frame)) = &mut self.read
            && let Some(bytes) = frame.data_ref()
        {
            if bytes.len() > LITTLE {
                return false;
            }
            *frame = Frame::data(Bytes::copy_from_slice(bytes));
        }
        self.is_whole
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Asking first tells the connection that more is wanted.
        let mut frame = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Pending, Some(link)) = (&frame, &mut self.link) {
            link.drive(context);
            frame = Pin::new(&mut self.body).poll_frame(context);
        }
        // With a known length no one asks for the end of it.
        self.is_whole = self.body.is_end_stream() || matches!(frame, Poll::Ready(None));
        self.give_back();
        frame
    }

    /// At once when it is whole: its rest may be asked for much later.
    fn give_back(&mut self) {
        if self.is_whole
            && let Some(link) = self.link.take()
        {
            self.pool.put(link);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(read));
        }
        if self.is_whole {
            return Poll::Ready(None);
        }
        self.poll_body(context)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.is_whole
    }

    fn size_hint(&self) -> SizeHint {
        let Some(left) = self.body.size_hint().exact() else {
            return SizeHint::default();
        };
        let read = self.read.as_ref().and_then(|read| read.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        SizeHint::with_exact(left + read as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::to_bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

    /// A place that answers each request of the n-th connection with the n-th answer; `closing` closes it after that.
    async fn place(answers: Vec<&'static [u8]>, closing: bool) -> Pool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a place");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        stream.write_all(answer).await.expect("written");
                        if closing {
                            return;
                        }
                    }
                });
            }
        });
        Pool::new(address.parse().expect("an authority"))
    }

    async fn ask(pool: &Pool) -> Result<Response<Answer>, Fault> {
        pool.send(Request::get("/").header("host", "a").body(Body::empty()).expect("a request")).await
    }

    async fn ask_and_read(pool: &Pool) -> String {
        read(ask(pool).await.expect("an answer")).await
    }

    async fn read(answer: Response<Answer>) -> String {
        let body = to_bytes(Body::new(answer.into_body()), 1024).await.expect("a body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn one_connection_serves_request_after_request() {
        for answer in [ANSWER, CHUNKED] {
            // A second connection would not be accepted.
            let pool = place(vec![answer], false).await;
            for _ in 0..3 {
                assert_eq!(ask_and_read(&pool).await, "ok");
            }
            assert_eq!(pool.idle().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_replaced_by_another() {
        let pool = place(vec![ANSWER; 3], true).await;
        for _ in 0..3 {
            assert_eq!(ask_and_read(&pool).await, "ok");
        }
    }

    #[tokio::test]
    async fn what_follows_an_answer_that_was_not_read_whole_is_nobodys_answer() {
        let half: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nha";
        let pool = place(vec![half, ANSWER], false).await;
        drop(ask(&pool).await.expect("the beginning"));
        assert_eq!(pool.idle().len(), 0);
        assert_eq!(ask_and_read(&pool).await, "ok");
    }

    #[tokio::test]
    async fn what_comes_unasked_is_nobodys_answer() {
        let two: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
        let pool = place(vec![two, ANSWER], false).await;
        assert_eq!(ask_and_read(&pool).await, "ok");
        assert_eq!(ask_and_read(&pool).await, "ok");
    }

    #[tokio::test]
    async fn a_request_that_arrived_is_not_sent_again() {
        // Each connection breaks off in the middle of its answer's head; the first one has served before.
        let pool = place(vec![ANSWER, b"HTTP/1.1 200 OK\r\nbroken", ANSWER], true).await;
        assert_eq!(ask_and_read(&pool).await, "ok");
        let fault = ask(&pool).await.err().expect("no answer");
        assert!(fault.may_have_arrived(), "{fault}");
        assert_eq!(ask_and_read(&pool).await, "ok");
    }

    /// A place that answers the first request of each connection and closes it when the second arrives. Gives how many
    /// arrived, too.
    async fn impatient() -> (Pool, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a place");
        let address = listener.local_addr().expect("an address").to_string();
        let arrived = Arc::new(AtomicUsize::new(0));
        let counted = arrived.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    let length = stream.read(&mut buffer).await.expect("a request");
                    assert!(length > 0, "a connection without a request");
                    counted.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(ANSWER).await.expect("written");
                    if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        (Pool::new(address.parse().expect("an authority")), arrived)
    }

    async fn change(pool: &Pool) -> Result<Response<Answer>, Fault> {
        pool.send(Request::post("/").header("host", "a").body(Body::from("x")).expect("a request")).await
    }

    #[tokio::test]
    async fn who_only_asks_is_answered_although_a_rested_connection_closes_as_the_question_leaves() {
        let (pool, arrived) = impatient().await;
        for asked in 1..=3 {
            assert_eq!(ask_and_read(&pool).await, "ok");
            // Each but the first was sent twice.
            assert_eq!(arrived.load(Ordering::Relaxed), 2 * asked - 1);
            tokio::time::sleep(RESTED).await;
        }
    }

    #[tokio::test]
    async fn what_may_have_an_effect_goes_on_no_rested_connection() {
        let (pool, arrived) = impatient().await;
        for asked in 1..=3 {
            assert_eq!(read(change(&pool).await.expect("an answer")).await, "ok");
            assert_eq!(arrived.load(Ordering::Relaxed), asked);
            tokio::time::sleep(RESTED).await;
        }
        // One that has not rested closes all the same, and then it may have arrived.
        assert_eq!(read(change(&pool).await.expect("an answer")).await, "ok");
        let fault = change(&pool).await.err().expect("no answer");
        assert!(fault.may_have_arrived(), "{fault}");
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a place");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let pool = Pool::new(address.parse().expect("an authority"));
        let fault = ask(&pool).await.err().expect("no answer");
        assert!(!fault.may_have_arrived(), "{fault}");
    }
}
