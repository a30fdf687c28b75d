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
        let at = |percent: usize| milliseconds(sorted[(sorted.len() - 1) * percent / 100]);
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
