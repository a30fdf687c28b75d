//! One of the two connections of a socket. What is said is kept and leaves while the loop waits for other things, so
//! that whoever does not read holds up nobody.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// A connection of which is known how much has left through it, whole messages or not.
pub struct Outlet<S> {
    inner: S,
    /// In bytes.
    departed: u64,
}

/// A connection to the client or to core-manager.
pub struct Side<S> {
    stream: WebSocketStream<Outlet<S>>,
    /// Since when something waits to leave of which nothing has.
    unsent_since: Option<Instant>,
    /// What had left by then, in bytes.
    departed: u64,
    patience: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    /// `patience`: how long the other side may take nothing.
    pub fn new(stream: WebSocketStream<Outlet<S>>, patience: Duration) -> Self {
        Side { stream, unsent_since: None, departed: 0, patience }
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
        loop {
            let Some(deadline) = self.deadline() else {
                return if listening { poll_fn(|cx| self.poll_received(cx)).await } else { pending().await };
            };
            let either = poll_fn(|cx| match self.poll_sent(cx) {
                Poll::Pending if listening => self.poll_received(cx),
                sent => sent,
            });
            match timeout_at(deadline, either).await {
                Ok(event) => return event,
                Err(_) if self.deadline() == Some(deadline) => return Event::Unread,
                Err(_) => {}
            }
        }
    }

    /// When the other side will have taken nothing for too long, if something waits to leave.
    fn deadline(&mut self) -> Option<Instant> {
        let since = self.unsent_since.as_mut()?;
        let departed = self.stream.get_ref().departed;
        if departed != self.departed {
            self.departed = departed;
            *since = Instant::now();
        }
        Some(*since + self.patience)
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
        &mut self.stream.get_mut().inner
    }
}

impl<S> Outlet<S> {
    pub fn new(inner: S) -> Self {
        Outlet { inner, departed: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outlet<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outlet<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.departed += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncReadExt;
    use tokio::time::sleep;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Time passes as soon as all wait for it.
    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_waited_for_and_who_stops_is_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let stream = WebSocketStream::from_raw_socket(Outlet::new(near), Role::Server, None).await;
        let mut side = Side::new(stream, PATIENCE);
        side.say(Message::text("x".repeat(2_000))).expect("said");
        let mut next = pin!(side.event(false));
        for _ in 0..10 {
            tokio::select! {
                _ = &mut next => panic!("something leaves every few seconds"),
                () = sleep(PATIENCE * 2 / 3) => {}
            }
            far.read_exact(&mut [0; 32]).await.expect("read");
        }
        let stopped = Instant::now();
        assert!(matches!(next.await, Event::Unread));
        let waited = stopped.elapsed();
        assert!(waited >= PATIENCE && waited < PATIENCE * 2, "{waited:?}");
    }
}
