//! The buckets of this edge. Taking from one is a read of a lock-free map and an exchange of one number.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::{MINUTE, Taken, interval};

/// Most users that are counted at once. Those beyond are admitted uncounted: it takes so many users in a minute that
/// one edge cannot serve them.
const MOST: usize = 2_000_000;

/// A bucket for each user that has one which is not full.
pub struct Buckets {
    /// Users come from verified tokens: nobody can choose many that fall together.
    users: papaya::HashMap<String, Bucket, RandomState>,
    started: Instant,
}

struct Bucket {
    /// The limit that `full_at` was counted with.
    per_minute: AtomicU32,
    /// Nanoseconds from `started` to when the bucket is full again.
    full_at: AtomicU64,
}

impl Buckets {
    pub fn new() -> Self {
        Buckets { users: papaya::HashMap::default(), started: Instant::now() }
    }

    /// Takes one request out of the user's bucket, if there is one in it.
    pub fn take(&self, user_id: &str, per_minute: u32) -> Taken {
        self.take_at(self.now(), user_id, per_minute)
    }

    fn take_at(&self, now: u64, user_id: &str, per_minute: u32) -> Taken {
        let users = self.users.pin();
        let bucket = match users.get(user_id) {
            Some(bucket) => bucket,
            None if users.len() >= MOST => return Taken { admitted: true, owed: interval(per_minute) },
            None => users.get_or_insert(user_id.to_owned(), Bucket::full(per_minute)),
        };
        bucket.take(now, per_minute)
    }

    /// The bucket is at least so empty, and never emptier than empty.
    pub fn raise(&self, user_id: &str, owed: Duration) {
        if let Some(bucket) = self.users.pin().get(user_id) {
            bucket.full_at.fetch_max(self.now() + nanos(owed.min(MINUTE)), Ordering::Relaxed);
        }
    }

    /// Drops full buckets.
    pub fn forget(&self) {
        self.forget_at(self.now());
    }

    fn forget_at(&self, now: u64) {
        self.users.pin().retain(|_, bucket| bucket.full_at.load(Ordering::Relaxed) > now);
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }
}

impl Bucket {
    fn full(per_minute: u32) -> Self {
        Bucket { per_minute: AtomicU32::new(per_minute), full_at: AtomicU64::new(0) }
    }

    fn take(&self, now: u64, per_minute: u32) -> Taken {
        self.obey(now, per_minute);
        let (minute, interval) = (nanos(MINUTE), nanos(interval(per_minute)));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now) + interval;
            (next - now <= minute).then_some(next)
        });
        let (admitted, full_at) = match taken {
            Ok(before) => (true, before.max(now) + interval),
            Err(full_at) => (false, full_at),
        };
        Taken { admitted, owed: Duration::from_nanos(full_at.saturating_sub(now)) }
    }

    /// The tier has changed: what was used stays used, out of as many as there are now.
    fn obey(&self, now: u64, per_minute: u32) {
        let before = self.per_minute.load(Ordering::Relaxed);
        let relaxed = Ordering::Relaxed;
        if before == per_minute
            || self.per_minute.compare_exchange(before, per_minute, relaxed, relaxed).is_err()
        {
            return;
        }
        let rescale = |full_at: u64| {
            let owed = u128::from(full_at.saturating_sub(now)) * u128::from(before) / u128::from(per_minute);
            Some(now + (owed as u64).min(nanos(MINUTE)))
        };
        // It never fails, as it always has a new value.
        let _ = self.full_at.fetch_update(relaxed, relaxed, rescale);
    }
}

