//! The table `subscriptions`.

use chassis::mysql::{failed, misses_parent, transaction};
use chrono::{DateTime, Utc};
use contract::{ErrorCode, Failure, Outcome, Tier};
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use uuid::Uuid;

use super::{Status, Subscription, TRIAL_SLACK};

struct Row {
    id: String,
    user_id: String,
    tier: String,
    status: String,
    start_date: DateTime<Utc>,
    end_date: Option<DateTime<Utc>>,
    trial_ends_at: Option<DateTime<Utc>>,
    cancelled_at: Option<DateTime<Utc>>,
    payment_method: Option<String>,
    stripe_customer_id: Option<String>,
    stripe_subscription_id: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Subscription {
    type Error = Failure;

    fn try_from(row: Row) -> Outcome<Self> {
        Ok(Subscription {
            id: row.id,
            user_id: row.user_id,
            tier: row.tier.parse().map_err(Failure::internal)?,
            status: row.status.parse().map_err(Failure::internal)?,
            start_date: row.start_date,
            end_date: row.end_date,
            trial_ends_at: row.trial_ends_at,
            cancelled_at: row.cancelled_at,
            payment_method: row.payment_method,
            stripe_customer_id: row.stripe_customer_id,
            stripe_subscription_id: row.stripe_subscription_id,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Rows of `subscriptions`, with what follows the name of the table.
macro_rules! select {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id, user_id, tier, status, start_date AS "start_date: DateTime<Utc>",
                      end_date AS "end_date: DateTime<Utc>", trial_ends_at AS "trial_ends_at: DateTime<Utc>",
                      cancelled_at AS "cancelled_at: DateTime<Utc>", payment_method,
                      stripe_customer_id, stripe_subscription_id,
                      created_at AS "created_at: DateTime<Utc>", updated_at AS "updated_at: DateTime<Utc>"
               FROM subscriptions "# + $rest
            $(, $value)*
        )
    };
}

/// The user's subscription, made now if there is none. Two first calls at once make one.
///
/// # Errors
/// USER001 when there is no such user, which the foreign key decides.
pub async fn find(pool: &MySqlPool, user_id: &str) -> Outcome<Subscription> {
    let mut connection = pool.acquire().await.map_err(failed)?;
    if let Some(found) = read(&mut connection, user_id).await? {
        return Ok(found);
    }
    drop(connection);
    transaction(pool, "first_subscription", user_id, |tx, user_id| Box::pin(hold(tx, user_id))).await
}

/// The user's subscription, made now if there is none, which others read but nobody changes until the transaction ends.
///
/// # Errors
/// As [`find`].
pub async fn hold(tx: &mut MySqlConnection, user_id: &str) -> Outcome<Subscription> {
    if read(tx, user_id).await?.is_none() {
        make_free(tx, user_id).await?;
    }
    // Reads what is committed now, as `lock`.
    let row =
        select!("WHERE user_id = ? LOCK IN SHARE MODE", user_id).fetch_optional(tx).await.map_err(failed)?;
    row.ok_or_else(deleted_meanwhile)?.try_into()
}

/// The user's subscription, made now if there is none and locked until the transaction ends, so that changes to one
/// user come one after the other.
///
/// # Errors
/// As [`find`].
pub async fn lock(tx: &mut MySqlConnection, user_id: &str) -> Outcome<Subscription> {
    if read(tx, user_id).await?.is_none() {
        make_free(tx, user_id).await?;
    }
    // Reads what is committed now, whatever the transaction has seen before.
    let row = select!("WHERE user_id = ? FOR UPDATE", user_id).fetch_optional(tx).await.map_err(failed)?;
    row.ok_or_else(deleted_meanwhile)?.try_into()
}

async fn read(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Option<Subscription>> {
    let row = select!("WHERE user_id = ?", user_id).fetch_optional(connection).await.map_err(failed)?;
    row.map(Subscription::try_from).transpose()
}

/// Makes the subscription that every user starts with; does nothing when there is one.
async fn make_free(tx: &mut MySqlConnection, user_id: &str) -> Outcome<()> {
    let made = sqlx::query!(
        "INSERT INTO subscriptions (id, user_id, tier, status, start_date, created_at, updated_at)
         VALUES (?, ?, 'free', 'active', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))
         ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)",
        Uuid::now_v7().to_string(),
        user_id
    )
    .execute(tx)
    .await;
    match made {
        Ok(_) => Ok(()),
        Err(error) if misses_parent(&error) => Err(Failure::new(ErrorCode::UserNotFound)),
        Err(error) => Err(failed(error)),
    }
}

/// Makes the subscriptions that users start with, for those that have none.
///
/// # Errors
/// GW001 when the database is away.
pub async fn welcome(pool: &MySqlPool, user_ids: &[String]) -> Outcome<()> {
    match make_free_for(pool, user_ids).await {
        Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
        outcome => return outcome,
    }
    // One of them was deleted meanwhile, and with it the whole statement was refused.
    for user_id in user_ids {
        match make_free_for(pool, std::slice::from_ref(user_id)).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

async fn make_free_for(pool: &MySqlPool, user_ids: &[String]) -> Outcome<()> {
    transaction(pool, "first_subscriptions", user_ids, |tx, user_ids| {
        Box::pin(async move {
            let mut statement = QueryBuilder::<MySql>::new(
                "INSERT INTO subscriptions (id, user_id, tier, status, start_date, created_at, updated_at) ",
            );
            statement.push_values(*user_ids, |mut row, user_id| {
                row.push_bind(Uuid::now_v7().to_string()).push_bind(user_id);
                row.push_bind(Tier::Free.name()).push_bind(Status::Active.name());
                row.push("UTC_TIMESTAMP(6)").push("UTC_TIMESTAMP(6)").push("UTC_TIMESTAMP(6)");
            });
            statement.push(" ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)");
            match statement.build().execute(tx).await {
                Ok(_) => Ok(()),
                Err(error) if misses_parent(&error) => Err(Failure::new(ErrorCode::UserNotFound)),
                Err(error) => Err(failed(error)),
            }
        })
    })
    .await
}

fn deleted_meanwhile() -> Failure {
    Failure::new(ErrorCode::UserNotFound)
}

/// Writes what may change of a subscription.
///
/// # Errors
/// GW001 when the database is away.
pub async fn write(tx: &mut MySqlConnection, subscription: &Subscription) -> Outcome<()> {
    sqlx::query!(
        "UPDATE subscriptions
         SET tier = ?, status = ?, start_date = ?, end_date = ?, trial_ends_at = ?, cancelled_at = ?,
             payment_method = ?, stripe_customer_id = ?, stripe_subscription_id = ?, updated_at = ?
         WHERE id = ?",
        subscription.tier.name(),
        subscription.status.name(),
        subscription.start_date,
        subscription.end_date,
        subscription.trial_ends_at,
        subscription.cancelled_at,
        subscription.payment_method,
        subscription.stripe_customer_id,
        subscription.stripe_subscription_id,
        subscription.updated_at,
        subscription.id
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Users whose trial, cancelled period or grace is over at `now` without their status saying so, some of them.
///
/// # Errors
/// GW001 when the database is away.
pub async fn lapsed_users(pool: &MySqlPool, now: DateTime<Utc>) -> Outcome<Vec<String>> {
    sqlx::query_scalar!(
        "SELECT user_id FROM subscriptions
         WHERE status = 'trialing' AND trial_ends_at <= ?
           AND (trial_ends_at <= ? OR stripe_subscription_id IS NULL OR cancelled_at IS NOT NULL)
         UNION
         SELECT user_id FROM subscriptions
         WHERE status = 'active' AND end_date <= ? AND cancelled_at IS NOT NULL
         UNION
         SELECT user_id FROM subscriptions WHERE status = 'past_due' AND end_date <= ?
         LIMIT 100",
        now,
        now - TRIAL_SLACK,
        now,
        now
    )
    .fetch_all(pool)
    .await
    .map_err(failed)
}

/// A page of all subscriptions, newest first, and how many there are.
///
/// # Errors
/// GW001 when the database is away.
pub async fn list(
    connection: &mut MySqlConnection,
    tier: Option<Tier>,
    status: Option<Status>,
    page: i32,
    page_size: i32,
) -> Outcome<(Vec<Subscription>, i64)> {
    let (tier, status) = (tier.map(Tier::name), status.map(Status::name));
    let count = sqlx::query_scalar!(
        r#"SELECT COUNT(*) AS "n: i64" FROM subscriptions
           WHERE (? IS NULL OR tier = ?) AND (? IS NULL OR status = ?)"#,
        tier,
        tier,
        status,
        status
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let offset = (i64::from(page) - 1) * i64::from(page_size);
    let rows = select!(
        "WHERE (? IS NULL OR tier = ?) AND (? IS NULL OR status = ?) ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
        tier,
        tier,
        status,
        status,
        page_size,
        offset
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let subscriptions: Outcome<Vec<Subscription>> = rows.into_iter().map(Subscription::try_from).collect();
    Ok((subscriptions?, count))
}
