//! Places that many share, such as those for requests to core-manager: there are so many, and whoever has a share of them
//! gets another one only while half of them are free. So one alone has at most half, and the others share the rest.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use contract::{ErrorCode, Failure};
use foldhash::fast::RandomState;

/// Counters of those who share: whose numbers meet share one, which among so many is rare, and changes with each start.
const SLOTS: usize = 4096;
/// A share is the 16th part of all places, or these.
const PARTS: usize = 16;
const LEAST: usize = 4;

/// Where somebody is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// That of a user, an address, or whatever else is counted.
    pub fn of(whose: &(impl Hash + ?Sized)) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        Slot((HASHER.hash_one(whose) % SLOTS as u64) as u16)
    }
}

/// How many each holds of places that are counted elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct Shares(Arc<Counts>);

struct Counts {
    held: Box<[AtomicU32]>,
    most: u32,
}

impl Shares {
    /// Of so many places.
    pub fn new(places: usize) -> Self {
        Shares(Arc::new(Counts {
            held: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            most: u32::try_from((places / PARTS).max(LEAST)).unwrap_or(u32::MAX),
        }))
    }

    /// Whether another one is within the share.
    pub fn has_room(&self, slot: Slot) -> bool {
        self.of(slot) < self.0.most
    }

    /// Counts one until it is dropped.
    pub fn take(&self, slot: Slot) -> Share {
        let before = self.0.of(slot).fetch_add(1, Ordering::Relaxed);
        Share { counts: self.0.clone(), slot, is_too_many: before >= self.0.most }
    }

    /// How many those of one slot hold.
    pub fn of(&self, slot: Slot) -> u32 {
        self.0.of(slot).load(Ordering::Relaxed)
    }
}

impl Counts {
    fn of(&self, slot: Slot) -> &AtomicU32 {
        &self.held[usize::from(slot.0)]
    }
}

/// One that somebody holds.
pub struct Share {
    counts: Arc<Counts>,
    slot: Slot,
    is_too_many: bool,
}

impl Share {
    /// Whether as many as may be were held when it was taken.
    pub fn is_too_many(&self) -> bool {
        self.is_too_many
    }

    /// What those of one holder have in common.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counts.of(self.slot).fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many places. Cheap to clone.
#[derive(Clone)]
pub struct Places {
    most: usize,
    taken: Arc<AtomicUsize>,
    shares: Shares,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// All are taken.
    All,
    /// Half are, and whoever asks has a share of them.
    Share,
}

impl From<Short> for Failure {
    fn from(_: Short) -> Self {
        Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))
    }
}

/// A place, until it is dropped.
pub struct Place {
    taken: Arc<AtomicUsize>,
    _share: Share,
}

impl Places {
    pub fn new(most: usize) -> Self {
        Places { most, taken: Arc::default(), shares: Shares::new(most) }
    }

    /// A place for whoever is counted there. Waits for nothing.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, slot: Slot) -> Result<Place, Short> {
        let share = self.shares.take(slot);
        let is_too_many = share.is_too_many();
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place { taken: self.taken.clone(), _share: share };
        if before >= self.most {
            return Err(Short::All);
        }
        if is_too_many && before >= self.most / 2 {
            return Err(Short::Share);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_has_a_share_which_others_do_not_touch() {
        let shares = Shares::new(32);
        let slot = Slot::of("a");
        let held = [0; LEAST + 1].map(|_| shares.take(slot));
        assert_eq!(held.each_ref().map(Share::is_too_many), [false, false, false, false, true]);
        assert_eq!(shares.of(held[0].slot()), 5);
        assert!(!shares.has_room(slot));
        let others = (0..99).filter(|other: &u32| shares.has_room(Slot::of(&other.to_string()))).count();
        assert!(others > 90, "{others}");
        drop(held);
        assert!(shares.has_room(slot));
    }

    #[test]
    fn who_has_a_share_gets_more_only_while_half_are_free() {
        let places = Places::new(64);
        let [one, other] = [Slot(1), Slot(2)];
        let half: Vec<_> = (0..32).map(|_| places.take(one).expect("there is room")).collect();
        assert_eq!(places.take(one).err(), Some(Short::Share));
        let share: Vec<_> = (0..4).map(|_| places.take(other).expect("a share")).collect();
        assert_eq!(places.take(other).err(), Some(Short::Share));
        let rest: Vec<_> =
            (0..28).map(|number| places.take(Slot(10 + number)).expect("one of its own")).collect();
        assert_eq!(places.take(Slot(99)).err(), Some(Short::All));
        drop((half, share, rest));
        assert_eq!(places.taken.load(Ordering::Relaxed), 0, "who is refused holds nothing");
        assert!(places.take(one).is_ok());
    }
}
