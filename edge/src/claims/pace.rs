//! How long changes take until they are enforced here, of the last ones.

use std::collections::VecDeque;
use std::time::Duration;

use contract::identity::EnforcementTimes;

/// Of so many events. Enough for a 99th percentile, little enough that it tells of now.
const MOST: usize = 1000;

/// The times of the last events.
#[derive(Default)]
pub struct Pace(VecDeque<Duration>);

impl Pace {
    pub fn add(&mut self, took: Duration) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// What is told of them; `None` before the first.
    pub fn times(&self) -> Option<EnforcementTimes> {
        let last = self.0.back()?;
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        // The nearest rank: of a few events the 99th percentile is the slowest.
        let at = |percent: usize| milliseconds(sorted[(sorted.len() * percent).div_ceil(100) - 1]);
        Some(EnforcementTimes {
            count: sorted.len() as i64,
            last_ms: milliseconds(*last),
            p50_ms: at(50),
            p99_ms: at(99),
        })
    }
}

/// To the microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_few_events_the_slowest_is_told_too() {
        for (millis, p50, p99) in [(&[7][..], 7.0, 7.0), (&[9, 1], 1.0, 9.0), (&[2, 8, 5], 5.0, 8.0)] {
            let mut pace = Pace::default();
            millis.iter().for_each(|millis| pace.add(Duration::from_millis(*millis)));
            let times = pace.times().expect("times");
            assert_eq!((times.p50_ms, times.p99_ms), (p50, p99), "{millis:?}");
        }
    }

    #[test]
    fn what_is_told_is_of_the_last_events_alone() {
        let mut pace = Pace::default();
        assert_eq!(pace.times(), None);
        pace.add(Duration::from_secs(60));
        for number in 1..=MOST as u64 {
            pace.add(Duration::from_micros(1500 * number));
        }
        let times = pace.times().expect("times");
        assert_eq!(times, EnforcementTimes { count: 1000, last_ms: 1500.0, p50_ms: 750.0, p99_ms: 1485.0 });
    }
}
