//! What users have used: projects as identity-svc counts them, personas and content as they went through the gateway.

use chassis::mysql::{failed, misses_parent, transaction, violated_key};
use chrono::{DateTime, Utc};
use contract::identity::CountProjectsRequest;
use contract::identity::project_service_client::ProjectServiceClient;
use contract::subscription::{CheckQuotaResponse, GetUsageResponse, RecordUsageRequest};
use contract::{ErrorCode, Failure, Outcome, Resource, to_timestamp};
use prometheus::IntCounterVec;
use sqlx::MySqlConnection;
use std::sync::LazyLock;

use crate::service::{IDENTITY, Service};
use crate::{subscriptions, tiers};
use chassis::clock::now;

/// The longest idempotency key, in bytes, as the column holds it.
const MAX_KEY: usize = 64;

async fn count_projects(service: &Service, user_id: &str) -> Outcome<i64> {
    let request = CountProjectsRequest { user_id: user_id.to_owned() };
    let answer = ProjectServiceClient::new(service.identity.clone()).count_projects(request).await;
    answer.map(|answer| answer.into_inner().count).map_err(|status| Failure::from_status(status, IDENTITY))
}

/// A counter, which is nought until something was counted, and when it last moved.
async fn counter(
    connection: &mut MySqlConnection,
    user_id: &str,
    resource: Resource,
) -> Outcome<(i64, Option<DateTime<Utc>>)> {
    let row = sqlx::query!(
        r#"SELECT used, updated_at AS "updated_at: DateTime<Utc>" FROM usage_counters
           WHERE user_id = ? AND resource = ?"#,
        user_id,
        resource.name()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    Ok(row.map_or((0, None), |row| (row.used, Some(row.updated_at))))
}

/// All numbers of a user.
///
/// # Errors
/// USER001; GW001 when identity-svc is away.
pub async fn of(service: &Service, user_id: &str) -> Outcome<GetUsageResponse> {
    let subscription = subscriptions::find(&service.pool, user_id).await?;
    let mut connection = service.pool.acquire().await.map_err(failed)?;
    let (personas_count, personas_at) = counter(&mut connection, user_id, Resource::Personas).await?;
    let (content_count, content_at) = counter(&mut connection, user_id, Resource::Content).await?;
    drop(connection);
    let projects_count = count_projects(service, user_id).await?;
    let last = personas_at.max(content_at).unwrap_or(subscription.created_at);
    Ok(GetUsageResponse {
        user_id: user_id.to_owned(),
        personas_count,
        projects_count,
        content_count,
        last_updated: Some(to_timestamp(last)),
    })
}

/// Whether a user may have one more of a resource.
///
/// # Errors
/// REQ001, USER001; GW001 when identity-svc is away and asked for projects.
pub async fn check(service: &Service, user_id: &str, resource: &str) -> Outcome<CheckQuotaResponse> {
    let resource: Resource = resource.parse().map_err(|fault| Failure::field("resource", fault))?;
    let subscription = subscriptions::find(&service.pool, user_id).await?;
    let mut connection = service.pool.acquire().await.map_err(failed)?;
    let limit = tiers::limit(&mut connection, subscription.effective_tier(now()), resource).await?;
    let used = match resource {
        Resource::Projects => {
            drop(connection);
            count_projects(service, user_id).await?
        }
        Resource::Personas | Resource::Content => counter(&mut connection, user_id, resource).await?.0,
    };
    let unlimited = limit < 0;
    let has_quota = unlimited || used < limit;
    CHECKS.with_label_values(&[resource.name(), if has_quota { "admitted" } else { "refused" }]).inc();
    let remaining = if unlimited { -1 } else { (limit - used).max(0) };
    Ok(CheckQuotaResponse { has_quota, resource: resource.name().to_owned(), limit, used, remaining })
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
    let given = (user_id, idempotency_key);
    transaction(&service.pool, "record_usage", given, move |tx, (user_id, key)| {
        Box::pin(async move {
            if is_first(tx, user_id, key).await? {
                count(tx, user_id, resource, i64::from(delta)).await?;
            }
            Ok(())
        })
    })
    .await
}

async fn is_first(tx: &mut MySqlConnection, user_id: &str, key: &str) -> Outcome<bool> {
    let inserted = sqlx::query!(
        "INSERT INTO usage_records (user_id, idempotency_key, recorded_at) VALUES (?, ?, ?)",
        user_id,
        key,
        now()
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

async fn count(tx: &mut MySqlConnection, user_id: &str, resource: Resource, delta: i64) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO usage_counters (user_id, resource, used, updated_at) VALUES (?, ?, GREATEST(?, 0), ?)
         ON DUPLICATE KEY UPDATE used = GREATEST(used + ?, 0), updated_at = VALUES(updated_at)",
        user_id,
        resource.name(),
        delta,
        now(),
        delta
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
