//! How many projects users had day by day, kept in the transactions that make and remove them.

use chassis::mysql::failed;
use chrono::NaiveDate;
use contract::identity::{ListProjectDaysResponse, ProjectDay};
use contract::{Failure, Outcome};
use sqlx::MySqlConnection;

use crate::projects;

/// Keeps how many there are now, under the lock of the owner.
///
/// # Errors
/// GW001 when the database is away.
pub async fn keep(tx: &mut MySqlConnection, owner_id: &str) -> Outcome<()> {
    let count = projects::count(tx, owner_id).await?;
    sqlx::query!(
        "INSERT INTO project_days (owner_id, day, projects) VALUES (?, UTC_DATE(), ?)
         ON DUPLICATE KEY UPDATE projects = VALUES(projects)",
        owner_id,
        count
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// How many there were at the end of each day on which they changed, and before the first of these.
///
/// # Errors
/// REQ001 for what is no day.
pub async fn list(
    connection: &mut MySqlConnection,
    owner_id: &str,
    from: &str,
    to: &str,
) -> Outcome<ListProjectDaysResponse> {
    let (from, to) = (day("from", from)?, day("to", to)?);
    let before = sqlx::query_scalar!(
        "SELECT projects FROM project_days WHERE owner_id = ? AND day < ? ORDER BY day DESC LIMIT 1",
        owner_id,
        from
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let rows = sqlx::query!(
        r#"SELECT day AS "day: NaiveDate", projects FROM project_days
           WHERE owner_id = ? AND day BETWEEN ? AND ? ORDER BY day"#,
        owner_id,
        from,
        to
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let days = rows.into_iter().map(|row| ProjectDay { day: row.day.to_string(), projects: row.projects });
    Ok(ListProjectDaysResponse { before: before.unwrap_or(0), days: days.collect() })
}

fn day(name: &str, text: &str) -> Outcome<NaiveDate> {
    text.parse().map_err(|_| Failure::field(name, "must be a day such as 2026-01-31"))
}
