//! Bodies that are taken in whole before anything is done with them: within a number of bytes and a time, and within what
//! all that are on their way may hold together, of which one address has a share. What is there at once takes nothing of
//! that: while it is used up, a sign-in of one packet still passes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::{ErrorCode, Failure, Outcome};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::front::{Client, Crowd, Limit, Seat};

/// How long a body may take to come whole.
const TIME: Duration = Duration::from_secs(60);
/// A body that must be waited for takes memory by so many bytes.
const STEP: usize = 16 * 1024;
/// Most steps of all bodies together: 64 MiB.
const STEPS: usize = 4096;
/// Most of one address: 8 MiB.
const STEPS_OF_ADDRESS: usize = 512;

/// The memory for bodies on their way. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    steps: Arc<Semaphore>,
    crowd: Crowd,
}

impl Default for Room {
    fn default() -> Self {
        Room::new(STEPS, STEPS_OF_ADDRESS)
    }
}

/// [`STEP`] bytes of the room.
struct Step {
    _step: OwnedSemaphorePermit,
    _seat: Seat,
}

impl Room {
    fn new(steps: usize, of_address: usize) -> Self {
        Room { steps: Arc::new(Semaphore::new(steps)), crowd: Crowd::new(of_address) }
    }

    fn step(&self, address: IpAddr) -> Outcome<Step> {
        let seat = self.crowd.seat(address);
        match (seat, self.steps.clone().try_acquire_owned()) {
            (Some(seat), Ok(step)) => Ok(Step { _step: step, _seat: seat }),
            _ => {
                Limit::BodyRoom.bites();
                Err(Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(5)))
            }
        }
    }

    /// Takes in a body of at most `limit` bytes. What it takes of the room is given back with the bytes.
    ///
    /// # Errors
    /// REQ003 when it is larger; REQ001 when it breaks off or takes too long; GW003 when there is no room.
    pub async fn take_in(&self, body: Body, limit: usize, client: &Client) -> Outcome<Bytes> {
        let address = client.address().parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        match timeout(TIME, self.collect(body, limit, address)).await {
            Ok(taken) => taken,
            Err(_) => {
                Limit::BodyTime.bites();
                Err(Failure::field("body", "took too long to come"))
            }
        }
    }

    async fn collect(&self, body: Body, limit: usize, address: IpAddr) -> Outcome<Bytes> {
        let mut body = Limited::new(body, limit);
        let mut taken = Taken::default();
        loop {
            let next = match body.frame().now_or_never() {
                Some(next) => next,
                None => {
                    while taken.steps.len() <= taken.bytes.len() / STEP {
                        taken.steps.push(self.step(address)?);
                    }
                    body.frame().await
                }
            };
            match next {
                Some(Ok(frame)) => taken.bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(error)) if error.is::<LengthLimitError>() => {
                    Limit::BodySize.bites();
                    return Err(Failure::new(ErrorCode::Unacceptable)
                        .saying(format!("The body is larger than {limit} bytes")));
                }
                Some(Err(error)) => {
                    return Err(Failure::field("body", "ended before it was complete").because(error));
                }
                None => return Ok(Bytes::from_owner(taken)),
            }
        }
    }
}

/// What has come of a body, with its part of the room.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;

    const LIMIT: usize = 2 * STEP;

    fn client(last: u8) -> Client {
        Client::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
    }

    /// Begins with so many bytes and then does not go on.
    fn hanging(length: usize) -> Body {
        let beginning = stream::iter([Ok::<_, Infallible>(vec![0; length])]);
        Body::from_stream(beginning.chain(stream::pending()))
    }

    /// Comes in two pieces, the second of which must be waited for.
    fn in_two() -> Body {
        let second = stream::once(async {
            tokio::task::yield_now().await;
            Ok("second")
        });
        Body::from_stream(stream::iter([Ok::<_, Infallible>("first ")]).chain(second))
    }

    #[tokio::test]
    async fn bodies_that_hang_hold_no_more_than_there_is_and_keep_out_none_that_is_there() {
        let room = Room::new(3, 2);
        let one = client(1);
        let mut first = Box::pin(room.take_in(hanging(STEP), LIMIT, &one));
        assert!(first.as_mut().now_or_never().is_none(), "it holds both of its address");
        let refused = room.take_in(in_two(), LIMIT, &client(1)).await.expect_err("no room");
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert_eq!(&room.take_in(Body::from("here"), LIMIT, &client(1)).await.expect("taken")[..], b"here");
        let held = room.take_in(in_two(), LIMIT, &client(2)).await.expect("others have room");
        assert_eq!(&held[..], b"first second");
        assert!(room.take_in(in_two(), LIMIT, &client(3)).await.is_err(), "as long as the bytes are there");
        drop(held);
        assert!(room.take_in(in_two(), LIMIT, &client(3)).await.is_ok());
        drop(first);
        assert_eq!(room.steps.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_whole_is_not_waited_for() {
        let trickle = stream::repeat(Ok::<_, Infallible>("x")).then(async |byte| {
            tokio::time::sleep(Duration::from_secs(20)).await;
            byte
        });
        let started = tokio::time::Instant::now();
        let refused = Room::default().take_in(Body::from_stream(trickle), LIMIT, &client(1)).await;
        assert_eq!(refused.expect_err("too slow").code(), ErrorCode::InvalidRequest);
        assert_eq!(started.elapsed(), TIME);
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused() {
        let refused = Room::default().take_in(Body::from("12345"), 4, &client(1)).await;
        assert_eq!(refused.expect_err("too large").code(), ErrorCode::Unacceptable);
    }
}
