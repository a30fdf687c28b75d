//! One of the two connections of a socket. What is said is kept and leaves while the loop waits for other things, so
//! that whoever does not read holds up nobody.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What happens at a connection.
pub enum Event {
    /// All that was said has left.
    Sent,
    Received(Message),
    /// The other side has gone without a word.
    Gone,
    /// The other side takes nothing, for longer than it may.
    Unread,
    Failed(Error),
}

/// A connection to the client or to core-manager.
pub struct Side<S> {
    stream: WebSocketStream<S>,
    /// Since when something waits to leave.
    unsent_since: Option<Instant>,
    patience: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    /// `patience`: how long the other side may take nothing.
    pub fn new(stream: WebSocketStream<S>, patience: Duration) -> Self {
        Side { stream, unsent_since: None, patience }
    }

    /// Whether all that was said has left.
    pub fn is_clear(&self) -> bool {
        self.unsent_since.is_none()
    }

    /// Says something; it leaves with [`Side::event`].
    ///
    /// # Errors
    /// When the connection is broken, or too much waits already.
    pub fn say(&mut self, message: Message) -> Result<(), Error> {
        self.unsent_since.get_or_insert_with(Instant::now);
        Pin::new(&mut self.stream).start_send(message)
    }

    /// What happens next; nothing is received unless `listening`. Dropping the future loses nothing.
    pub async fn event(&mut self, listening: bool) -> Event {
        let Some(deadline) = self.unsent_since.map(|since| since + self.patience) else {
            return if listening { poll_fn(|cx| self.poll_received(cx)).await } else { pending().await };
        };
        let either = poll_fn(|cx| match self.poll_sent(cx) {
            Poll::Pending if listening => self.poll_received(cx),
            sent => sent,
        });
        timeout_at(deadline, either).await.unwrap_or(Event::Unread)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let sent = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.unsent_since = None;
        Poll::Ready(sent.map_or_else(Event::Failed, |()| Event::Sent))
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(message)) => {
                // The library answers pings by itself, with the next flush.
                if matches!(message, Message::Ping(_)) {
                    self.unsent_since.get_or_insert_with(Instant::now);
                }
                Event::Received(message)
            }
            Some(Err(error)) => Event::Failed(error),
            None => Event::Gone,
        })
    }

    /// Whether nothing can be received any more.
    pub fn is_over(&self) -> bool {
        futures_util::stream::FusedStream::is_terminated(&self.stream)
    }

    /// Says why we close and waits for the other side's own close; or, when that has closed first, lets our answer
    /// leave.
    pub async fn close(&mut self, frame: Option<CloseFrame>) {
        if let Some(frame) = frame
            && self.stream.send(Message::Close(Some(frame))).await.is_err()
        {
            return;
        }
        while let Some(Ok(_)) = self.stream.next().await {}
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut S {
        self.stream.get_mut()
    }
}
