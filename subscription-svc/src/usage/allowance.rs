//! How much of a resource a user may have, for life or by the month.

use std::ops::Range;

use chassis::clock::shared;
use chassis::mysql::failed;
use chrono::{DateTime, Datelike, Months, Utc};
use contract::{Outcome, Resource};
use sqlx::MySqlConnection;

use crate::service::Service;
use crate::subscriptions::Subscription;
use crate::{subscriptions, tiers};

/// When the month of what counts for life begins and ends.
pub const LONG_AGO: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// How much of a resource a user may have at this moment.
pub struct Allowance {
    pub resource: Resource,
    /// Below nought: any number.
    pub limit: i64,
    /// The month that counts; none for what counts for life.
    pub month: Option<Range<DateTime<Utc>>>,
}

impl Allowance {
    /// What the tier admits.
    ///
    /// # Errors
    /// USER001.
    pub async fn of(service: &Service, user_id: &str, resource: Resource) -> Outcome<Self> {
        let subscription = subscriptions::find(&service.pool, user_id).await?;
        let mut connection = service.pool.acquire().await.map_err(failed)?;
        Self::by(&mut connection, &subscription, resource).await
    }

    /// As [`Allowance::of`], on the connection of a transaction until whose end the tier stays: what is written by it
    /// must not undo what a change of the tier has written meanwhile.
    ///
    /// # Errors
    /// USER001.
    pub async fn within(tx: &mut MySqlConnection, user_id: &str, resource: Resource) -> Outcome<Self> {
        let subscription = subscriptions::hold(tx, user_id).await?;
        Self::by(tx, &subscription, resource).await
    }

    /// As [`Allowance::of`], of a subscription that is known. By the clock of the database, as what was used in a month is
    /// forgotten when the next one begins.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn by(
        connection: &mut MySqlConnection,
        subscription: &Subscription,
        resource: Resource,
    ) -> Outcome<Self> {
        let now = shared(connection).await.map_err(failed)?;
        let limit = tiers::limit(connection, subscription.effective_tier(now), resource).await?;
        let monthly = resource == Resource::Content && limit.content_is_monthly;
        let month = monthly.then(|| month_of(subscription.start_date, now));
        Ok(Allowance { resource, limit: limit.most, month })
    }

    /// Whether it counts by the month.
    pub fn is_monthly(&self) -> bool {
        self.month.is_some()
    }

    /// The month as columns have it: long ago for what counts for life.
    pub fn period(&self) -> Range<DateTime<Utc>> {
        self.month.clone().unwrap_or(LONG_AGO..LONG_AGO)
    }
}

/// The calendar month, counted from `start`, that `now` lies in. A month that lacks the day begins on its last.
pub fn month_of(start: DateTime<Utc>, now: DateTime<Utc>) -> Range<DateTime<Utc>> {
    let passed = (now.year() - start.year()) * 12 + now.month() as i32 - start.month() as i32;
    let passed = u32::try_from(passed).unwrap_or(0);
    let begins = |months| start.checked_add_months(Months::new(months)).unwrap_or(start);
    let passed = if begins(passed) <= now { passed } else { passed.saturating_sub(1) };
    begins(passed)..begins(passed + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

    use super::*;
    use crate::tests::{new_user, service};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn a_month_begins_on_the_day_of_the_subscription_or_the_months_last() {
        let start = at("2026-01-31T12:00:00Z");
        for (now, begins) in [
            ("2026-02-10T00:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-02-28T11:59:59Z", "2026-01-31T12:00:00Z"),
            ("2026-02-28T12:00:00Z", "2026-02-28T12:00:00Z"),
            ("2026-03-31T12:00:00Z", "2026-03-31T12:00:00Z"),
            ("2027-01-01T00:00:00Z", "2026-12-31T12:00:00Z"),
            ("2026-01-01T00:00:00Z", "2026-01-31T12:00:00Z"),
        ] {
            assert_eq!(month_of(start, at(now)).start, at(begins), "{now}");
        }
    }

    #[sqlx::test(migrations = false)]
    async fn a_tier_by_which_something_is_being_counted_does_not_change_meanwhile(
        options: MySqlPoolOptions,
        database: MySqlConnectOptions,
    ) {
        let (service, _) = service(options, database).await;
        let user = new_user(&service).await;
        let mut counting = service.pool.begin().await.expect("a transaction");
        Allowance::within(&mut counting, &user, Resource::Content).await.expect("an allowance");
        let mut changing = service.pool.begin().await.expect("a transaction");
        let mut change = Box::pin(subscriptions::lock(&mut changing, &user));
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut change).await.is_err());
        counting.rollback().await.expect("ended");
        change.await.expect("its turn");
    }
}
