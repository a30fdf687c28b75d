//! What an edge that watches is told: a beginning, then events as they come, and how current that is.

use std::sync::Arc;
use std::time::Duration;

use contract::Outcome;
use contract::identity::watch_auth_events_response::Message;
use contract::identity::{AuthEvent, Heartbeat, Position, WatchAuthEventsResponse};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::events::Log;
use crate::keys::Keys;
use crate::snapshots::{Snapshot, Snapshots};
use crate::tail::{self, Tail};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Messages on their way to one subscriber.
const BUFFER: usize = 256;
/// A subscriber that takes no message for this long is cut off; it resumes where it was.
const PATIENCE: Duration = Duration::from_secs(5);
/// Said to whom the tail does not lead on from where it is.
const APART: &str = "events lie between, or the table is another one; resume";

/// The source of streams. Cheap to clone.
#[derive(Clone)]
pub struct Watching<L> {
    log: L,
    tail: Tail,
    snapshots: Snapshots<L>,
}

impl<L: Log> Watching<L> {
    /// `tail` follows the same log.
    pub fn new(log: L, tail: Tail) -> Self {
        let snapshots = Snapshots::new(log.clone());
        Watching { log, tail, snapshots }
    }

    /// The messages for a subscriber that has been told of all up to `since`.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn watch(
        &self,
        since: Option<Position>,
        keys: watch::Receiver<Arc<Keys>>,
    ) -> Outcome<ReceiverStream<Result<WatchAuthEventsResponse, Status>>> {
        // Subscribed before the table is read: what commits meanwhile may come twice, but never not at all.
        let (events, readings) = (self.tail.subscribe(), self.tail.readings());
        let (upto, start) = self.beginning(since).await?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(feed(Subscriber(sender), upto, start, events, readings, keys));
        Ok(ReceiverStream::new(receiver))
    }

    /// What comes first, and up to where that leads.
    async fn beginning(&self, since: Option<Position>) -> Outcome<(Position, Beginning<L>)> {
        if let Some(since) = since
            && let Some(missed) = tail::resume(&self.log, &since).await?
        {
            let upto = missed.last().and_then(|event| event.position.clone()).unwrap_or(since);
            return Ok((upto, Beginning::Missed(missed)));
        }
        let snapshot = self.snapshots.begin().await?;
        Ok((snapshot.position().clone(), Beginning::Snapshot(snapshot)))
    }
}

/// What a subscriber gets before it follows.
enum Beginning<L> {
    /// What it has missed since it was last here.
    Missed(Vec<AuthEvent>),
    Snapshot(Snapshot<L>),
}

struct Subscriber(mpsc::Sender<Result<WatchAuthEventsResponse, Status>>);

impl Subscriber {
    /// Whether the subscriber is still there and has taken the message.
    async fn send(&self, message: Message) -> bool {
        let message = WatchAuthEventsResponse { message: Some(message) };
        self.0.send_timeout(Ok(message), PATIENCE).await.is_ok()
    }

    /// Sends the beginning, a snapshot as it is being read. Whether the subscriber has taken all of it.
    async fn begin(&self, start: Beginning<impl Log>) -> bool {
        match start {
            Beginning::Missed(events) => {
                for event in events {
                    if !self.send(Message::Event(event)).await {
                        return false;
                    }
                }
                true
            }
            Beginning::Snapshot(mut snapshot) => loop {
                let part = match snapshot.part().await {
                    Ok(part) => part,
                    Err(failure) => {
                        tracing::warn!(cause = ?failure.cause(), "a snapshot broke off");
                        self.cut_off("the snapshot broke off; start over").await;
                        return false;
                    }
                };
                let more = part.more;
                if !self.send(Message::Snapshot(part)).await {
                    return false;
                }
                if !more {
                    return true;
                }
            },
        }
    }

    async fn cut_off(&self, why: &'static str) {
        // One that does not even read this finds its stream ended.
        let _ = self.0.try_send(Err(Status::aborted(why)));
    }
}

/// Sends the beginning, then events as they come, and a heartbeat each second in which the table could be read: a
/// database that does not answer silences the stream, so that edges see how old their knowledge is.
///
/// The beginning is read apart from the tail, which may be behind it, or may begin after it, as in a process that has just
/// started or found another table. So it is looked at here that each event follows the one before, and that a heartbeat
/// claims nothing that was not sent.
async fn feed(
    subscriber: Subscriber,
    mut told: Position,
    start: Beginning<impl Log>,
    mut events: broadcast::Receiver<Arc<AuthEvent>>,
    mut readings: watch::Receiver<Option<Position>>,
    mut keys: watch::Receiver<Arc<Keys>>,
) {
    // Keys first: who knows what has ended but not what is genuine cannot serve yet.
    let set = keys.borrow_and_update().set.clone();
    if !subscriber.send(Message::KeySet(set)).await || !subscriber.begin(start).await {
        return;
    }
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Events first, so that a heartbeat never claims what has not been sent.
            biased;
            event = events.recv() => {
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => return subscriber.cut_off("too far behind; resume").await,
                    Err(RecvError::Closed) => return,
                };
                match event.position.as_ref().map_or(Step::Apart, |position| step(&told, position)) {
                    Step::Known => continue,
                    Step::Next => told.sequence += 1,
                    Step::Apart => return subscriber.cut_off(APART).await,
                }
                if !subscriber.send(Message::Event(AuthEvent::clone(&event))).await {
                    return;
                }
            }
            () = subscriber.0.closed() => return,
            Ok(()) = keys.changed() => {
                let set = keys.borrow_and_update().set.clone();
                if !subscriber.send(Message::KeySet(set)).await {
                    return;
                }
            }
            _ = beat.tick() => {
                if !readings.has_changed().unwrap_or(false) {
                    continue;
                }
                let read = readings.borrow_and_update().clone();
                // An event that was published between the look above and this reading goes first.
                if !events.is_empty() {
                    continue;
                }
                if read.is_some_and(|read| step(&told, &read) != Step::Known) {
                    return subscriber.cut_off(APART).await;
                }
                if !subscriber.send(Message::Heartbeat(Heartbeat { position: Some(told.clone()) })).await {
                    return;
                }
            }
        }
    }
}

/// Where a position is for who has been told of everything up to another one.
#[derive(PartialEq)]
enum Step {
    Known,
    Next,
    /// Something lies between, or it is of another table.
    Apart,
}

fn step(told: &Position, to: &Position) -> Step {
    if to.epoch != told.epoch || to.sequence > told.sequence + 1 {
        Step::Apart
    } else if to.sequence <= told.sequence {
        Step::Known
    } else {
        Step::Next
    }
}
