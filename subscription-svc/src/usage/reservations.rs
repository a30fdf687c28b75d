//! Reserve → do → commit or release. Reserving is one conditional UPDATE, so that of any number of concurrent calls
//! exactly as many are admitted as the limit leaves room for. What nobody commits or releases expires.

use chassis::clock::now;
use chassis::mysql::{failed, transaction, violated_key};
use chrono::{DateTime, TimeDelta, Utc};
use contract::subscription::{RenewRequest, ReserveRequest, ReserveResponse};
use contract::{ErrorCode, Failure, Outcome, Resource};
use prometheus::IntCounterVec;
use sqlx::{MySqlConnection, MySqlPool};
use std::sync::LazyLock;

use super::{Allowance, days};
use crate::service::Service;

/// The longest key, in bytes, as the column holds it.
const MAX_KEY: usize = 160;
/// The longest life of a reservation, in seconds.
const MAX_LIFE: i32 = 3600;
/// How many expired reservations are released in one step.
const BATCH: i64 = 200;
/// How long a key is recognised after its reservation is over.
const KEYS_KEPT: TimeDelta = TimeDelta::days(7);

/// What came of reserving, inside the transaction.
enum Reserved {
    New,
    /// The same key was reserved before, and this is where it stands.
    Known(String),
}

/// Reserves one of a resource under a key. The same key again gives the same reservation.
///
/// # Errors
/// REQ001, USER001; SUB002 with resource, limit and used.
pub async fn reserve(service: &Service, request: &ReserveRequest) -> Outcome<ReserveResponse> {
    let resource = counted(&request.resource)?;
    check_key(&request.idempotency_key)?;
    check_life(request.ttl_seconds)?;
    let allowance = Allowance::of(service, &request.user_id, resource).await?;
    let reserved = admit(&service.pool, request, &allowance).await;
    let outcome = match &reserved {
        Ok(Reserved::New) => "admitted",
        Ok(Reserved::Known(_)) => "repeated",
        Err(failure) if failure.code() == ErrorCode::QuotaExceeded => "refused",
        Err(_) => "failed",
    };
    RESERVATIONS.with_label_values(&[resource.name(), outcome]).inc();
    let repeated = match reserved? {
        Reserved::New => String::new(),
        Reserved::Known(state) => state,
    };
    Ok(ReserveResponse { repeated })
}

/// A user who has nothing left is told so by a look alone: those who wait for the counter's lock hold connections that
/// others need.
async fn admit(pool: &MySqlPool, request: &ReserveRequest, allowance: &Allowance) -> Outcome<Reserved> {
    let mut connection = pool.acquire().await.map_err(failed)?;
    if !is_known(&mut connection, request).await?
        && let Some(failure) = refusal(&mut connection, &request.user_id, allowance).await?
    {
        return Err(failure);
    }
    drop(connection);
    transaction(pool, "reserve", (request, allowance), |tx, (request, allowance)| {
        Box::pin(async move {
            if let Some(state) = insert(tx, request, allowance.resource).await? {
                return Ok(Reserved::Known(state));
            }
            if take(tx, &request.user_id, allowance).await? {
                return Ok(Reserved::New);
            }
            // Rolls the insert back.
            Err(refusal(tx, &request.user_id, allowance)
                .await?
                .unwrap_or_else(|| exceeded(allowance, allowance.limit)))
        })
    })
    .await
}

async fn is_known(connection: &mut MySqlConnection, request: &ReserveRequest) -> Outcome<bool> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        request.user_id,
        request.idempotency_key.as_bytes()
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(known > 0)
}

fn counted(name: &str) -> Outcome<Resource> {
    match name.parse() {
        Ok(resource @ (Resource::Personas | Resource::Content)) => Ok(resource),
        _ => Err(Failure::field("resource", "must be personas or content; identity-svc counts projects")),
    }
}

fn check_key(key: &str) -> Outcome<()> {
    if (1..=MAX_KEY).contains(&key.len()) {
        return Ok(());
    }
    Err(Failure::field("idempotency_key", format!("must have 1 to {MAX_KEY} bytes")))
}

fn check_life(seconds: i32) -> Outcome<()> {
    if (1..=MAX_LIFE).contains(&seconds) {
        return Ok(());
    }
    Err(Failure::field("ttl_seconds", format!("must be 1 to {MAX_LIFE}")))
}

