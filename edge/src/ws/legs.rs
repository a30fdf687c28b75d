//! The legs of a socket to core-manager: the one that messages take, and those that were opened with claims that have
//! changed since, which stay for what was started there and still reports.

use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;

use super::upstream::{Heard, Leg};

/// How long the answers to messages that are no starts are listened for on a former leg.
const LINGER: Duration = Duration::from_secs(10);

/// Tells the legs of one socket apart.
pub type Number = u64;

/// All legs of one socket.
#[derive(Default)]
pub struct Legs {
    current: Option<Numbered>,
    former: Vec<Numbered>,
    opened: Number,
}

struct Numbered {
    leg: Box<Leg>,
    number: Number,
    /// When it became a former one.
    since: Instant,
}

impl Legs {
    /// From now on messages take this leg.
    pub fn open(&mut self, leg: Box<Leg>) {
        self.opened += 1;
        self.current = Some(Numbered { leg, number: self.opened, since: Instant::now() });
    }

    /// The leg that messages take, with its number.
    pub fn current(&mut self) -> Option<(&mut Leg, Number)> {
        self.current.as_mut().map(|Numbered { leg, number, .. }| (leg.as_mut(), *number))
    }

    pub fn is_current(&self, number: Number) -> bool {
        self.current.as_ref().is_some_and(|current| current.number == number)
    }

    /// Whether the next message can leave at once.
    pub fn are_clear(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.leg.is_clear())
    }

    /// From now on messages take another leg, which is to be opened. Gives how many former ones there are.
    pub fn retire(&mut self) -> usize {
        self.former.extend(self.current.take().map(|former| Numbered { since: Instant::now(), ..former }));
        self.former.len()
    }

    /// Closes a leg that has ended.
    pub fn close(&mut self, number: Number) {
        self.current.take_if(|current| current.number == number);
        self.former.retain(|former| former.number != number);
    }

    /// Closes former legs that nothing runs on. Gives how many are left.
    pub fn close_idle(&mut self, runs_on: impl Fn(Number) -> bool) -> usize {
        self.former.retain(|former| runs_on(former.number));
        self.former.len()
    }

    /// As [`Legs::close_idle`], but leaves those that an answer may still come on.
    pub fn close_forgotten(&mut self, runs_on: impl Fn(Number) -> bool) {
        self.former.retain(|former| former.since.elapsed() < LINGER || runs_on(former.number));
    }

    /// Pings core-manager on each leg. Gives those on which it has not answered for longer than `patience`.
    pub fn ping(&mut self, patience: Duration) -> Vec<Number> {
        let legs = self.current.iter_mut().chain(&mut self.former);
        legs.filter_map(|numbered| (!numbered.leg.ping(patience)).then_some(numbered.number)).collect()
    }

    /// What happens next on any leg. Dropping the future loses nothing.
    pub async fn next(&mut self, listening: bool) -> (Number, Heard) {
        match &mut self.current {
            Some(current) if self.former.is_empty() => current.event(listening).await,
            None if self.former.is_empty() => std::future::pending().await,
            current => {
                let legs = current.iter_mut().chain(&mut self.former);
                select_all(legs.map(|leg| Box::pin(leg.event(listening)))).await.0
            }
        }
    }
}

impl Numbered {
    async fn event(&mut self, listening: bool) -> (Number, Heard) {
        (self.number, self.leg.event(listening).await)
    }
}
