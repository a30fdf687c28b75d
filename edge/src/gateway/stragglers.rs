//! Uploads whose next part must be waited for. They may hold half of core-manager's places, and one user a share of
//! these; when all are taken, of the user who has the most the upload that has waited for the longest gives way. What comes
//! at once is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use contract::{ErrorCode, Failure, Outcome};
use futures_util::task::AtomicWaker;

use super::turns::{Turn, Turns};
use crate::front::Limit;
use crate::places::{Share, Shares, Slot};

/// For so long an upload may be slower than it should.
const GRACE_MILLIS: u64 = 60_000;
/// Least bytes for each second that an upload is waited for.
const LEAST_RATE: u64 = 1024;

/// The uploads that are waited for. Cheap to clone.
#[derive(Clone)]
pub struct Stragglers {
    shares: Shares,
    turns: Turns<Arc<Straggler>>,
}

/// One that is waited for, as others see it.
struct Straggler {
    /// Equal for all of one user.
    of_user: Slot,
    gave_way: AtomicBool,
    waker: AtomicWaker,
}

impl Stragglers {
    /// Of so many places for requests.
    pub fn new(places: usize) -> Self {
        Stragglers { shares: Shares::new(places), turns: Turns::new(places / 2) }
    }

    /// Whether another upload of the user might be waited for. Others do not matter: their uploads would give way.
    pub fn has_room(&self, user: Slot) -> bool {
        self.shares.has_room(user)
    }

    /// Counts an upload of the user that must be waited for, until the place is dropped.
    ///
    /// # Errors
    /// GW003 when the user has as many as may be.
    pub fn admit(&self, user: Slot) -> Outcome<Place> {
        let share = self.shares.take(user);
        if share.is_too_many() {
            return Err(full());
        }
        let (of_user, gave_way, waker) = (share.slot(), AtomicBool::new(false), AtomicWaker::new());
        let straggler = Arc::new(Straggler { of_user, gave_way, waker });
        let (turns, shares) = (self.turns.clone(), self.shares.clone());
        Ok(Place { turns, shares, straggler, turn: None, is_waiting: false, _share: share })
    }
}

fn full() -> Failure {
    Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))
}

/// A counted upload. It is among those that may have to give way only while it waits.
pub struct Place {
    turns: Turns<Arc<Straggler>>,
    shares: Shares,
    straggler: Arc<Straggler>,
    /// Its last one.
    turn: Option<Turn>,
    is_waiting: bool,
    _share: Share,
}

impl Place {
    /// More must be waited for at the millisecond `now`; whoever waits is woken when it has to give way.
    ///
    /// # Errors
    /// GW003 when it had to.
    pub fn waits(&mut self, now: u64, waker: &Waker) -> Outcome<()> {
        self.straggler.waker.register(waker);
        if self.straggler.gave_way.load(Ordering::Acquire) {
            return Err(full());
        }
        if !self.is_waiting {
            self.is_waiting = true;
            let weight = |straggler: &Arc<Straggler>| self.shares.of(straggler.of_user);
            let (turn, displaced) = self.turns.enter(self.straggler.clone(), self.turn, now, weight);
            self.turn = Some(turn);
            if let Some(displaced) = displaced {
                displaced.give_way();
            }
        }
        Ok(())
    }

