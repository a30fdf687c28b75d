//! Bodies that are taken in whole before anything is done with them: within a number of bytes and a time, and within what
//! all that are on their way may hold together, of which one address has a share. Where that is used up, the one that has
//! been waited for the longest gives way: who is quick gets through, however many hang. What is there at once takes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::{ErrorCode, Failure, Outcome};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::front::{Client, Household, Limit};

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
pub struct Room(Arc<Known>);

struct Known {
    most: usize,
    most_of_address: usize,
    /// Locked for as long as it takes to count.
    held: Mutex<Held>,
}

/// What is held, in steps.
#[derive(Default)]
struct Held {
    all: usize,
    of_address: HashMap<Household, usize>,
    /// Bodies of which more is waited for, in the order in which that began.
    waiting: BTreeMap<u64, Waiting>,
    /// The next number.
    next: u64,
}

struct Waiting {
    address: Household,
    steps: usize,
    /// Dropped when it must give way.
    _stay: oneshot::Sender<()>,
}

impl Held {
    fn add(&mut self, address: Household, steps: usize) {
        self.all += steps;
        *self.of_address.entry(address).or_default() += steps;
    }

    fn take_away(&mut self, address: Household, steps: usize) {
        self.all -= steps;
        if let Some(held) = self.of_address.get_mut(&address) {
            *held -= steps;
            if *held == 0 {
                self.of_address.remove(&address);
            }
        }
    }

    /// Has the first but `number` give way, of an address where one is named. Whether there was one.
    fn evict(&mut self, number: u64, address: Option<Household>) -> bool {
        let is_meant = |(other, waiting): &(&u64, &Waiting)| {
            **other != number && address.is_none_or(|address| waiting.address == address)
        };
        let Some(first) = self.waiting.iter().find(is_meant).map(|(first, _)| *first) else { return false };
        if let Some(gone) = self.waiting.remove(&first) {
            self.take_away(gone.address, gone.steps);
        }
        true
    }
}

impl Default for Room {
    fn default() -> Self {
        Room::new(STEPS, STEPS_OF_ADDRESS)
    }
}

impl Room {
    fn new(most: usize, most_of_address: usize) -> Self {
        Room(Arc::new(Known { most, most_of_address, held: Mutex::default() }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, address: Household) -> Place {
        let (stay, must_leave) = oneshot::channel();
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        held.waiting.insert(number, Waiting { address, steps: 0, _stay: stay });
        Place { room: self.clone(), number, must_leave, whole: None }
    }

    /// Takes in a body of at most `limit` bytes. What it takes of the room is given back with the bytes.
    ///
    /// # Errors
    /// REQ003 when it is larger; REQ001 when it breaks off or takes too long; GW003 when there is no room.
    pub async fn take_in(&self, body: Body, limit: usize, client: &Client) -> Outcome<Bytes> {
        match timeout(TIME, self.collect(body, limit, client.household())).await {
            Ok(taken) => taken,
            Err(_) => {
                Limit::BodyTime.bites();
                Err(Failure::field("body", "took too long to come"))
            }
        }
    }

    async fn collect(&self, body: Body, limit: usize, address: Household) -> Outcome<Bytes> {
        let mut body = Limited::new(body, limit);
        let mut taken = Taken::default();
        loop {
            let next = match body.frame().now_or_never() {
                Some(next) => next,
                None => {
                    let place = taken.place.get_or_insert_with(|| self.enter(address));
                    place.must_have(taken.bytes.len() / STEP + 1)?;
                    tokio::select! {
                        biased;
                        next = body.frame() => next,
                        _ = &mut place.must_leave => return Err(full()),
                    }
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
                None => {
                    taken.place.as_mut().map_or(Ok(()), Place::is_whole)?;
                    return Ok(Bytes::from_owner(taken));
                }
            }
        }
    }
}

fn full() -> Failure {
    Limit::BodyRoom.bites();
    Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(5))
}

/// The part of the room that a body has, which is given back when it is dropped.
struct Place {
    room: Room,
    number: u64,
    must_leave: oneshot::Receiver<()>,
    /// What it holds once nothing more is waited for: whose work is being done gives way to nobody.
    whole: Option<(Household, usize)>,
}

impl Place {
    /// Takes as much of the room as is needed now.
    ///
    /// # Errors
    /// GW003 when there is no more, or the body had to give way.
    fn must_have(&mut self, steps: usize) -> Outcome<()> {
        let (known, held) = (&self.room.0, &mut *self.room.held());
        let Some(mine) = held.waiting.get(&self.number) else { return Err(full()) };
        if steps > known.most_of_address.min(known.most) {
            return Err(full());
        }
        let (address, more) = (mine.address, steps.saturating_sub(mine.steps));
        let of_address = |held: &Held| held.of_address.get(&address).copied().unwrap_or(0);
        while of_address(held) + more > known.most_of_address {
            if !held.evict(self.number, Some(address)) {
                return Err(full());
            }
        }
        while held.all + more > known.most {
            if !held.evict(self.number, None) {
                return Err(full());
            }
        }
        held.add(address, more);
        if let Some(mine) = held.waiting.get_mut(&self.number) {
            mine.steps += more;
        }
        Ok(())
    }

    /// Nothing more is waited for.
    ///
    /// # Errors
    /// GW003 when it had to give way a moment ago.
    fn is_whole(&mut self) -> Outcome<()> {
        let waited = self.room.held().waiting.remove(&self.number).ok_or_else(full)?;
        self.whole = Some((waited.address, waited.steps));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.room.held();
        let waited = held.waiting.remove(&self.number).map(|waited| (waited.address, waited.steps));
        if let Some((address, steps)) = self.whole.or(waited) {
            held.take_away(address, steps);
        }
    }
}

/// What has come of a body, with its part of the room.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    place: Option<Place>,
}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::{IpAddr, Ipv4Addr};

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

