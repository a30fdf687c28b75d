//! Auth events: what must bind on tokens already issued. Appended in the transaction that makes the change, in the
//! order of commits, and followed by every replica.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::auth_event::Change as Wire;
use contract::identity::{AccountChanged, AccountDisabled, AuthEvent, Position, SessionEnded};
use contract::{ErrorCode, Failure, Outcome, Role, Tier, to_timestamp};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::{Notify, broadcast, watch};

use crate::holders::Holders;
use crate::{sweep, token_lives};
use chassis::clock::now;

/// How often the table is read when nothing calls for it earlier.
const POLL: Duration = Duration::from_millis(100);
/// How long one reading may take before its connection is given up.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How many events a subscriber may be behind before it is cut off.
const BEHIND: usize = 4096;
/// How many events are read at once.
pub const BATCH: i64 = 1000;
/// Events that one statement writes.
const WRITTEN_AT_ONCE: usize = 500;
/// An event is kept a little longer than the tokens that it concerns, for clocks that differ.
const MARGIN: Duration = Duration::from_secs(60);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    SessionEnded { session_id: String },
    AccountChanged { version: i64, email: String, role: Role, tier: Tier, permissions: Vec<String> },
    AccountDisabled { version: i64 },
}

impl Change {
    fn kind(&self) -> &'static str {
        match self {
            Change::SessionEnded { .. } => "session_ended",
            Change::AccountChanged { .. } => "account_changed",
            Change::AccountDisabled { .. } => "account_disabled",
        }
    }
}

/// Appends an event to the transaction on `connection`, as its last step: from here to the commit no other
/// transaction can take a number, so that the order of numbers is the order of commits and a reader who has seen a
/// number has seen all before it. Gives the number.
pub async fn append(connection: &mut MySqlConnection, user_id: &str, change: &Change) -> Outcome<i64> {
    append_all(connection, user_id, std::slice::from_ref(change)).await
}

/// Appends several events of one account, as [`append`] does, in a few statements however many they are, and gives the
/// number of the last. `changes` must not be empty.
pub async fn append_all(connection: &mut MySqlConnection, user_id: &str, changes: &[Change]) -> Outcome<i64> {
    // Looked up before the lock, since everybody waits for that.
    let alive = token_lives::alive(connection).await?;
    let count = i64::try_from(changes.len()).map_err(Failure::internal)?;
    let raised = sqlx::query!(
        "UPDATE auth_sequence SET last_sequence = LAST_INSERT_ID(last_sequence + ?) WHERE id = 1",
        count
    )
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let last = i64::try_from(raised.last_insert_id()).map_err(Failure::internal)?;
    let created_at = now();
    // The lock may have been waited for, and tokens given out meanwhile.
    let forget_at = alive.until + (created_at - alive.at) + MARGIN;
    // However far behind our own clock is.
    let life = (forget_at - created_at).num_seconds() + 1;
    let mut numbered = (last - count + 1..).zip(changes).peekable();
    while numbered.peek().is_some() {
        let mut statement = QueryBuilder::<MySql>::new(
            "INSERT INTO auth_events (sequence, kind, user_id, payload, created_at, forget_at) ",
        );
        statement.push_values(numbered.by_ref().take(WRITTEN_AT_ONCE), |mut row, (sequence, change)| {
            row.push_bind(sequence).push_bind(change.kind()).push_bind(user_id);
            row.push_bind(Json(change)).push_bind(created_at).push("GREATEST(");
            row.push_bind_unseparated(forget_at).push_unseparated(", UTC_TIMESTAMP(6) + INTERVAL ");
            row.push_bind_unseparated(life).push_unseparated(" SECOND)");
        });
        statement.build().execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(last)
}

struct Row {
    sequence: i64,
    user_id: String,
    payload: Json<Change>,
    created_at: DateTime<Utc>,
    forget_at: DateTime<Utc>,
}

/// Events after `sequence`, in order.
async fn after(connection: &mut MySqlConnection, sequence: i64) -> Outcome<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"SELECT sequence, user_id, payload AS "payload: Json<Change>", created_at AS "created_at: DateTime<Utc>",
                  forget_at AS "forget_at: DateTime<Utc>"
           FROM auth_events WHERE sequence > ? ORDER BY sequence LIMIT ?"#,
        sequence,
        BATCH
    )
    .fetch_all(connection)
    .await
    .map_err(failed)
}

/// The epoch and the last sequence number that has committed.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end(connection: &mut MySqlConnection) -> Outcome<Position> {
    let row = sqlx::query!("SELECT epoch, last_sequence FROM auth_sequence WHERE id = 1")
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    Ok(Position { epoch: row.epoch, sequence: row.last_sequence })
}

