//! What users have used: projects as identity-svc counts them, personas and content as they went through the gateway.

mod allowance;
pub mod days;
mod reservations;
mod settlement;

use chassis::mysql::{failed, misses_parent, transaction, violated_key};
use chrono::{DateTime, Utc};
use contract::identity::CountProjectsRequest;
use contract::identity::project_service_client::ProjectServiceClient;
use contract::subscription::{CheckQuotaResponse, GetUsageResponse, RecordUsageRequest, ReportUsageRequest};
use contract::{ErrorCode, Failure, Outcome, Resource, to_timestamp};
use prometheus::IntCounterVec;
use sqlx::MySqlConnection;
use std::sync::LazyLock;

use allowance::Allowance;
pub use reservations::{renew, reserve};
pub use settlement::{commit, forget, release, sweep};

use crate::service::{IDENTITY, Service};
use crate::subscriptions::{self, Subscription};
use chassis::clock::now;

/// The longest idempotency key, in bytes, as the column holds it.
const MAX_KEY: usize = 64;

async fn count_projects(service: &Service, user_id: &str) -> Outcome<i64> {
    let request = CountProjectsRequest { user_id: user_id.to_owned() };
    let answer = ProjectServiceClient::new(service.identity.clone()).count_projects(request).await;
    answer.map(|answer| answer.into_inner().count).map_err(|status| Failure::from_status(status, IDENTITY))
}

/// A counter, which is nought until something was counted.
#[derive(Default)]
struct Counter {
    used: i64,
    reserved: i64,
    updated_at: Option<DateTime<Utc>>,
}