    /// More is there.
    pub fn goes_on(&mut self) {
        if std::mem::take(&mut self.is_waiting)
            && let Some(turn) = self.turn
        {
            self.turns.leave(turn);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.goes_on();
    }
}

impl Straggler {
    fn give_way(&self) {
        Limit::Uploads.bites();
        self.gave_way.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// How fast an upload comes, by the time that it was waited for: that core-manager is slow to take it is not its fault.
/// Times are in milliseconds.
#[derive(Default)]
pub struct Pace {
    bytes: u64,
    waited: u64,
    waits_since: Option<u64>,
}

impl Pace {
    /// More is waited for.
    pub fn waits(&mut self, now: u64) {
        self.waits_since.get_or_insert(now);
    }

    /// So many bytes are there.
    ///
    /// # Errors
    /// REQ001 when it is too slow.
    pub fn comes(&mut self, now: u64, bytes: usize) -> Outcome<()> {
        self.bytes += bytes as u64;
        if let Some(since) = self.waits_since.take() {
            self.waited += now.saturating_sub(since);
        }
        if self.waited <= GRACE_MILLIS || self.bytes.saturating_mul(1000) >= self.waited * LEAST_RATE {
            return Ok(());
        }
        Err(Failure::field("body", "came too slowly"))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_user_has_a_share_which_is_given_back() {
        let stragglers = Stragglers::new(32);
        let held = [0; 4].map(|_| stragglers.admit(Slot::of("a")).expect("a place"));
        assert!(!stragglers.has_room(Slot::of("a")) && stragglers.admit(Slot::of("a")).is_err());
        assert!(stragglers.has_room(Slot::of("b")));
        drop(held);
        assert!(stragglers.has_room(Slot::of("a")), "what was refused is given back");
    }

    #[test]
    fn the_upload_that_has_waited_for_the_longest_gives_way_and_one_that_moves_does_not() {
        let stragglers = Stragglers::new(4);
        let mut places = ["a", "b", "c", "d"].map(|user| stragglers.admit(Slot::of(user)).expect("a place"));
        let mut waits = |which: usize, now| places[which].waits(now, Waker::noop());
        for now in 0..2 {
            assert!(waits(0, now).is_ok() && waits(1, now).is_ok());
        }
        assert!(waits(2, 2).is_ok(), "who comes gets through");
        assert!(waits(0, 3).is_err() && waits(1, 3).is_ok());
        places[1].goes_on();
        let mut waits = |which: usize, now| places[which].waits(now, Waker::noop());
        assert!(waits(3, 2000).is_ok(), "whose next part has come holds no place");
        assert!(waits(2, 2001).is_ok() && waits(1, 2002).is_ok());
        assert!(waits(2, 2003).is_err() && waits(3, 2003).is_ok());
    }

    #[test]
    fn uploads_of_whoever_has_the_most_give_way_and_not_the_oldest_of_all() {
        let stragglers = Stragglers::new(8);
        let mut places =
            ["a", "b", "b", "b", "c"].map(|user| stragglers.admit(Slot::of(user)).expect("a place"));
        let mut waits = |which: usize| places[which].waits(which as u64, Waker::noop());
        assert!((0..4).all(|which| waits(which).is_ok()));
        assert!(waits(4).is_ok());
        assert_eq!([0, 1, 2, 3].map(|which| waits(which).is_ok()), [true, false, true, true]);
    }

    #[tokio::test]
    async fn whoever_waits_for_an_upload_that_gives_way_is_woken() {
        let stragglers = Stragglers::new(2);
        let mut places = ["a", "b"].map(|user| stragglers.admit(Slot::of(user)).expect("a place"));
        let [slow, next] = &mut places;
        let waiting = poll_fn(|context| match slow.waits(0, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(failure) => Poll::Ready(failure.code()),
        });
        let come = async { assert!(next.waits(1, Waker::noop()).is_ok()) };
        let both = async { tokio::join!(waiting, come) };
        let (code, ()) = tokio::time::timeout(Duration::from_secs(5), both).await.expect("woken");
        assert_eq!(code, ErrorCode::Overloaded);
    }

    #[test]
    fn an_upload_that_is_waited_for_must_come_at_the_least_rate() {
        let mut trickle = Pace::default();
        let mut steady = Pace::default();
        for second in 0..=60 {
            let now = second * 1000;
            trickle.waits(now);
            steady.waits(now);
            assert!(trickle.comes(now + 1000, 1).is_ok() == (second < 60), "{second}");
            assert!(steady.comes(now + 1000, 1024).is_ok());
        }
    }

    #[test]
    fn what_core_manager_is_slow_to_take_is_no_slow_upload() {
        let mut pace = Pace::default();
        for hour in 0..10 {
            pace.waits(hour * 3_600_000);
            assert!(pace.comes(hour * 3_600_000 + 10, 1).is_ok());
        }
    }
}