    /// Begins to take in a body that hangs.
    fn begun<'r>(
        room: &'r Room,
        length: usize,
        client: &'r Client,
    ) -> impl Future<Output = Outcome<Bytes>> + 'r {
        let mut taking = Box::pin(room.take_in(hanging(length), LIMIT, client));
        assert!(taking.as_mut().now_or_never().is_none(), "it hangs");
        taking
    }

    fn must_be_full(taken: Option<Outcome<Bytes>>) {
        assert_eq!(taken.expect("an end").expect_err("no room").code(), ErrorCode::Overloaded);
    }

    #[tokio::test]
    async fn where_there_is_no_room_whoever_hangs_the_longest_gives_way() {
        let room = Room::new(3, 2);
        let clients = [client(1), client(2), client(3)];
        let first = begun(&room, 0, &clients[0]);
        let second = begun(&room, STEP, &clients[1]);
        let whole = room.take_in(in_two(), LIMIT, &clients[2]).await.expect("taken");
        assert_eq!(&whole[..], b"first second");
        must_be_full(first.now_or_never());
        assert!(room.take_in(in_two(), LIMIT, &clients[0]).await.is_ok());
        must_be_full(second.now_or_never());
        drop(whole);
        let held = room.held();
        assert_eq!((held.all, held.of_address.len(), held.waiting.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn an_address_has_a_share_within_which_its_own_give_way() {
        let room = Room::new(9, 2);
        let (one, other) = (client(1), client(2));
        let others = begun(&room, STEP, &other);
        let first = begun(&room, 0, &one);
        let second = begun(&room, 0, &one);
        let third = begun(&room, 0, &one);
        must_be_full(first.now_or_never());
        let large = begun(&room, STEP, &one);
        must_be_full(second.now_or_never());
        must_be_full(third.now_or_never());
        must_be_full(room.take_in(hanging(2 * STEP), 3 * STEP, &one).now_or_never());
        assert_eq!(room.held().all, 4, "nobody gives way to what could never have room");
        drop((large, others));
        assert_eq!(room.held().all, 0);
    }

    #[tokio::test]
    async fn what_is_there_and_what_is_whole_gives_way_to_nobody() {
        let room = Room::new(1, 1);
        let held = room.take_in(in_two(), LIMIT, &client(1)).await.expect("taken");
        must_be_full(Some(room.take_in(in_two(), LIMIT, &client(2)).await));
        let here = room.take_in(Body::from("here"), LIMIT, &client(2)).await.expect("taken");
        assert_eq!((&here[..], &held[..]), (&b"here"[..], &b"first second"[..]));
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
