//! Uploads whose next part must be waited for. Each holds one of core-manager's places, so that one user has a share of
//! them, and all leave half to requests that came whole. What comes at once is not counted.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use contract::{ErrorCode, Failure, Outcome};
use foldhash::fast::RandomState;

/// Counters of users: whose numbers meet share one, which among so many is rare, and changes with each start.
const SLOTS: usize = 4096;
/// A user has the 16th part of all places.
const SHARES: u32 = 16;
/// For so long an upload may be slower than it should.
const GRACE_MILLIS: u64 = 60_000;
/// Least bytes for each second that an upload is waited for.
const LEAST_RATE: u64 = 1024;

/// How many uploads are waited for. Cheap to clone.
#[derive(Clone)]
pub struct Stragglers(Arc<Counts>);

struct Counts {
    all: AtomicU32,
    most: u32,
    of_user: Box<[AtomicU32]>,
    most_of_user: u32,
    hasher: RandomState,
}

impl Stragglers {
    /// Of so many places for requests.
    pub fn new(places: usize) -> Self {
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        Stragglers(Arc::new(Counts {
            all: AtomicU32::new(0),
            most: (places / 2).max(1),
            of_user: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            most_of_user: (places / SHARES).max(1),
            hasher: RandomState::default(),
        }))
    }

    fn slot(&self, user_id: &str) -> usize {
        self.0.hasher.hash_one(user_id) as usize % SLOTS
    }

    /// Whether another upload of the user might be waited for.
    ///
    /// # Errors
    /// GW003.
    pub fn must_admit(&self, user_id: &str) -> Outcome<()> {
        let counts = &self.0;
        let of_user = &counts.of_user[self.slot(user_id)];
        let has_room = of_user.load(Ordering::Relaxed) < counts.most_of_user
            && counts.all.load(Ordering::Relaxed) < counts.most;
        if has_room { Ok(()) } else { Err(full()) }
    }

    /// Counts an upload of the user until the place is dropped.
    ///
    /// # Errors
    /// GW003 when the user, or all together, have as many as they may.
    pub fn wait_for(&self, user_id: &str) -> Outcome<Place> {
        let counts = &self.0;
        let slot = self.slot(user_id);
        // Given back at once where it is one too many.
        let place = Place { counts: counts.clone(), slot };
        let of_user = counts.of_user[slot].fetch_add(1, Ordering::Relaxed);
        let all = counts.all.fetch_add(1, Ordering::Relaxed);
        if of_user < counts.most_of_user && all < counts.most { Ok(place) } else { Err(full()) }
    }
}

fn full() -> Failure {
    Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))
}

/// A counted upload.
pub struct Place {
    counts: Arc<Counts>,
    slot: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.of_user[self.slot].fetch_sub(1, Ordering::Relaxed);
        self.counts.all.fetch_sub(1, Ordering::Relaxed);
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
    use super::*;

    #[test]
    fn a_user_has_a_share_and_all_leave_half_to_what_comes_whole() {
        let stragglers = Stragglers::new(32);
        let user = |name: &str| (0..3).map_while(|_| stragglers.wait_for(name).ok()).collect::<Vec<_>>();
        let held = user("a");
        assert_eq!(held.len(), 2);
        assert!(stragglers.must_admit("a").is_err() && stragglers.must_admit("b").is_ok());
        let others: Vec<_> = (0..1000).flat_map(|number| user(&number.to_string())).collect();
        assert_eq!(held.len() + others.len(), 16);
        assert!(stragglers.must_admit("c").is_err());
        drop((held, others));
        assert!(stragglers.must_admit("a").is_ok());
        assert_eq!(stragglers.0.all.load(Ordering::Relaxed), 0, "what was refused is given back");
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
