//! Reserve → do → commit or release. What decides is one conditional UPDATE, so that of any number of concurrent calls
//! exactly as many are admitted as the limit leaves room for. Usually it is one INSERT and that UPDATE; whatever is
//! rare is left to a second look in the same transaction: the first of a resource, the turn of a month, another tier, a
//! key that was used before, a refusal.

use chassis::mysql::{failed, violated_key, write};
use contract::subscription::{RenewRequest, ReserveRequest, ReserveResponse};
use contract::{ErrorCode, Failure, Outcome, Resource};
use prometheus::IntCounterVec;
use sqlx::{MySqlConnection, MySqlPool};
use std::sync::LazyLock;

use super::allowance::Allowance;
use crate::service::Service;

/// The longest key, in bytes, as the column holds it.
const MAX_KEY: usize = 160;
/// The longest life of a reservation, in seconds.
const MAX_LIFE: i32 = 3600;
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
    let key = request.idempotency_key.as_bytes();
    let place = Place { user_id: &request.user_id, resource, key, seconds: request.ttl_seconds };
    let reserved = service
        .lane
        .transaction("reserve", place, |tx, place| {
            Box::pin(async move {
                match take_at_once(tx, place).await? {
                    Step::Taken => Ok(Reserved::New),
                    step => take_with_care(tx, place, step == Step::Kept).await,
                }
            })
        })
        .await;
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

/// What is asked for.
struct Place<'a> {
    user_id: &'a str,
    resource: Resource,
    key: &'a [u8],
    /// How long it is kept: by the clock of the database, as that of a replica may be wrong.
    seconds: i32,
}

/// How far it went without a second look.
#[derive(PartialEq)]
enum Step {
    /// Nothing was done.
    Stuck,
    /// The key is kept, and no place is taken.
    Kept,
    /// The place is taken.
    Taken,
}

/// A statement on a counter `c`, where the tier of a subscription that is running leaves room in the count that stands
/// there. It looks at no clock but the month's: what may be over, such as a trial, is for the second look.
macro_rules! where_there_is_room {
    ($statement:literal, $($value:expr),*) => {
        sqlx::query!(
            $statement
                + " WHERE c.user_id = ? AND c.resource = ? AND (
                        SELECT c.by_month = (t.content_is_monthly AND c.resource = 'content')
                               AND (NOT c.by_month OR (c.period_start >= s.start_date AND c.period_end > UTC_TIMESTAMP(6)))
                               AND (IF(c.resource = 'content', t.max_content_items, t.max_personas) < 0
                                    OR IF(c.by_month, c.month_used, c.used) + c.reserved
                                       < IF(c.resource = 'content', t.max_content_items, t.max_personas))
                        FROM subscriptions s JOIN tiers t ON t.id = s.tier
                        WHERE s.user_id = c.user_id AND s.status = 'active' AND s.cancelled_at IS NULL)",
            $($value),*
        )
    };
}