/// Enough for five hundred years.
fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(buckets: &Buckets, now: u64, per_minute: u32, tries: usize) -> usize {
        (0..tries).filter(|_| buckets.take_at(now, "u", per_minute).admitted).count()
    }

    #[test]
    fn a_minutes_worth_is_admitted_at_once_and_then_as_the_bucket_fills() {
        for per_minute in [1, 7, 60, 300, 1000] {
            let buckets = Buckets::new();
            let all = per_minute as usize;
            assert_eq!(admitted(&buckets, SECOND, per_minute, 2 * all), all);
            assert_eq!(admitted(&buckets, 31 * SECOND, per_minute, 2 * all), all / 2);
            assert_eq!(admitted(&buckets, 500 * SECOND, per_minute, 2 * all), all);
        }
    }

    #[test]
    fn who_waits_as_told_is_admitted_and_who_does_not_is_not() {
        let buckets = Buckets::new();
        admitted(&buckets, 0, 7, 7);
        let refused = buckets.take_at(0, "u", 7);
        let wait = nanos(refused.next_in(7));
        assert!(!refused.admitted && refused.left(7) == 0);
        assert!(!buckets.take_at(wait - SECOND / 100, "u", 7).admitted);
        assert!(buckets.take_at(wait, "u", 7).admitted);
    }

    #[test]
    fn a_change_of_tier_binds_at_once_and_what_was_used_stays_used() {
        let buckets = Buckets::new();
        assert_eq!(admitted(&buckets, 0, 60, 100), 60);
        assert_eq!(admitted(&buckets, 0, 300, 500), 240);
        // Back again: empty, and no emptier than that.
        assert_eq!(admitted(&buckets, 0, 60, 1), 0);
        assert_eq!(admitted(&buckets, 2 * SECOND, 60, 10), 2);
    }

    #[test]
    fn requests_at_once_from_many_threads_are_admitted_up_to_the_limit() {
        let (buckets, admitted) = (Buckets::new(), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..1000 {
                        let taken = buckets.take_at(SECOND, "u", 300);
                        admitted.fetch_add(usize::from(taken.admitted), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 300);
    }

    #[test]
    fn memory_is_bounded_by_the_users_of_a_minute() {
        let buckets = Buckets::new();
        for second in 0..600 {
            for user in 0..200 {
                buckets.take_at(second * SECOND, &format!("{second} {user}"), 60);
            }
            buckets.forget_at(second * SECOND);
            assert!(buckets.len() <= 200, "one request is forgotten after a second");
        }
        let busy = 600 * SECOND;
        assert!((0..100).filter(|_| buckets.take_at(busy, "busy", 60).admitted).count() == 60);
        buckets.forget_at(busy + 59 * SECOND);
        assert_eq!(buckets.len(), 1, "an empty bucket stays until it is full");
        buckets.forget_at(busy + 60 * SECOND);
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn what_all_edges_have_admitted_counts_here_too() {
        let buckets = Buckets::new();
        buckets.take("u", 60);
        buckets.raise("u", MINUTE);
        assert!(!buckets.take("u", 60).admitted);
        buckets.raise("u", MINUTE * 60);
        buckets.forget_at(buckets.now() + nanos(MINUTE));
        assert_eq!(buckets.len(), 0, "no bucket is emptier than empty");
        buckets.take("u", 60);
        buckets.raise("nobody", MINUTE);
        assert_eq!(buckets.len(), 1);
    }

    /// The bucket as one would write it down: how many requests are in it, filling all the time.
    struct Model {
        filled: f64,
        per_minute: f64,
        at: u64,
    }

    impl Model {
        fn take(&mut self, now: u64, per_minute: u32) -> f64 {
            let rate = self.per_minute / nanos(MINUTE) as f64;
            self.filled = (self.filled + (now - self.at) as f64 * rate).min(self.per_minute);
            // Another tier: what was used stays used.
            self.filled = (self.filled - self.per_minute + f64::from(per_minute)).max(0.0);
            (self.per_minute, self.at) = (f64::from(per_minute), now);
            self.filled
        }
    }

    proptest::proptest! {
        #[test]
        fn a_bucket_admits_what_a_bucket_that_fills_all_the_time_would(
            steps in proptest::collection::vec((0..90_000_u64, 1..90_usize, 0..4_usize), 1..40),
            changes_tier in proptest::prelude::any::<bool>(),
        ) {
            let (buckets, mut now) = (Buckets::new(), SECOND);
            let mut model = Model { filled: 60.0, per_minute: 60.0, at: now };
            for (pause, tries, tier) in steps {
                now += pause * (SECOND / 1000);
                let per_minute = if changes_tier { [1, 60, 300, 1000][tier] } else { 60 };
                for _ in 0..tries {
                    let filled = model.take(now, per_minute);
                    let taken = buckets.take_at(now, "u", per_minute);
                    // Times are whole nanoseconds; what is within one of them of a whole request may be either.
                    if (filled - 1.0).abs() > 1e-4 {
                        proptest::prop_assert_eq!(taken.admitted, filled >= 1.0, "{} at {}", filled, now);
                    }
                    model.filled -= if taken.admitted { 1.0 } else { 0.0 };
                    proptest::prop_assert!(taken.owed <= MINUTE + Duration::from_nanos(1));
                }
            }
            // Who waits as told is admitted, and no earlier.
            let per_minute = model.per_minute as u32;
            while buckets.take_at(now, "u", per_minute).admitted {}
            let wait = nanos(buckets.take_at(now, "u", per_minute).next_in(per_minute));
            proptest::prop_assert!(wait > 0 && !buckets.take_at(now + wait - 1, "u", per_minute).admitted);
            proptest::prop_assert!(buckets.take_at(now + wait, "u", per_minute).admitted);
        }
    }
}
