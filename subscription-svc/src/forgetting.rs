//! Removes what nobody can ask for again, for as long as the process lives. Of all replicas one does so at a time: on
//! MariaDB two that remove the same rows end in deadlocks. Nothing is removed that is not due by the clock of the database,
//! too: that of a replica may be ahead.

use std::pin::Pin;
use std::time::Duration;

use chassis::clock::agreed;
use chassis::mysql::{alone, failed, in_time};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::mysql::MySqlQueryResult;
use sqlx::{Connection, MySqlConnection, MySqlPool};

use crate::{billing, idempotency, usage};

const INTERVAL: Duration = Duration::from_secs(30);
/// The longest that one turn may take; the next goes on where it was.
const TURN_LIMIT: Duration = Duration::from_secs(300);
/// The `LIMIT` of every step, so that none holds many locks for long.
const STEP: u64 = 1000;
/// How long a repeated RecordUsage is recognised; callers give up long before.
const RECORDS_KEPT: TimeDelta = TimeDelta::days(7);

/// One `DELETE … LIMIT 1000`.
pub type Step<'c> = Pin<Box<dyn Future<Output = sqlx::Result<MySqlQueryResult>> + Send + 'c>>;

const STEPS: [for<'c> fn(&'c mut MySqlConnection, DateTime<Utc>) -> Step<'c>; 4] =
    [usage::forget, records, idempotency::forget, billing::forget];

/// Takes step after step of each kind until one finds less, again and again, unless another replica is at it.
pub async fn run(pool: MySqlPool) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let turn = async { once(&pool).await.map_err(failed) };
        if let Err(failure) = in_time(TURN_LIMIT, turn).await {
            tracing::warn!(cause = ?failure.cause(), "what is over was not forgotten: {failure}");
        }
    }
}

/// Forgets all that is old, unless another replica is at it.
///
/// # Errors
/// When the database is away.
pub async fn once(pool: &MySqlPool) -> sqlx::Result<()> {
    let Some(mut connection) = alone(pool, "what is over").await? else { return Ok(()) };
    let now = agreed(&mut connection).await?;
    for step in STEPS {
        while step(&mut connection, now).await?.rows_affected() == STEP {}
    }
    connection.close().await
}

fn records(connection: &mut MySqlConnection, now: DateTime<Utc>) -> Step<'_> {
    let before = now - RECORDS_KEPT;
    let old = sqlx::query!("DELETE FROM usage_records WHERE recorded_at < ? LIMIT 1000", before);
    Box::pin(old.execute(connection))
}
