//! hyper answers what it cannot parse with a bare status and no body, before any handler runs. This wrapper around
//! the connection gives those answers the shape of the contract as they are written: only while no request is being
//! answered, so that what is written can be no part of an answer of ours or of core-manager's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use contract::{ErrorCode, Failure};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uuid::Uuid;

use super::patience::Activity;
use crate::answer;

/// A connection whose bare errors get a body.
pub struct ShapedErrors<S> {
    inner: S,
    activity: Arc<Activity>,
    /// What stands in for a bare error and has not been written yet.
    pending: Vec<u8>,
}

impl<S> ShapedErrors<S> {
    pub fn new(inner: S, activity: Arc<Activity>) -> Self {
        ShapedErrors { inner, activity, pending: Vec::new() }
    }

    fn stand_in(&self, written: &[u8]) -> Option<Vec<u8>> {
        if self.activity.is_quiet() { shaped(written) } else { None }
    }
}

/// The answer that replaces a bare one. Ours always carry `x-request-id`, and hyper's own are a head alone.
fn shaped(written: &[u8]) -> Option<Vec<u8>> {
    let status = match written.get(..12)? {
        b"HTTP/1.1 400" => StatusCode::BAD_REQUEST,
        b"HTTP/1.1 414" => StatusCode::URI_TOO_LONG,
        b"HTTP/1.1 431" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => return None,
    };
    let is_head_alone =
        written.ends_with(b"\r\n\r\n") && written.windows(4).filter(|w| w == b"\r\n\r\n").count() == 1;
    if !is_head_alone || written.windows(12).any(|w| w.eq_ignore_ascii_case(b"x-request-id")) {
        return None;
    }
    let failure = match status {
        StatusCode::BAD_REQUEST => {
            Failure::new(ErrorCode::InvalidRequest).saying("Not a well-formed HTTP request")
        }
        status => Failure::new(ErrorCode::Unacceptable).with_http(status).saying("The headers are too large"),
    };
    let request_id = Uuid::now_v7().to_string();
    let body = answer::body(&failure, &request_id).to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {request_id}\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Some((head + &body).into_bytes())
}

impl<S: AsyncWrite + Unpin> ShapedErrors<S> {
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, &self.pending))?;
            self.pending.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ShapedErrors<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.is_overdone() {
            return Poll::Ready(Err(io::Error::other("the client gives up too many requests")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ShapedErrors<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        match self.stand_in(buf) {
            Some(stand_in) => {
                self.pending = stand_in;
                Poll::Ready(Ok(buf.len()))
            }
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && let Some(stand_in) = self.stand_in(only)
        {
            self.pending = stand_in;
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.activity.written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_error_is_replaced() {
        let bare =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let text = String::from_utf8(shaped(bare).expect("replaced")).expect("UTF-8");
        assert!(text.starts_with("HTTP/1.1 431 ") && text.contains(r#""code":"REQ003""#), "{text}");
        for ours in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 400",
            b"data",
        ] {
            assert!(shaped(ours).is_none());
        }
    }

    #[tokio::test]
    async fn what_is_written_for_a_request_is_never_replaced() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let activity = Arc::new(Activity::default());
        let (client, server) = tokio::io::duplex(4096);
        let (mut client, mut server) = (client, ShapedErrors::new(server, activity.clone()));
        let mut passed = vec![0; BARE.len()];
        let running = activity.begin(http::Version::HTTP_11);
        server.write_all(BARE).await.expect("written");
        client.read_exact(&mut passed).await.expect("read");
        assert_eq!(passed, BARE);
        // Its body has ended, and is still on its way.
        drop(running);
        server.write_all(BARE).await.expect("written");
        client.read_exact(&mut passed).await.expect("read");
        assert_eq!(passed, BARE);
        server.flush().await.expect("flushed");
        server.write_all(BARE).await.expect("written");
        server.shutdown().await.expect("closed");
        let mut replaced = String::new();
        client.read_to_string(&mut replaced).await.expect("read");
        assert!(replaced.contains("REQ001"), "{replaced}");
    }
}
