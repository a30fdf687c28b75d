//! Those who wait at this edge for the run with their `Idempotency-Key`. Of each key one asks how the run stands; the
//! others wait for their turn, which comes when that one has its answer or has gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::MutexGuard;

/// Most requests that wait for one run.
const MOST: usize = 32;

/// A user's key.
type Key = (String, String);

/// The queues of all keys for which anybody waits.
#[derive(Default)]
pub struct Waiting(Mutex<HashMap<Key, Queue>>);

#[derive(Default)]
struct Queue {
    turn: Arc<tokio::sync::Mutex<()>>,
    length: usize,
}

/// A place in the queue of a key; dropping it gives it back.
pub struct Seat<'w> {
    waiting: &'w Waiting,
    key: Key,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Waiting {
    /// A place in the queue of a user's key; `None` when too many wait already.
    pub fn join(&self, user_id: &str, key: &str) -> Option<Seat<'_>> {
        let key = (user_id.to_owned(), key.to_owned());
        let mut queues = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let queue = queues.entry(key.clone()).or_default();
        if queue.length == MOST {
            return None;
        }
        queue.length += 1;
        Some(Seat { waiting: self, key, turn: queue.turn.clone() })
    }
}

impl Seat<'_> {
    /// Waits to be the one that asks.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut queues = self.waiting.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.length -= 1;
            if queue.length == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn of_those_who_wait_for_one_key_one_asks_at_a_time() {
        let waiting = Waiting::default();
        let (first, second) = (waiting.join("u", "k").expect("a seat"), waiting.join("u", "k").expect("one"));
        let turn = first.turn().now_or_never().expect("nobody else asks");
        assert!(second.turn().now_or_never().is_none());
        let other = waiting.join("u", "another").expect("a seat");
        assert!(other.turn().now_or_never().is_some());
        drop(turn);
        assert!(second.turn().now_or_never().is_some());
    }

    #[test]
    fn only_so_many_wait_for_one_key_and_who_leaves_makes_room() {
        let waiting = Waiting::default();
        let mut seats: Vec<_> = (0..MOST).map(|_| waiting.join("u", "k").expect("a seat")).collect();
        assert!(waiting.join("u", "k").is_none());
        seats.pop();
        assert!(waiting.join("u", "k").is_some());
        drop(seats);
        assert!(waiting.0.into_inner().expect("whole").is_empty(), "nothing stays behind");
    }
}
