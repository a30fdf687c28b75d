//! The end of all sockets with the process: in batches, so that their clients do not all come to another edge in the
//! same moment, and each with its last word.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Sockets;

/// How often some sockets are told to close, and how many at least: 250 a second, whose return to the other edges is
/// hardly felt by anybody else.
const PAUSE: Duration = Duration::from_millis(20);
const BATCH: usize = 5;

impl Sockets {
    /// Runs `serving`, which ends with the drain, and then waits for the sockets; all within the drain's limit.
    pub async fn outlasting(&self, serving: impl Future<Output = ()>) {
        let ended = async {
            serving.await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        let limit = async {
            self.drain.stop_accepting().await;
            sleep(self.drain.limit()).await;
        };
        tokio::select! {
            () = ended => {}
            () = self.take_turns() => {}
            () = limit => tracing::warn!(open = self.tasks.len(), "sockets were still open at the end of the drain"),
        }
    }

    /// Lets some sockets close, and some more, for ever: until all have ended new ones may still come.
    async fn take_turns(&self) {
        self.drain.stop_accepting().await;
        let batch = batch(self.tasks.len(), self.drain.limit());
        let mut next = interval(PAUSE);
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            self.turns.add_permits(batch);
        }
    }
}

/// So many at once that all have had their turn in half of the drain.
fn batch(open: usize, limit: Duration) -> usize {
    let batches = (limit / 2).div_duration_f64(PAUSE).max(1.0);
    BATCH.max((open as f64 / batches).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_sockets_there_are_half_of_the_drain_is_enough() {
        let limit = Duration::from_secs(1);
        for open in [0_usize, 1, 99, 100, 1_000, 20_000, 100_001] {
            let batches = open.div_ceil(batch(open, limit));
            assert!(PAUSE * u32::try_from(batches).expect("a number") <= limit / 2, "{open}");
        }
        assert_eq!(batch(2_500, Duration::from_secs(20)), BATCH);
        assert!(batch(5_000, Duration::from_secs(20)) > BATCH);
    }
}
