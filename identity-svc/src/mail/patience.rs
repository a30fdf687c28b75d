//! How often a mail server that is away is tried.

use std::time::Duration;

use tokio::time::Instant;

/// While the mail server is away, the pause doubles from this...
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// ...to this, so that mails go out within seconds of its being back.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

#[derive(Default)]
pub struct Patience {
    /// The last pause, until something succeeds.
    pause: Option<Duration>,
    /// When the one that runs ends.
    until: Option<Instant>,
}

impl Patience {
    /// Whether nothing has succeeded since the last failure.
    pub fn is_lost(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether the server is to be left alone at the moment.
    pub fn is_pausing(&self) -> bool {
        self.until.is_some()
    }

    /// Ends with the pause that runs.
    pub async fn pause(&mut self) {
        if let Some(until) = self.until {
            tokio::time::sleep_until(until).await;
            self.until = None;
        }
    }

    pub fn succeeded(&mut self) {
        *self = Patience::default();
    }

    /// Begins a pause. Many that fail together make one.
    pub fn failed(&mut self) {
        if self.until.is_none() {
            let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
            *self = Patience { pause: Some(pause), until: Some(Instant::now() + pause) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_something_succeeds_and_those_that_fail_together_make_one() {
        let mut patience = Patience::default();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let since = Instant::now();
            (0..8).for_each(|_| patience.failed());
            assert!(patience.is_pausing());
            patience.pause().await;
            assert!(patience.is_lost() && !patience.is_pausing());
            pauses.push((Instant::now() - since).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 4000]);
        patience.failed();
        patience.succeeded();
        assert!(!patience.is_lost() && !patience.is_pausing());
    }
}
