//! Subscriptions: one for each user, free until something else is bought.

use std::fmt;
use std::str::FromStr;

use chassis::mysql::{failed, misses_parent};
use chrono::{DateTime, Utc};
use contract::{ErrorCode, Failure, Outcome, Tier, to_timestamp};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::clock::now;

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    Trialing,
    PastDue,
    Canceled,
    Expired,
}

impl Status {
    const ALL: [Status; 5] = [
        Status::Active,
        Status::Trialing,
        Status::PastDue,
        Status::Canceled,
        Status::Expired,
    ];

    /// The name that clients and tables use.
    pub fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Trialing => "trialing",
            Status::PastDue => "past_due",
            Status::Canceled => "canceled",
            Status::Expired => "expired",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no status.
#[derive(Debug, thiserror::Error)]
#[error("must be one of active, trialing, past_due, canceled, expired")]
pub struct NotAStatus;

impl FromStr for Status {
    type Err = NotAStatus;

    fn from_str(name: &str) -> Result<Self, NotAStatus> {
        Status::ALL
            .into_iter()
            .find(|status| status.name() == name)
            .ok_or(NotAStatus)
    }
}

/// A row of `subscriptions`, without what is Stripe's.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub id: String,
    pub user_id: String,
    pub tier: Tier,
    pub status: Status,
    pub start_date: DateTime<Utc>,
    pub end_date: Option<DateTime<Utc>>,
    pub trial_ends_at: Option<DateTime<Utc>>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub payment_method: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// The tier that counts at `now`: what was bought, as long as it lasts, and free after that.
    pub fn effective_tier(&self, now: DateTime<Utc>) -> Tier {
        let runs = self.end_date.is_some_and(|end| end > now);
        let lasts = match self.status {
            Status::Active | Status::PastDue => self.cancelled_at.is_none() || runs,
            Status::Trialing => self.trial_ends_at.is_none_or(|end| end > now),
            Status::Canceled | Status::Expired => runs,
        };
        if lasts { self.tier } else { Tier::Free }
    }

    /// Cancels at `now`: at the end of what has been paid, or at once. What is free or cancelled stays as it is.
    pub fn cancel(&mut self, now: DateTime<Utc>) {
        if self.tier == Tier::Free || self.cancelled_at.is_some() {
            return;
        }
        self.cancelled_at = Some(now);
        if self.end_date.is_none_or(|end| end <= now) {
            self.status = Status::Canceled;
            self.end_date = Some(now);
        }
    }
}

impl From<Subscription> for contract::subscription::Subscription {
    fn from(subscription: Subscription) -> Self {
        contract::subscription::Subscription {
            id: subscription.id,
            user_id: subscription.user_id,
            tier: subscription.tier.name().to_owned(),
            status: subscription.status.name().to_owned(),
            start_date: Some(to_timestamp(subscription.start_date)),
            end_date: subscription.end_date.map(to_timestamp),
            trial_ends_at: subscription.trial_ends_at.map(to_timestamp),
            cancelled_at: subscription.cancelled_at.map(to_timestamp),
            payment_method: subscription.payment_method,
            created_at: Some(to_timestamp(subscription.created_at)),
            updated_at: Some(to_timestamp(subscription.updated_at)),
        }
    }
}

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
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// The user's subscription, made now if there is none. Two first calls at once make one.
///
/// # Errors
/// USER001 when there is no such user, which the foreign key decides.
pub async fn find(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Subscription> {
    if let Some(found) = read(connection, user_id).await? {
        return Ok(found);
    }
    let now = now();
    sqlx::query!(
        "INSERT INTO subscriptions (id, user_id, tier, status, start_date, created_at, updated_at)
         VALUES (?, ?, 'free', 'active', ?, ?, ?)
         ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)",
        Uuid::now_v7().to_string(),
        user_id,
        now,
        now,
        now
    )
    .execute(&mut *connection)
    .await
    .map_err(|error| {
        if misses_parent(&error) {
            Failure::new(ErrorCode::UserNotFound)
        } else {
            failed(error)
        }
    })?;
    read(connection, user_id)
        .await?
        .ok_or_else(|| Failure::new(ErrorCode::UserNotFound))
}

async fn read(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Option<Subscription>> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, user_id, tier, status, start_date AS "start_date: DateTime<Utc>",
                  end_date AS "end_date: DateTime<Utc>", trial_ends_at AS "trial_ends_at: DateTime<Utc>",
                  cancelled_at AS "cancelled_at: DateTime<Utc>", payment_method,
                  created_at AS "created_at: DateTime<Utc>", updated_at AS "updated_at: DateTime<Utc>"
           FROM subscriptions WHERE user_id = ?"#,
        user_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    row.map(Subscription::try_from).transpose()
}