async fn counter(connection: &mut MySqlConnection, user_id: &str, allowance: &Allowance) -> Outcome<Counter> {
    let row = sqlx::query!(
        r#"SELECT used, month_used, reserved, updated_at AS "updated_at: DateTime<Utc>",
                  period_start AS "period_start: DateTime<Utc>"
           FROM usage_counters WHERE user_id = ? AND resource = ?"#,
        user_id,
        allowance.resource.name()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    Ok(row.map_or_else(Counter::default, |row| Counter {
        used: match &allowance.month {
            None => row.used,
            Some(month) if row.period_start < month.start => 0,
            Some(_) => row.month_used,
        },
        reserved: row.reserved,
        updated_at: Some(row.updated_at),
    }))
}

/// All numbers of a user.
///
/// # Errors
/// USER001; GW001 when identity-svc is away.
pub async fn of(service: &Service, user_id: &str) -> Outcome<GetUsageResponse> {
    let created_at = subscriptions::find(&service.pool, user_id).await?.created_at;
    let personas = Allowance::of(service, user_id, Resource::Personas).await?;
    let content = Allowance::of(service, user_id, Resource::Content).await?;
    let mut connection = service.pool.acquire().await.map_err(failed)?;
    let personas = counter(&mut connection, user_id, &personas).await?;
    let content = counter(&mut connection, user_id, &content).await?;
    drop(connection);
    let projects_count = count_projects(service, user_id).await?;
    let last = personas.updated_at.max(content.updated_at).unwrap_or(created_at);
    Ok(GetUsageResponse {
        user_id: user_id.to_owned(),
        personas_count: personas.used,
        projects_count,
        content_count: content.used,
        last_updated: Some(to_timestamp(last)),
    })
}

/// Whether a user may have one more of a resource.
///
/// # Errors
/// REQ001, USER001; GW001 when identity-svc is away and asked for projects.
pub async fn check(service: &Service, user_id: &str, resource: &str) -> Outcome<CheckQuotaResponse> {
    let resource: Resource = resource.parse().map_err(|fault| Failure::field("resource", fault))?;
    let allowance = Allowance::of(service, user_id, resource).await?;
    let limit = allowance.limit;
    let (used, reserved) = match resource {
        Resource::Projects => (count_projects(service, user_id).await?, 0),
        Resource::Personas | Resource::Content => {
            let mut connection = service.pool.acquire().await.map_err(failed)?;
            let counter = counter(&mut connection, user_id, &allowance).await?;
            (counter.used, counter.reserved)
        }
    };
    let unlimited = limit < 0;
    let has_quota = unlimited || used + reserved < limit;
    CHECKS.with_label_values(&[resource.name(), if has_quota { "admitted" } else { "refused" }]).inc();
    let remaining = if unlimited { -1 } else { (limit - used - reserved).max(0) };
    Ok(CheckQuotaResponse { has_quota, resource: resource.name().to_owned(), limit, used, remaining })
}

/// Sets a counter to what an internal service says that exists.
///
/// # Errors
/// REQ001, USER001.
pub async fn report(service: &Service, request: &ReportUsageRequest) -> Outcome<()> {
    let resource = match request.resource.parse() {
        Ok(resource @ (Resource::Personas | Resource::Content)) => resource,
        _ => return Err(Failure::field("resource", "must be personas or content")),
    };
    if request.used < 0 {
        return Err(Failure::field("used", "must not be below nought"));
    }
    transaction(&service.pool, "report_usage", request, move |tx, request| {
        Box::pin(async move {
            let allowance = Allowance::within(tx, &request.user_id, resource).await?;
            set(tx, request, &allowance).await?;
            days::keep(tx, &request.user_id, allowance.resource.name()).await
        })
    })
    .await
}

/// Sets the count of the tier. A tier that counts by the month says what its count was short of or too much, which is
/// as true of the count for life.
async fn set(tx: &mut MySqlConnection, request: &ReportUsageRequest, allowance: &Allowance) -> Outcome<()> {
    let month = allowance.period();
    // The assignments are made in this order.
    sqlx::query!(
        "INSERT INTO usage_counters (user_id, resource, used, month_used, by_month, period_start, period_end, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE
             used = IF(VALUES(by_month),
                       GREATEST(used + VALUES(month_used) - IF(period_start < VALUES(period_start), 0, month_used), 0),
                       VALUES(used)),
             month_used = IF(VALUES(by_month), VALUES(month_used), month_used),
             by_month = VALUES(by_month), period_start = GREATEST(period_start, VALUES(period_start)),
             period_end = GREATEST(period_end, VALUES(period_end)), updated_at = VALUES(updated_at)",
        request.user_id,
        allowance.resource.name(),
        request.used,
        if allowance.is_monthly() { request.used } else { 0 },
        allowance.is_monthly(),
        month.start,
        month.end,
        now()
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Has the count of content be that of a tier that has changed, and the day with it. Called under the lock of the
/// subscription.
///
/// # Errors
/// GW001 when the database is away.
pub async fn follow(tx: &mut MySqlConnection, subscription: &Subscription) -> Outcome<()> {
    let (user_id, content) = (&subscription.user_id, Resource::Content);
    let allowance = Allowance::by(tx, subscription, content).await?;
    let month = allowance.period();
    // The assignments are made in this order.
    let done = sqlx::query!(
        "UPDATE usage_counters
         SET month_used = IF(period_start < ?, 0, month_used), by_month = ?,
             period_start = GREATEST(period_start, ?), period_end = GREATEST(period_end, ?)
         WHERE user_id = ? AND resource = ?",
        month.start,
        allowance.is_monthly(),
        month.start,
        month.end,
        user_id,
        content.name()
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 1 { days::keep(tx, user_id, content.name()).await } else { Ok(()) }
}

/// Counts one more or one less, once for each key, never below nought.
///
/// # Errors
/// REQ001, USER001.
pub async fn record(service: &Service, request: RecordUsageRequest) -> Outcome<()> {
    let RecordUsageRequest { user_id, resource, delta, idempotency_key } = request;
    let resource = match resource.parse() {
        Ok(resource @ (Resource::Personas | Resource::Content)) => resource,
        _ => {
            return Err(Failure::field(
                "resource",
                "must be personas or content; projects are counted from what exists",
            ));
        }
    };
    if delta != 1 && delta != -1 {
        return Err(Failure::field("delta", "must be 1 or -1"));
    }
    if !(1..=MAX_KEY).contains(&idempotency_key.len())
        || !idempotency_key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Failure::field(
            "idempotency_key",
            format!("must have 1 to {MAX_KEY} visible ASCII characters"),
        ));
    }
    transaction(&service.pool, "record_usage", (user_id, idempotency_key), move |tx, (user_id, key)| {
        Box::pin(async move {
            let allowance = Allowance::within(tx, user_id, resource).await?;
            if is_first(tx, user_id, key).await? {
                count(tx, user_id, &allowance, i64::from(delta)).await?;
                days::keep(tx, user_id, resource.name()).await?;
            }
            Ok(())
        })
    })
    .await
}

async fn is_first(tx: &mut MySqlConnection, user_id: &str, key: &str) -> Outcome<bool> {
    let inserted = sqlx::query!(
        "INSERT INTO usage_records (user_id, idempotency_key, recorded_at) VALUES (?, ?, UTC_TIMESTAMP(6))",
        user_id,
        key
    )
    .execute(tx)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if violated_key(&error).is_some() => Ok(false),
        Err(error) if misses_parent(&error) => Err(Failure::new(ErrorCode::UserNotFound)),
        Err(error) => Err(failed(error)),
    }
}

/// Counts for life and, where the tier does, in the month of the allowance, in which it may be the first.
async fn count(tx: &mut MySqlConnection, user_id: &str, allowance: &Allowance, delta: i64) -> Outcome<()> {
    let month = allowance.period();
    let delta_of_month = if allowance.is_monthly() { delta } else { 0 };
    // The assignments are made in this order.
    sqlx::query!(
        "INSERT INTO usage_counters (user_id, resource, used, month_used, by_month, period_start, period_end, updated_at)
         VALUES (?, ?, GREATEST(?, 0), GREATEST(?, 0), ?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE
             used = GREATEST(used + ?, 0),
             month_used = GREATEST(IF(period_start < VALUES(period_start), 0, month_used) + ?, 0),
             by_month = VALUES(by_month), period_start = GREATEST(period_start, VALUES(period_start)),
             period_end = GREATEST(period_end, VALUES(period_end)), updated_at = VALUES(updated_at)",
        user_id,
        allowance.resource.name(),
        delta,
        delta_of_month,
        allowance.is_monthly(),
        month.start,
        month.end,
        now(),
        delta,
        delta_of_month
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

static CHECKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "subscription_quota_checks_total",
        "Quota checks by resource and outcome",
        &["resource", "outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
