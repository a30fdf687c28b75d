//! What users had used at the end of each day (UTC). The counters' own transactions write it, so that it is exact and
//! costs nothing for those who change nothing.

use std::collections::BTreeMap;

use chassis::clock::now;
use chassis::mysql::failed;
use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use contract::identity::project_service_client::ProjectServiceClient;
use contract::identity::{ListProjectDaysRequest, ListProjectDaysResponse};
use contract::subscription::{ListUsageDaysRequest, ListUsageDaysResponse, UsageDay};
use contract::{Failure, Outcome, Resource};
use sqlx::{MySqlConnection, MySqlPool};

use super::allowance::{LONG_AGO, month_of};
use crate::administration::must_administer;
use crate::service::{IDENTITY, Service};
use crate::subscriptions;

/// Most days that are given at once.
const MOST_DAYS: i64 = 400;
/// How many days are given when it is not said.
const USUAL_DAYS: u64 = 30;

/// Keeps what a counter says now, for life or of the month as its tier counts. Called after it was changed, under its
/// lock.
///
/// # Errors
/// GW001 when the database is away.
pub async fn keep(tx: &mut MySqlConnection, user_id: &str, resource: &str) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO usage_days (user_id, resource, day, used, period_start)
         SELECT user_id, resource, UTC_DATE(), IF(by_month, month_used, used), IF(by_month, period_start, ?)
         FROM usage_counters WHERE user_id = ? AND resource = ?
         ON DUPLICATE KEY UPDATE used = VALUES(used), period_start = VALUES(period_start)",
        LONG_AGO,
        user_id,
        resource
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// As [`keep`], for the counter that a reservation belongs to.
///
/// # Errors
/// GW001 when the database is away.
pub async fn keep_reserved(tx: &mut MySqlConnection, user_id: &str, key: &[u8]) -> Outcome<()> {
    let resource = sqlx::query_scalar!(
        "SELECT resource FROM reservations WHERE user_id = ? AND idempotency_key = ?",
        user_id,
        key
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    keep(tx, user_id, &resource).await
}

/// What a user had used day by day, for administrators; up to today, which is as of now.
///
/// # Errors
/// AUTH004, REQ001, USER001; GW001 when identity-svc is away.
pub async fn list(service: &Service, request: &ListUsageDaysRequest) -> Outcome<ListUsageDaysResponse> {
    must_administer(service, request.actor.as_ref()).await?;
    let (from, to) = range(&request.from, &request.to, now().date_naive())?;
    let user_id = &request.user_id;
    let start = subscriptions::find(&service.pool, user_id).await?.start_date;
    let personas = Course::of(&service.pool, user_id, Resource::Personas, to, start).await?;
    let content = Course::of(&service.pool, user_id, Resource::Content, to, start).await?;
    let projects = projects(service, user_id, from, to).await?;
    let days = from.iter_days().take_while(|day| *day <= to).map(|day| UsageDay {
        date: day.to_string(),
        personas: personas.at(day),
        projects: projects.range(..=day).next_back().map_or(0, |(_, projects)| *projects),
        content: content.at(day),
    });
    Ok(ListUsageDaysResponse { days: days.collect() })
}

/// The days that are asked for; none lies in the future.
fn range(from: &str, to: &str, today: NaiveDate) -> Outcome<(NaiveDate, NaiveDate)> {
    let day = |name: &str, text: &str, usual: NaiveDate| match text {
        "" => Ok(usual),
        text => text.parse().map_err(|_| Failure::field(name, "must be a day such as 2026-01-31")),
    };
    let to = day("to", to, today)?;
    let from = day("from", from, to.checked_sub_days(Days::new(USUAL_DAYS - 1)).unwrap_or(to))?;
    if from > to || (to - from).num_days() >= MOST_DAYS {
        return Err(Failure::field(
            "from",
            format!("must be at most {MOST_DAYS} days before to, and not after it"),
        ));
    }
    Ok((from, to.min(today)))
}

/// How many projects there were, from the last day before the range on.
async fn projects(
    service: &Service,
    user_id: &str,
    from: NaiveDate,
    to: NaiveDate,
) -> Outcome<BTreeMap<NaiveDate, i64>> {
    let request =
        ListProjectDaysRequest { user_id: user_id.to_owned(), from: from.to_string(), to: to.to_string() };
    let answer = ProjectServiceClient::new(service.identity.clone()).list_project_days(request).await;
    let ListProjectDaysResponse { before, days } =
        answer.map_err(|status| Failure::from_status(status, IDENTITY))?.into_inner();
    let mut projects = BTreeMap::from([(NaiveDate::MIN, before)]);
    for day in days {
        projects.insert(day.day.parse().map_err(Failure::internal)?, day.projects);
    }
    Ok(projects)
}

/// How one counter went, by the days on which it changed.
struct Course {
    /// When the first month of the subscription began.
    start: DateTime<Utc>,
    changes: BTreeMap<NaiveDate, Change>,
}

struct Change {
    used: i64,
    period_start: DateTime<Utc>,
}

impl Course {
    async fn of(
        pool: &MySqlPool,
        user_id: &str,
        resource: Resource,
        to: NaiveDate,
        start: DateTime<Utc>,
    ) -> Outcome<Self> {
        let rows = sqlx::query!(
            r#"SELECT day AS "day: NaiveDate", used, period_start AS "period_start: DateTime<Utc>"
               FROM usage_days WHERE user_id = ? AND resource = ? AND day <= ? ORDER BY day DESC LIMIT ?"#,
            user_id,
            resource.name(),
            to,
            // Each day of the range at most, and the last one before it.
            MOST_DAYS + 1
        )
        .fetch_all(pool)
        .await
        .map_err(failed)?;
        let changes = rows
            .into_iter()
            .map(|row| (row.day, Change { used: row.used, period_start: row.period_start }))
            .collect();
        Ok(Course { start, changes })
    }

    /// What the counter said at the end of a day. What is counted anew each month is nought once another one has begun.
    fn at(&self, day: NaiveDate) -> i64 {
        let Some((_, change)) = self.changes.range(..=day).next_back() else { return 0 };
        let end = day.checked_add_days(Days::new(1)).unwrap_or(day).and_time(NaiveTime::MIN).and_utc();
        let is_monthly = change.period_start >= self.start;
        if is_monthly && month_of(self.start, end.min(now())).start > change.period_start {
            0
        } else {
            change.used
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a day")
    }

    fn course(start: &str, changes: &[(&str, i64, &str)]) -> Course {
        let changes = changes.iter().map(|(on, used, period)| {
            (day(on), Change { used: *used, period_start: period.parse().expect("a time") })
        });
        Course { start: start.parse().expect("a time"), changes: changes.collect() }
    }

    #[test]
    fn a_day_without_a_change_is_as_the_day_before_and_before_the_first_there_is_nothing() {
        let long_ago = "1970-01-02T00:00:00Z";
        let course =
            course("2026-01-10T12:00:00Z", &[("2026-01-12", 3, long_ago), ("2026-02-20", 1, long_ago)]);
        for (on, used) in [("2026-01-11", 0), ("2026-01-12", 3), ("2026-02-19", 3), ("2026-02-20", 1)] {
            assert_eq!(course.at(day(on)), used, "{on}");
        }
    }

    #[test]
    fn what_counts_by_the_month_is_nought_when_the_next_one_has_begun() {
        let start = "2025-01-10T12:00:00Z";
        let course = course(start, &[("2025-01-12", 3, start), ("2025-02-20", 1, "2025-02-10T12:00:00Z")]);
        for (on, used) in [("2025-01-12", 3), ("2025-02-09", 3), ("2025-02-10", 0), ("2025-02-20", 1)] {
            assert_eq!(course.at(day(on)), used, "{on}");
        }
    }

    #[test]
    fn days_are_given_up_to_today_and_not_too_many() {
        let today = day("2026-03-31");
        let usual = range("", "", today).expect("a range");
        assert_eq!(usual, (day("2026-03-02"), today));
        assert_eq!(range("2026-03-30", "2026-04-30", today).expect("a range"), (day("2026-03-30"), today));
        for (from, to) in
            [("2026-04-01", "2026-03-30"), ("2025-01-01", "2026-03-31"), ("yesterday", ""), ("", "31.3.")]
        {
            assert!(range(from, to, today).is_err(), "{from} {to}");
        }
        assert_eq!(range("2027-01-01", "2027-01-02", today).expect("a range").1, today);
    }
}