/// The user's subscription, locked until the transaction ends, so that changes to one user come one after the other.
///
/// # Errors
/// As [`find`].
pub async fn lock(tx: &mut MySqlConnection, user_id: &str) -> Outcome<Subscription> {
    find(tx, user_id).await?;
    sqlx::query_scalar!(
        "SELECT id FROM subscriptions WHERE user_id = ? FOR UPDATE",
        user_id
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    find(tx, user_id).await
}

/// Writes what may change of a subscription.
///
/// # Errors
/// GW001 when the database is away.
pub async fn write(tx: &mut MySqlConnection, subscription: &Subscription) -> Outcome<()> {
    sqlx::query!(
        "UPDATE subscriptions
         SET tier = ?, status = ?, start_date = ?, end_date = ?, trial_ends_at = ?, cancelled_at = ?,
             payment_method = ?, updated_at = ?
         WHERE id = ?",
        subscription.tier.name(),
        subscription.status.name(),
        subscription.start_date,
        subscription.end_date,
        subscription.trial_ends_at,
        subscription.cancelled_at,
        subscription.payment_method,
        subscription.updated_at,
        subscription.id
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
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
        "SELECT COUNT(*) FROM subscriptions WHERE (? IS NULL OR tier = ?) AND (? IS NULL OR status = ?)",
        tier,
        tier,
        status,
        status
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let offset = (i64::from(page) - 1) * i64::from(page_size);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, user_id, tier, status, start_date AS "start_date: DateTime<Utc>",
                  end_date AS "end_date: DateTime<Utc>", trial_ends_at AS "trial_ends_at: DateTime<Utc>",
                  cancelled_at AS "cancelled_at: DateTime<Utc>", payment_method,
                  created_at AS "created_at: DateTime<Utc>", updated_at AS "updated_at: DateTime<Utc>"
           FROM subscriptions WHERE (? IS NULL OR tier = ?) AND (? IS NULL OR status = ?)
           ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"#,
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

#[cfg(test)]
pub mod tests {
    use chrono::Duration;

    use super::*;

    fn bought(status: Status) -> Subscription {
        let now = now();
        Subscription {
            id: "s".to_owned(),
            user_id: "u".to_owned(),
            tier: Tier::Premium,
            status,
            start_date: now,
            end_date: None,
            trial_ends_at: None,
            cancelled_at: None,
            payment_method: None,
            created_at: now,
            updated_at: now,
        }
    }

    #[test]
    fn a_tier_counts_as_long_as_it_lasts() {
        let now = now();
        let (before, after) = (Some(now - Duration::days(1)), Some(now + Duration::days(1)));
        assert_eq!(bought(Status::Active).effective_tier(now), Tier::Premium);
        assert_eq!(bought(Status::PastDue).effective_tier(now), Tier::Premium);
        assert_eq!(bought(Status::Expired).effective_tier(now), Tier::Free);
        let ends = |status, end_date, cancelled_at| Subscription {
            end_date,
            cancelled_at,
            ..bought(status)
        };
        assert_eq!(
            ends(Status::Canceled, after, before).effective_tier(now),
            Tier::Premium
        );
        assert_eq!(
            ends(Status::Canceled, before, before).effective_tier(now),
            Tier::Free
        );
        assert_eq!(
            ends(Status::Active, before, before).effective_tier(now),
            Tier::Free
        );
        let trial = Subscription {
            trial_ends_at: before,
            ..bought(Status::Trialing)
        };
        assert_eq!(trial.effective_tier(now), Tier::Free);
    }

    #[test]
    fn what_is_paid_for_lasts_to_its_end_and_the_rest_ends_at_once() {
        let now = now();
        let mut paid = Subscription {
            end_date: Some(now + Duration::days(3)),
            ..bought(Status::Active)
        };
        paid.cancel(now);
        assert_eq!((paid.status, paid.cancelled_at), (Status::Active, Some(now)));
        let mut open = bought(Status::Active);
        open.cancel(now);
        assert_eq!(
            (open.status, open.effective_tier(now)),
            (Status::Canceled, Tier::Free)
        );
        let mut free = Subscription {
            tier: Tier::Free,
            ..bought(Status::Active)
        };
        free.cancel(now);
        assert_eq!((free.status, free.cancelled_at), (Status::Active, None));
    }
}
