//! Auth events: what must bind on tokens already issued. Appended in the transaction that makes the change, in the
//! order of commits, and followed by every replica.

use std::time::Duration;

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::auth_event::Change as Wire;
use contract::identity::{AccountChanged, AccountDisabled, AuthEvent, Position, Restored, SessionEnded};
use contract::{Failure, Outcome, Role, Tier, to_timestamp};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};

use crate::{restored, sweep, token_lives};
use chassis::clock::now;

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
    SessionEnded {
        session_id: String,
    },
    AccountChanged {
        version: i64,
        email: String,
        role: Role,
        tier: Tier,
        permissions: Vec<String>,
    },
    AccountDisabled {
        version: i64,
    },
    /// The database was set back; see [`crate::restored`].
    Restored,
}

impl Change {
    fn kind(&self) -> &'static str {
        match self {
            Change::SessionEnded { .. } => "session_ended",
            Change::AccountChanged { .. } => "account_changed",
            Change::AccountDisabled { .. } => "account_disabled",
            Change::Restored => "restored",
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
    // From now on, as the lock may have been waited for, and tokens given out meanwhile...
    let life = alive.until + MARGIN - alive.at;
    let forget_at = created_at + life;
    // ...and however far behind our own clock is.
    let life = life.num_seconds() + 1;
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

/// The events as followers read them: the table, or what stands for it in the simulation.
pub trait Log: Clone + Send + Sync + 'static {
    /// The end, which is the epoch and the last number that has committed, and at most [`BATCH`] events between `known`
    /// and it, in order; none when `known` is of another epoch.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn news(
        &self,
        known: Option<&Position>,
    ) -> impl Future<Output = Outcome<(Position, Vec<AuthEvent>)>> + Send;

    /// The end, and the first event that has not been swept.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn ends(&self) -> impl Future<Output = Outcome<(Position, Option<i64>)>> + Send;

    /// Events after one number up to another that still matter, in order. Nothing is over before it is by the clock of the
    /// database, too: that of a replica may be ahead.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn mattering(
        &self,
        epoch: &str,
        after: i64,
        upto: i64,
    ) -> impl Future<Output = Outcome<Vec<AuthEvent>>> + Send;

    /// Begins a new epoch if the table has gone back behind a position that was read from it, and says whether it did. A
    /// reading that lags is no reason.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn start_over(&self, known: &Position) -> impl Future<Output = Outcome<bool>> + Send;
}

impl Log for MySqlPool {
    async fn news(&self, known: Option<&Position>) -> Outcome<(Position, Vec<AuthEvent>)> {
        let mut connection = self.acquire().await.map_err(failed)?;
        let end = end(&mut connection).await?;
        let rows = match known {
            Some(known) if known.epoch == end.epoch && known.sequence < end.sequence => {
                after(&mut connection, known.sequence).await?
            }
            _ => Vec::new(),
        };
        let events = rows.into_iter().map(|row| to_wire(row, &end.epoch)).collect();
        Ok((end, events))
    }

    async fn ends(&self) -> Outcome<(Position, Option<i64>)> {
        let mut connection = self.acquire().await.map_err(failed)?;
        // The end first: what commits from now on comes with the stream.
        let end = end(&mut connection).await?;
        let first = sqlx::query_scalar!("SELECT MIN(sequence) FROM auth_events")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        Ok((end, first))
    }

    async fn mattering(&self, epoch: &str, after: i64, upto: i64) -> Outcome<Vec<AuthEvent>> {
        let mut connection = self.acquire().await.map_err(failed)?;
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT sequence, user_id, payload AS "payload: Json<Change>", created_at AS "created_at: DateTime<Utc>",
                  forget_at AS "forget_at: DateTime<Utc>"
           FROM auth_events WHERE sequence > ? AND sequence <= ? AND forget_at > LEAST(?, UTC_TIMESTAMP(6)) ORDER BY sequence"#,
            after,
            upto,
            now()
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
        Ok(rows.into_iter().map(|row| to_wire(row, epoch)).collect())
    }

    async fn start_over(&self, known: &Position) -> Outcome<bool> {
        restored::start_over(self, known).await
    }
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

async fn end(connection: &mut MySqlConnection) -> Outcome<Position> {
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
        Change::Restored => Wire::Restored(Restored {}),
    };
    AuthEvent {
        position: Some(Position { epoch: epoch.to_owned(), sequence: row.sequence }),
        forget_at: Some(to_timestamp(row.forget_at)),
        change: Some(change),
        at: Some(to_timestamp(row.created_at)),
    }
}

/// Removes events that no token can need any more, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old auth events", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM auth_events WHERE forget_at < ? ORDER BY sequence LIMIT 1000", now);
    Box::pin(old.execute(connection))
}