/// Keeps the key and takes a place, in this order: the counter's lock is the one that others wait for. The INSERT only
/// looks at the counter, so that nobody waits who has nothing left.
async fn take_at_once(tx: &mut MySqlConnection, place: &Place<'_>) -> Outcome<Step> {
    let inserted = where_there_is_room!(
        "INSERT INTO reservations (user_id, idempotency_key, resource, state, created_at, expires_at)
         SELECT c.user_id, ?, c.resource, 'reserved', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ? SECOND
         FROM usage_counters c",
        place.key,
        place.seconds,
        place.user_id,
        place.resource.name()
    )
    .execute(&mut *tx)
    .await;
    match inserted {
        Ok(done) if done.rows_affected() == 1 => {}
        Ok(_) => return Ok(Step::Stuck),
        Err(error) if violated_key(&error).is_some() => return Ok(Step::Stuck),
        Err(error) => return Err(failed(error)),
    }
    let taken = where_there_is_room!(
        "UPDATE usage_counters c SET c.reserved = c.reserved + 1",
        place.user_id,
        place.resource.name()
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(if taken.rows_affected() == 1 { Step::Taken } else { Step::Kept })
}

/// As [`take_at_once`], whatever there is. A user who has nothing left is told so by a look, without the counter's
/// lock.
async fn take_with_care(tx: &mut MySqlConnection, place: &Place<'_>, is_kept: bool) -> Outcome<Reserved> {
    let allowance = Allowance::within(tx, place.user_id, place.resource).await?;
    if !is_kept {
        if !is_known(tx, place).await?
            && let Some(failure) = refusal(tx, place.user_id, &allowance).await?
        {
            return Err(failure);
        }
        if let Some(state) = insert(tx, place).await? {
            return Ok(Reserved::Known(state));
        }
    }
    if take(tx, place.user_id, &allowance).await? {
        return Ok(Reserved::New);
    }
    // Rolls the insert back.
    Err(refusal(tx, place.user_id, &allowance)
        .await?
        .unwrap_or_else(|| exceeded(&allowance, allowance.limit)))
}

async fn is_known(tx: &mut MySqlConnection, place: &Place<'_>) -> Outcome<bool> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        place.user_id,
        place.key
    )
    .fetch_one(tx)
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
    let renewed = write(
        pool,
        sqlx::query!(
            "UPDATE reservations SET expires_at = GREATEST(expires_at, UTC_TIMESTAMP(6) + INTERVAL ? SECOND)
         WHERE user_id = ? AND idempotency_key = ? AND state = 'reserved'",
            request.ttl_seconds,
            request.user_id,
            request.idempotency_key.as_bytes()
        ),
    )
    .await?;
    if renewed.rows_affected() == 1 {
        return Ok(());
    }
    Err(Failure::field("idempotency_key", "is not reserved"))
}

/// Keeps the key; gives the state of the reservation that has it already, unless that was released.
async fn insert(tx: &mut MySqlConnection, place: &Place<'_>) -> Outcome<Option<String>> {
    let &Place { user_id, resource, key, seconds } = place;
    let inserted = sqlx::query!(
        "INSERT INTO reservations (user_id, idempotency_key, resource, state, created_at, expires_at)
         VALUES (?, ?, ?, 'reserved', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL ? SECOND)",
        user_id,
        key,
        resource.name(),
        seconds
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
        "UPDATE reservations SET state = 'reserved', expires_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND
         WHERE user_id = ? AND idempotency_key = ? AND resource = ? AND state = 'released'",
        seconds,
        user_id,
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
        user_id,
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
    let month = allowance.period();
    sqlx::query!(
        "INSERT INTO usage_counters (user_id, resource, used, reserved, by_month, period_start, period_end, updated_at)
         VALUES (?, ?, 0, 0, ?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)",
        user_id,
        allowance.resource.name(),
        allowance.is_monthly(),
        month.start,
        month.end
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    take_from_counter(tx, user_id, allowance).await
}

/// Takes it from the count of the tier, which may be another than the one before, and in another month.
async fn take_from_counter(tx: &mut MySqlConnection, user_id: &str, allowance: &Allowance) -> Outcome<bool> {
    let month = allowance.period();
    // The assignments are made in this order.
    let done = sqlx::query!(
        "UPDATE usage_counters
         SET reserved = reserved + 1, month_used = IF(period_start < ?, 0, month_used), by_month = ?,
             period_start = GREATEST(period_start, ?), period_end = GREATEST(period_end, ?)
         WHERE user_id = ? AND resource = ?
           AND (? < 0 OR IF(?, IF(period_start < ?, 0, month_used), used) + reserved < ?)",
        month.start,
        allowance.is_monthly(),
        month.start,
        month.end,
        user_id,
        allowance.resource.name(),
        allowance.limit,
        allowance.is_monthly(),
        month.start,
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

static RESERVATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "subscription_reservations_total",
        "Reservations by resource and outcome: admitted, repeated, refused, failed",
        &["resource", "outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
