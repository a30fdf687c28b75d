//! How a reservation ends: committed, released, or released since its time is over.

use std::sync::LazyLock;

use chassis::clock::now;
use chassis::mysql::{Lane, failed, transaction};
use chrono::{DateTime, TimeDelta, Utc};
use contract::{Failure, Outcome};
use sqlx::{MySqlConnection, MySqlPool};

use super::allowance::LONG_AGO;
use super::days;
use crate::forgetting::Step;

/// How many expired reservations are released in one step.
const BATCH: i64 = 200;
/// How long a key is recognised after its reservation is over.
const KEYS_KEPT: TimeDelta = TimeDelta::days(7);

/// Turns a reservation into usage: the thing exists. Also when the reservation has expired meanwhile; twice counts
/// once.
///
/// # Errors
/// REQ001 for a key that was never reserved.
pub async fn commit(lane: &Lane, user_id: &str, key: &str) -> Outcome<()> {
    let given = (user_id, key.as_bytes());
    let at_once = lane.statement("commit", given, |connection, (user_id, key)| {
        Box::pin(count_at_once(connection, user_id, key))
    });
    if at_once.await? {
        return Ok(());
    }
    lane.transaction("commit_with_care", given, |tx, (user_id, key)| {
        Box::pin(async move {
            if settle(tx, user_id, key, "committed", 1).await? || count_late(tx, user_id, key).await? {
                return days::keep_reserved(tx, user_id, key).await;
            }
            must_be_known(tx, user_id, key).await
        })
    })
    .await
}

/// Counts what is reserved in one statement, where the day has its row already and that says what the counter says.
/// Gives whether it was so.
async fn count_at_once(connection: &mut MySqlConnection, user_id: &str, key: &[u8]) -> Outcome<bool> {
    // By how much both grow is said twice, as nobody knows which of the tables is written first.
    let done = sqlx::query!(
        "UPDATE reservations r
         JOIN usage_counters c ON c.user_id = r.user_id AND c.resource = r.resource
         JOIN usage_days d ON d.user_id = r.user_id AND d.resource = r.resource AND d.day = UTC_DATE()
         SET r.state = 'committed', c.reserved = GREATEST(c.reserved - 1, 0), c.used = c.used + 1,
             c.month_used = c.month_used + c.by_month, c.updated_at = UTC_TIMESTAMP(6), d.used = d.used + 1
         WHERE r.user_id = ? AND r.idempotency_key = ? AND r.state = 'reserved'
           AND d.period_start = IF(c.by_month, c.period_start, ?) AND d.used = IF(c.by_month, c.month_used, c.used)",
        user_id,
        key,
        LONG_AGO
    )
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

/// Counts what was released, or has expired, before it was made all the same. Gives whether there was such a one.
async fn count_late(tx: &mut MySqlConnection, user_id: &str, key: &[u8]) -> Outcome<bool> {
    let late = sqlx::query!(
        "UPDATE reservations JOIN usage_counters
             ON usage_counters.user_id = reservations.user_id AND usage_counters.resource = reservations.resource
         SET reservations.state = 'committed', usage_counters.used = usage_counters.used + 1,
             usage_counters.month_used = usage_counters.month_used + usage_counters.by_month,
             usage_counters.updated_at = ?
         WHERE reservations.user_id = ? AND reservations.idempotency_key = ? AND reservations.state = 'released'",
        now(),
        user_id,
        key
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(late.rows_affected() > 0)
}

/// Gives the place back: nothing was made. What was committed stays so; twice counts once.
///
/// # Errors
/// REQ001 for a key that was never reserved.
pub async fn release(lane: &Lane, user_id: &str, key: &str) -> Outcome<()> {
    lane.statement("release", (user_id, key.as_bytes()), |connection, (user_id, key)| {
        Box::pin(async move {
            if settle(connection, user_id, key, "released", 0).await? {
                return Ok(());
            }
            must_be_known(connection, user_id, key).await
        })
    })
    .await
}

/// Ends a reservation in one statement. Gives whether there was one.
async fn settle(
    connection: &mut MySqlConnection,
    user_id: &str,
    key: &[u8],
    state: &str,
    used: i64,
) -> Outcome<bool> {
    let done = sqlx::query!(
        "UPDATE reservations JOIN usage_counters
             ON usage_counters.user_id = reservations.user_id AND usage_counters.resource = reservations.resource
         SET reservations.state = ?, usage_counters.reserved = GREATEST(usage_counters.reserved - 1, 0),
             usage_counters.used = usage_counters.used + ?,
             usage_counters.month_used = usage_counters.month_used + IF(usage_counters.by_month, ?, 0),
             usage_counters.updated_at = ?
         WHERE reservations.user_id = ? AND reservations.idempotency_key = ? AND reservations.state = 'reserved'",
        state,
        used,
        used,
        now(),
        user_id,
        key
    )
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

async fn must_be_known(connection: &mut MySqlConnection, user_id: &str, key: &[u8]) -> Outcome<()> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        user_id,
        key
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    if known > 0 { Ok(()) } else { Err(Failure::field("idempotency_key", "was never reserved")) }
}

/// Releases what has expired. Any number of replicas may do so.
///
/// # Errors
/// GW001 when the database is away.
pub async fn sweep(pool: &MySqlPool) -> Outcome<()> {
    while expire(pool).await? == BATCH as usize {}
    Ok(())
}

/// Forgets keys that nobody can repeat any more.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> Step<'_> {
    let old = sqlx::query!(
        "DELETE FROM reservations WHERE state <> 'reserved' AND expires_at < ? LIMIT 1000",
        now - KEYS_KEPT
    );
    Box::pin(old.execute(connection))
}

/// By the clock of the database, as they were reserved by it.
async fn expire(pool: &MySqlPool) -> Outcome<usize> {
    let count = transaction(pool, "expire_reservations", (), |tx, ()| {
        Box::pin(async move {
            let mut expired = sqlx::query!(
                "SELECT user_id, resource, idempotency_key FROM reservations WHERE state = 'reserved' AND expires_at < UTC_TIMESTAMP(6)
                 ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED",
                BATCH
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
            // Counters in one order, for two that release what is the same users' would each wait for the other.
            expired.sort_by(|a, b| (&a.user_id, &a.resource).cmp(&(&b.user_id, &b.resource)));
            for row in &expired {
                settle(tx, &row.user_id, &row.idempotency_key, "released", 0).await?;
            }
            Ok(expired.len())
        })
    })
    .await?;
    EXPIRED.inc_by(count as u64);
    Ok(count)
}

static EXPIRED: LazyLock<prometheus::IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "subscription_reservations_expired_total",
        "Reservations that nobody committed or released in time"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
