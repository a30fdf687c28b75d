//! Connections that do not outlive the trust they began with: when an authority is believed no more, both ends make new
//! ones, and what is left of the former ones is cut off a while later.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// A connection, which breaks a while after the end of its trust.
pub struct Trusted<S> {
    stream: S,
    /// `None` when it has come.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Trusted<S> {
    /// `farewell`: how long it lasts after the end of `trust`.
    pub fn new(stream: S, trust: CancellationToken, farewell: Duration) -> Self {
        let end = async move {
            trust.cancelled_owned().await;
            tokio::time::sleep(farewell).await;
        };
        Trusted { stream, end: Some(Box::pin(end)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Trusted<S> {
    /// HTTP/2 reads at all times, so that the end is noticed here.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_none_or(|end| end.as_mut().poll(context).is_ready()) {
            self.end = None;
            return Poll::Ready(Err(io::Error::other("its authority is believed no more")));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Trusted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S> Connected for Trusted<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
