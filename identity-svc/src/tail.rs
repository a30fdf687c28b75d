//! The end of the events as a replica follows it, and what those who come back have missed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::mysql::in_time;
use contract::Outcome;
use contract::identity::auth_event::Change;
use contract::identity::{AuthEvent, Position};
use tokio::sync::{Notify, broadcast, watch};

use crate::events::{BATCH, Log};
use crate::holders::Holders;

/// How often the table is read when nothing calls for it earlier.
const POLL: Duration = Duration::from_millis(100);
/// How long one reading may take before its connection is given up.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How many events a subscriber may be behind before it is cut off.
const BEHIND: usize = 4096;

/// The end of the event table as this replica follows it. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    events: broadcast::Sender<Arc<AuthEvent>>,
    position: watch::Sender<Option<Position>>,
    hurry: Arc<Notify>,
    holders: Holders,
}

impl Tail {
    /// `holders` forgets whom an event concerns.
    pub fn new(holders: Holders) -> Self {
        let (events, _) = broadcast::channel(BEHIND);
        Tail { events, position: watch::Sender::new(None), hurry: Arc::new(Notify::new()), holders }
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<AuthEvent>> {
        self.events.subscribe()
    }

    /// Up to where the table has been read, marked as changed by each successful reading, so that who waits for a
    /// change learns when the database does not answer.
    pub fn readings(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    /// Has the table read at once, since this replica has just committed an event.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Follows the table for as long as the process lives.
    pub async fn follow(self, log: impl Log) {
        let mut reported = false;
        loop {
            let known = self.position.borrow().clone();
            match in_time(READ_LIMIT, self.read(&log, known)).await {
                Ok(more) => {
                    reported = false;
                    if more {
                        continue;
                    }
                }
                Err(failure) => {
                    if !reported {
                        tracing::warn!(cause = ?failure.cause(), "auth events cannot be read");
                    }
                    reported = true;
                }
            }
            let _ = tokio::time::timeout(POLL, self.hurry.notified()).await;
        }
    }

    /// Reads what is new. Gives whether there may be more.
    async fn read(&self, log: &impl Log, known: Option<Position>) -> Outcome<bool> {
        let began = Instant::now();
        let (end, events) = log.news(known.as_ref()).await?;
        if let Some(known) = known.as_ref().filter(|known| is_beyond(known, &end)) {
            // A reading that merely lags says nothing: there will be another one.
            return start_over(log, known).await;
        }
        let Some(mut position) = known.filter(|known| known.epoch == end.epoch) else {
            // The first reading, or another table than before: subscribers start over with a snapshot.
            self.position.send_replace(Some(end));
            self.holders.forget_all();
            self.holders.read_at(began);
            return Ok(false);
        };
        let more = events.len() as i64 == BATCH;
        for event in events {
            position.sequence = sequence_of(&event);
            if let Some(user_id) = user_of(&event) {
                self.holders.forget(user_id);
            }
            // Without subscribers there is nobody to miss it.
            let _ = self.events.send(Arc::new(event));
        }
        self.position.send_replace(Some(position));
        if !more {
            self.holders.read_at(began);
        }
        Ok(more)
    }
}

/// What a subscriber at `since` has missed, if all of that can still be read.
///
/// # Errors
/// GW001 when the database is away.
pub async fn resume(log: &impl Log, since: &Position) -> Outcome<Option<Vec<AuthEvent>>> {
    let (end, events) = log.news(Some(since)).await?;
    if is_beyond(since, &end) {
        start_over(log, since).await?;
        return Ok(None);
    }
    if end.epoch != since.epoch {
        return Ok(None);
    }
    // A gap at the beginning has been swept; more than one batch is quicker as a snapshot.
    let unbroken = match events.first() {
        Some(first) => sequence_of(first) == since.sequence + 1,
        None => since.sequence == end.sequence,
    };
    Ok((unbroken && (events.len() as i64) < BATCH).then_some(events))
}

/// Whether the table ends before a position that was read from it.
fn is_beyond(known: &Position, end: &Position) -> bool {
    known.epoch == end.epoch && known.sequence > end.sequence
}

/// Begins a new epoch, unless the table has not gone back in truth. Whether there is one.
async fn start_over(log: &impl Log, known: &Position) -> Outcome<bool> {
    let has_gone_back = log.start_over(known).await?;
    if has_gone_back {
        tracing::warn!(
            sequence = known.sequence,
            "the database was set back: what had ended since the backup is open again, and edges ask about each caller \
             for the life of a token; `identity-svc restored` ends all sessions"
        );
    }
    Ok(has_gone_back)
}

fn sequence_of(event: &AuthEvent) -> i64 {
    event.position.as_ref().map_or(0, |position| position.sequence)
}

fn user_of(event: &AuthEvent) -> Option<&str> {
    Some(match event.change.as_ref()? {
        Change::SessionEnded(ended) => &ended.user_id,
        Change::AccountChanged(changed) => &changed.user_id,
        Change::AccountDisabled(disabled) => &disabled.user_id,
        Change::Restored(_) => return None,
    })
}
