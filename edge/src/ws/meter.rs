//! What a client sends, counted below the WebSocket library: that keeps fragments and control frames to itself, and
//! every frame costs work.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The longest header of a frame without its mask, in bytes.
const LONGEST_HEADER: usize = 10;
/// How much of what a refused client still sends is read, so that it gets to see why, in bytes.
const MOST_DISCARDED: u64 = 1024 * 1024;

/// The client has sent more frames than it may.
#[derive(Debug, thiserror::Error)]
#[error("too many frames")]
pub struct TooManyFrames;

/// A connection whose incoming frames are counted.
pub struct Metered<S> {
    inner: S,
    frames: Frames,
    budget: Budget,
}

impl<S> Metered<S> {
    /// `per_second`: frames that may come, in bursts of twice as many.
    pub fn new(inner: S, per_second: u32) -> Self {
        Metered { inner, frames: Frames::default(), budget: Budget::new(per_second) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Metered<S> {
    /// Ends our side and reads on until the client has ended its own: what is closed with bytes unread is reset, and
    /// a reset can overtake our last words.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn leave(&mut self) -> io::Result<()> {
        self.inner.shutdown().await?;
        let mut rest = (&mut self.inner).take(MOST_DISCARDED);
        let mut buffer = [0; 1024];
        while rest.read(&mut buffer).await? > 0 {}
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let begun = self.frames.begun(&buf.filled()[before..]);
        if !self.budget.take(begun, Instant::now()) {
            // Who fails has read nothing.
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::other(TooManyFrames)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Follows the frames of a client through its bytes (RFC 6455 section 5.2), however these are cut.
#[derive(Default)]
struct Frames {
    header: [u8; LONGEST_HEADER],
    /// How much of the header has come.
    known: usize,
    /// What is still to come of the frame after its header, mask included.
    left: u64,
}

impl Frames {
    /// How many frames begin in these bytes.
    fn begun(&mut self, mut bytes: &[u8]) -> u32 {
        let mut count = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            count += u32::from(self.known == 0);
            self.header[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if self.known == self.header_length() {
                self.left = self.length();
                self.known = 0;
            }
        }
        count
    }

    /// How long this header is, as far as can be said.
    fn header_length(&self) -> usize {
        match (self.known, self.header[1] & 0x7f) {
            (0 | 1, _) => 2,
            (_, 126) => 4,
            (_, 127) => 10,
            _ => 2,
        }
    }

    fn length(&self) -> u64 {
        let [_, second, rest @ ..] = &self.header;
        let payload = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => u64::from_be_bytes(*rest),
            length => u64::from(length),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        payload.saturating_add(mask)
    }
}

/// A token bucket: so many frames a second, bursts of twice as many.
struct Budget {
    per_second: f64,
    left: f64,
    at: Option<Instant>,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Budget { per_second, left: per_second * 2.0, at: None }
    }

    fn take(&mut self, frames: u32, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.left = (self.left + passed.as_secs_f64() * self.per_second).min(self.per_second * 2.0);
        self.left -= f64::from(frames);
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Masked frames with payloads of these lengths, whose bytes look like headers.
    fn sent(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.push(0x81);
            match (u8::try_from(*length), u16::try_from(*length)) {
                (Ok(short @ ..126), _) => bytes.push(0x80 | short),
                (_, Ok(long)) => {
                    bytes.push(0x80 | 126);
                    bytes.extend(long.to_be_bytes());
                }
                _ => {
                    bytes.push(0x80 | 127);
                    bytes.extend((*length as u64).to_be_bytes());
                }
            }
            bytes.extend(vec![0x81; 4 + length]);
        }
        bytes
    }

    proptest::proptest! {
        #[test]
        fn frames_are_counted_however_their_bytes_are_cut(
            lengths in proptest::collection::vec(0_usize..70_000, 0..6),
            cut in 1_usize..9_000,
        ) {
            let mut frames = Frames::default();
            let count: u32 = sent(&lengths).chunks(cut).map(|bytes| frames.begun(bytes)).sum();
            proptest::prop_assert_eq!(count as usize, lengths.len());
        }
    }

    #[test]
    fn a_second_brings_its_frames_and_no_more_than_two_seconds_are_saved_up() {
        let mut budget = Budget::new(50);
        let start = Instant::now();
        assert!(budget.take(100, start));
        assert!(budget.take(50, start + Duration::from_secs(1)));
        assert!(budget.take(100, start + Duration::from_secs(60)));
        assert!(!budget.take(1, start + Duration::from_secs(60)));
    }

    #[tokio::test]
    async fn who_sends_too_many_frames_is_read_no_further() {
        let few = sent(&[0; 4]);
        let mut buffer = Vec::new();
        Metered::new(&few[..], 2).read_to_end(&mut buffer).await.expect("within the budget");
        let many = sent(&[0; 5]);
        let refused = Metered::new(&many[..], 2).read_to_end(&mut buffer).await.expect_err("beyond it");
        assert!(refused.get_ref().is_some_and(|cause| cause.is::<TooManyFrames>()));
    }
}