/// Keeps a place taken for longer: what it is for is still being made.
///
/// # Errors
/// REQ001, also when it is not reserved any more.
pub async fn renew(pool: &MySqlPool, request: &RenewRequest) -> Outcome<()> {
    check_life(request.ttl_seconds)?;
    let renewed = sqlx::query!(
        "UPDATE reservations SET expires_at = GREATEST(expires_at, ?)
         WHERE user_id = ? AND idempotency_key = ? AND state = 'reserved'",
        now() + TimeDelta::seconds(request.ttl_seconds.into()),
        request.user_id,
        request.idempotency_key.as_bytes()
    )
    .execute(pool)
    .await
    .map_err(failed)?;
    if renewed.rows_affected() == 1 {
        return Ok(());
    }
    Err(Failure::field("idempotency_key", "is not reserved"))
}

/// Keeps the key; gives the state of the reservation that has it already, unless that was released.
async fn insert(
    tx: &mut MySqlConnection,
    request: &ReserveRequest,
    resource: Resource,
) -> Outcome<Option<String>> {
    let (now, key) = (now(), request.idempotency_key.as_bytes());
    let expires_at = now + TimeDelta::seconds(request.ttl_seconds.into());
    let inserted = sqlx::query!(
        "INSERT INTO reservations (user_id, idempotency_key, resource, state, created_at, expires_at)
         VALUES (?, ?, ?, 'reserved', ?, ?)",
        request.user_id,
        key,
        resource.name(),
        now,
        expires_at
    )
    .execute(&mut *tx)
    .await;
    match inserted {
        Ok(_) => return Ok(None),
        Err(error) if violated_key(&error).is_some() => {}
        Err(error) => return Err(failed(error)),
    }
    // What was released may be tried again under its key.
    let again = sqlx::query!(
        "UPDATE reservations SET state = 'reserved', expires_at = ?
         WHERE user_id = ? AND idempotency_key = ? AND resource = ? AND state = 'released'",
        expires_at,
        request.user_id,
        key,
        resource.name()
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    if again.rows_affected() == 1 {
        return Ok(None);
    }
    let known = sqlx::query!(
        "SELECT resource, state FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        request.user_id,
        key
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    if known.resource != resource.name() {
        return Err(Failure::field("idempotency_key", "was used for another resource"));
    }
    Ok(Some(known.state))
}

/// Takes one place, if there is one.
async fn take(tx: &mut MySqlConnection, user_id: &str, allowance: &Allowance) -> Outcome<bool> {
    if take_from_counter(tx, user_id, allowance).await? {
        return Ok(true);
    }
    // It may have been made this moment by another first reservation, which then has its place already: so without a
    // look at whether this made it. Locked for what follows, so that many at once do not deadlock.
    sqlx::query!(
        "INSERT INTO usage_counters (user_id, resource, used, reserved, period_start, updated_at)
         VALUES (?, ?, 0, 0, ?, ?) ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)",
        user_id,
        allowance.resource.name(),
        allowance.period_start,
        now()
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    take_from_counter(tx, user_id, allowance).await
}

async fn take_from_counter(tx: &mut MySqlConnection, user_id: &str, allowance: &Allowance) -> Outcome<bool> {
    let period = allowance.period_start;
    let done = sqlx::query!(
        "UPDATE usage_counters
         SET reserved = reserved + 1, used = IF(period_start < ?, 0, used), period_start = GREATEST(period_start, ?)
         WHERE user_id = ? AND resource = ? AND (? < 0 OR IF(period_start < ?, 0, used) + reserved + 1 <= ?)",
        period,
        period,
        user_id,
        allowance.resource.name(),
        allowance.limit,
        period,
        allowance.limit
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() == 1)
}

/// The refusal of one more, if there is none left.
async fn refusal(
    connection: &mut MySqlConnection,
    user_id: &str,
    allowance: &Allowance,
) -> Outcome<Option<Failure>> {
    let counter = super::counter(connection, user_id, allowance).await?;
    let used = counter.used + counter.reserved;
    Ok((allowance.limit >= 0 && used >= allowance.limit).then(|| exceeded(allowance, used)))
}

fn exceeded(allowance: &Allowance, used: i64) -> Failure {
    Failure::new(ErrorCode::QuotaExceeded)
        .with_fact("resource", allowance.resource)
        .with_fact("limit", allowance.limit)
        .with_fact("used", used)
}

/// Turns a reservation into usage: the thing exists. Also when the reservation has expired meanwhile; twice counts
/// once.
///
/// # Errors
/// REQ001 for a key that was never reserved.
pub async fn commit(pool: &MySqlPool, user_id: &str, key: &str) -> Outcome<()> {
    transaction(pool, "commit", (user_id, key), |tx, (user_id, key)| {
        Box::pin(async move {
            if settle(tx, user_id, key.as_bytes(), "committed", 1).await? {
                return days::keep_reserved(tx, user_id, key.as_bytes()).await;
            }
            let late = sqlx::query!(
                "UPDATE reservations JOIN usage_counters
                     ON usage_counters.user_id = reservations.user_id
                     AND usage_counters.resource = reservations.resource
                 SET reservations.state = 'committed', usage_counters.used = usage_counters.used + 1,
                     usage_counters.updated_at = ?
                 WHERE reservations.user_id = ? AND reservations.idempotency_key = ?
                   AND reservations.state = 'released'",
                now(),
                user_id,
                key.as_bytes()
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            if late.rows_affected() > 0 {
                return days::keep_reserved(tx, user_id, key.as_bytes()).await;
            }
            must_be_known(tx, user_id, key).await
        })
    })
    .await
}

/// Gives the place back: nothing was made. What was committed stays so; twice counts once.
///
/// # Errors
/// REQ001 for a key that was never reserved.
pub async fn release(pool: &MySqlPool, user_id: &str, key: &str) -> Outcome<()> {
    transaction(pool, "release", (user_id, key), |tx, (user_id, key)| {
        Box::pin(async move {
            if settle(tx, user_id, key.as_bytes(), "released", 0).await? {
                return Ok(());
            }
            must_be_known(tx, user_id, key).await
        })
    })
    .await
}

/// Ends a reservation in one statement. Gives whether there was one.
async fn settle(
    tx: &mut MySqlConnection,
    user_id: &str,
    key: &[u8],
    state: &str,
    used: i64,
) -> Outcome<bool> {
    let done = sqlx::query!(
        "UPDATE reservations JOIN usage_counters
             ON usage_counters.user_id = reservations.user_id AND usage_counters.resource = reservations.resource
         SET reservations.state = ?, usage_counters.reserved = GREATEST(usage_counters.reserved - 1, 0),
             usage_counters.used = usage_counters.used + ?, usage_counters.updated_at = ?
         WHERE reservations.user_id = ? AND reservations.idempotency_key = ? AND reservations.state = 'reserved'",
        state,
        used,
        now(),
        user_id,
        key
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

async fn must_be_known(tx: &mut MySqlConnection, user_id: &str, key: &str) -> Outcome<()> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        user_id,
        key.as_bytes()
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    if known > 0 { Ok(()) } else { Err(Failure::field("idempotency_key", "was never reserved")) }
}

/// Releases what has expired, and forgets keys that nobody can repeat any more. Any number of replicas may do so.
///
/// # Errors
/// GW001 when the database is away.
pub async fn sweep(pool: &MySqlPool) -> Outcome<()> {
    while expire(pool, now()).await? == BATCH as usize {}
    sqlx::query!(
        "DELETE FROM reservations WHERE state <> 'reserved' AND expires_at < ? LIMIT 1000",
        now() - KEYS_KEPT
    )
    .execute(pool)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn expire(pool: &MySqlPool, at: DateTime<Utc>) -> Outcome<usize> {
    let count = transaction(pool, "expire_reservations", at, |tx, at| {
        Box::pin(async move {
            let expired = sqlx::query!(
                "SELECT user_id, idempotency_key FROM reservations WHERE state = 'reserved' AND expires_at < ?
                 ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED",
                at,
                BATCH
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
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

static RESERVATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "subscription_reservations_total",
        "Reservations by resource and outcome: admitted, repeated, refused, failed",
        &["resource", "outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static EXPIRED: LazyLock<prometheus::IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "subscription_reservations_expired_total",
        "Reservations that nobody committed or released in time"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
