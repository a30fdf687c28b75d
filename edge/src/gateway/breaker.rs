//! The circuit breaker of an upstream.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// After so many failures in a row no request is sent for [`OPEN_FOR`].
const FAILURES_TO_OPEN: u32 = 10;
const OPEN_FOR: Duration = Duration::from_secs(1);

/// Opens after failures in a row; once [`OPEN_FOR`] has passed, one request at a time tries again. Its times are
/// milliseconds of a clock that never goes back.
#[derive(Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// Until when nothing is sent.
    open_until: AtomicU64,
}

impl Breaker {
    /// Whether a request may be sent. `now` is asked for only when there were failures.
    pub fn admits(&self, now: impl FnOnce() -> u64) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURES_TO_OPEN {
            return true;
        }
        let (now, until) = (now(), self.open_until.load(Ordering::Relaxed));
        let next = now + OPEN_FOR.as_millis() as u64;
        // Whoever moves the end of the pause is the one that tries.
        now >= until
            && self.open_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request was answered.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A request was not answered.
    pub fn failed(&self, now: impl FnOnce() -> u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures == FAILURES_TO_OPEN {
            self.open_until.store(now() + OPEN_FOR.as_millis() as u64, Ordering::Relaxed);
            tracing::warn!("the circuit to core-manager is open");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What the answers and the clock do to the requests that are sent one after the other.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Succeeds,
        Fails,
        Waits(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let waits = prop_oneof![Just(1), Just(999), Just(1000), Just(1001), 0..3000_u64];
        vec(
            prop_oneof![1 => Just(Step::Succeeds), 9 => Just(Step::Fails), 4 => waits.prop_map(Step::Waits)],
            0..80,
        )
    }

    /// The circuit as one would write it down: how many failed in a row, and when the last trial began.
    #[derive(Default)]
    struct Model {
        in_a_row: u32,
        paused_since: u64,
    }

    impl Model {
        fn admits(&mut self, now: u64) -> bool {
            let tries = self.in_a_row >= 10 && now >= self.paused_since + 1000;
            if tries {
                self.paused_since = now;
            }
            self.in_a_row < 10 || tries
        }

        fn answered(&mut self, now: u64, well: bool) {
            self.in_a_row = if well { 0 } else { self.in_a_row + 1 };
            if self.in_a_row == 10 {
                self.paused_since = now;
            }
        }
    }

    proptest! {
        #[test]
        fn the_circuit_opens_after_ten_failures_in_a_row_and_tries_once_a_second(steps in steps()) {
            let (breaker, mut model, mut now) = (Breaker::default(), Model::default(), 0);
            for step in steps {
                let well = match step {
                    Step::Waits(millis) => {
                        now += millis;
                        continue;
                    }
                    Step::Succeeds => true,
                    Step::Fails => false,
                };
                let admitted = breaker.admits(|| now);
                prop_assert_eq!(admitted, model.admits(now), "{:?} at {}", step, now);
                if admitted {
                    if well { breaker.succeeded() } else { breaker.failed(|| now) }
                    model.answered(now, well);
                }
            }
        }

        /// Answers of requests that were sent before the circuit opened come while it is open.
        #[test]
        fn late_failures_neither_prolong_the_pause_nor_let_two_try(late in 0..40_u64, trials in 1..5_usize) {
            let breaker = Breaker::default();
            (0..10).for_each(|_| breaker.failed(|| 0));
            (0..late).for_each(|at| breaker.failed(|| at * 20));
            prop_assert!(!breaker.admits(|| 999));
            for trial in 1..=trials as u64 {
                prop_assert!(breaker.admits(|| trial * 1000));
                prop_assert!(!breaker.admits(|| trial * 1000), "one at a time");
                breaker.failed(|| trial * 1000);
            }
            breaker.succeeded();
            prop_assert!(breaker.admits(|| 0) && breaker.admits(|| 0));
        }
    }
}