fn to_wire(row: Row, epoch: &str) -> AuthEvent {
    let user_id = row.user_id;
    let change = match row.payload.0 {
        Change::SessionEnded { session_id } => Wire::SessionEnded(SessionEnded { session_id, user_id }),
        Change::AccountChanged { version, email, role, tier, permissions } => {
            let (role, tier) = (role.name().to_owned(), tier.name().to_owned());
            Wire::AccountChanged(AccountChanged { user_id, version, email, role, tier, permissions })
        }
        Change::AccountDisabled { version } => Wire::AccountDisabled(AccountDisabled { user_id, version }),
    };
    AuthEvent {
        position: Some(Position { epoch: epoch.to_owned(), sequence: row.sequence }),
        forget_at: Some(to_timestamp(row.forget_at)),
        change: Some(change),
        at: Some(to_timestamp(row.created_at)),
    }
}

/// The first event that has not been swept.
///
/// # Errors
/// GW001 when the database is away.
pub async fn first(connection: &mut MySqlConnection) -> Outcome<Option<i64>> {
    sqlx::query_scalar!("SELECT MIN(sequence) FROM auth_events").fetch_one(connection).await.map_err(failed)
}

/// Events of a range that still matter at `then`, in order. Nothing is over before it is by the clock of the database,
/// too: that of a replica may be ahead.
///
/// # Errors
/// GW001 when the database is away.
pub async fn mattering(
    connection: &mut MySqlConnection,
    epoch: &str,
    after: i64,
    upto: i64,
    then: DateTime<Utc>,
) -> Outcome<Vec<AuthEvent>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT sequence, user_id, payload AS "payload: Json<Change>", created_at AS "created_at: DateTime<Utc>",
                  forget_at AS "forget_at: DateTime<Utc>"
           FROM auth_events WHERE sequence > ? AND sequence <= ? AND forget_at > LEAST(?, UTC_TIMESTAMP(6)) ORDER BY sequence"#,
        after,
        upto,
        then
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().map(|row| to_wire(row, epoch)).collect())
}

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
    pub async fn follow(self, pool: MySqlPool) {
        let mut reported = false;
        loop {
            let known = self.position.borrow().clone();
            let reading = tokio::time::timeout(READ_LIMIT, self.read(&pool, known)).await;
            match reading.unwrap_or_else(|_| Err(Failure::new(ErrorCode::Timeout))) {
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
    async fn read(&self, pool: &MySqlPool, known: Option<Position>) -> Outcome<bool> {
        let began = Instant::now();
        let mut connection = pool.acquire().await.map_err(failed)?;
        let end = end(&mut connection).await?;
        let Some(mut position) =
            known.filter(|known| known.epoch == end.epoch && known.sequence <= end.sequence)
        else {
            // The first reading, or another table than before: subscribers start over with a snapshot.
            self.position.send_replace(Some(end));
            self.holders.forget_all();
            self.holders.read_at(began);
            return Ok(false);
        };
        if position.sequence == end.sequence {
            self.position.send_replace(Some(end));
            self.holders.read_at(began);
            return Ok(false);
        }
        let rows = after(&mut connection, position.sequence).await?;
        let more = rows.len() as i64 == BATCH;
        for row in rows {
            position.sequence = row.sequence;
            self.holders.forget(&row.user_id);
            // Without subscribers there is nobody to miss it.
            let _ = self.events.send(Arc::new(to_wire(row, &position.epoch)));
        }
        self.position.send_replace(Some(position));
        if !more {
            self.holders.read_at(began);
        }
        Ok(more)
    }
}

/// Removes events that no token can need any more by the clock of the database, too, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old auth events", |connection| {
        let old =
            sqlx::query!("DELETE FROM auth_events WHERE forget_at < LEAST(?, UTC_TIMESTAMP(6)) ORDER BY sequence LIMIT 1000", now());
        Box::pin(old.execute(connection))
    })
    .await;
}

/// Whether a subscriber at `since` has missed nothing but what can still be read.
///
/// # Errors
/// GW001 when the database is away.
pub async fn resume(pool: &MySqlPool, since: &Position) -> Outcome<Option<Vec<AuthEvent>>> {
    let mut connection = pool.acquire().await.map_err(failed)?;
    let end = end(&mut connection).await?;
    if end.epoch != since.epoch || since.sequence > end.sequence {
        return Ok(None);
    }
    let rows = after(&mut connection, since.sequence).await?;
    // A gap at the beginning has been swept; more than one batch is quicker as a snapshot.
    let unbroken = match rows.first() {
        Some(first) => first.sequence == since.sequence + 1,
        None => since.sequence == end.sequence,
    };
    if !unbroken || rows.len() as i64 == BATCH {
        return Ok(None);
    }
    Ok(Some(rows.into_iter().map(|row| to_wire(row, &end.epoch)).collect()))
}
