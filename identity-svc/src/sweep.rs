//! Removes what no longer matters from a table, for as long as the process lives. Of all replicas one does so at a time:
//! on MariaDB two that remove the same rows end in deadlocks. Nothing is removed that is not due by the clock of the
//! database, too: that of a replica may be ahead.

use std::pin::Pin;
use std::time::Duration;

use chassis::clock::agreed;
use chassis::mysql::{alone, failed, in_time};
use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlQueryResult;
use sqlx::{Connection, MySqlConnection, MySqlPool};

const INTERVAL: Duration = Duration::from_secs(60);
/// The longest that one turn may take; the next goes on where it was.
const TURN_LIMIT: Duration = Duration::from_secs(300);
/// The `LIMIT` of every step, so that none holds many locks for long.
pub const STEP: u64 = 1000;

/// One `DELETE … LIMIT 1000`.
pub type Step<'c> = Pin<Box<dyn Future<Output = sqlx::Result<MySqlQueryResult>> + Send + 'c>>;

/// Takes step after step until one finds less, once a minute, unless another replica is at it. Each is told the time by
/// which it is to go. `what` names the lock, and is said when a step fails.
pub async fn sweep(
    pool: MySqlPool,
    what: &str,
    step: impl for<'c> Fn(&'c mut MySqlConnection, DateTime<Utc>) -> Step<'c>,
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let turn = async { once(&pool, what, &step).await.map_err(failed) };
        if let Err(failure) = in_time(TURN_LIMIT, turn).await {
            tracing::warn!(cause = ?failure.cause(), "not all {what} were removed: {failure}");
        }
    }
}

async fn once(
    pool: &MySqlPool,
    what: &str,
    step: impl for<'c> Fn(&'c mut MySqlConnection, DateTime<Utc>) -> Step<'c>,
) -> sqlx::Result<()> {
    let Some(mut connection) = alone(pool, what).await? else { return Ok(()) };
    let now = agreed(&mut connection).await?;
    while step(&mut connection, now).await?.rows_affected() == STEP {}
    connection.close().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chassis::clock::shared;
    use sqlx::AssertSqlSafe;
    use uuid::{NoContext, Timestamp, Uuid};

    use super::*;
    use crate::tests::{identity, register, seen_from};
    use crate::{api_keys, audit, edges, enforcement, events, keys, mail, sessions, throttle, token_lives};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    type Sweep = for<'c> fn(&'c mut MySqlConnection, DateTime<Utc>) -> Step<'c>;

    /// What is swept: the table, and how a row comes there that is over at `@at`. `@n` makes it another than the one before.
    const SWEEPS: [(&str, &str, Sweep); 13] = [
        (
            "sessions WHERE ended_at IS NULL",
            "INSERT INTO sessions SELECT UUID(), id, @at, @at, @at, @at, '', '', NULL, NULL FROM users",
            sessions::forget,
        ),
        (
            "sessions WHERE ended_at IS NOT NULL",
            "INSERT INTO sessions SELECT UUID(), id, @at, @at, '2100-01-01', @at, '', '', @at, 'logout' FROM users",
            sessions::forget,
        ),
        (
            "refresh_tokens",
            "INSERT INTO refresh_tokens SELECT UNHEX(SHA2(@n, 256)), id, NULL, '', @at, @at, NULL FROM sessions
             WHERE ended_at IS NULL AND expires_at > UTC_TIMESTAMP() LIMIT 1",
            sessions::forget,
        ),
        (
            "api_keys",
            "INSERT INTO api_keys SELECT UUID(), id, '', '', UNHEX(SHA2(@n, 256)), '', @at, @at, NULL FROM users",
            api_keys::forget,
        ),
        ("throttles", "INSERT INTO throttles VALUES (UNHEX(SHA2(@n, 256)), 1, @at, @at)", throttle::remove),
        (
            "email_tokens",
            "INSERT INTO email_tokens SELECT id, @n, UNHEX(SHA2(@n, 256)), email, 1, @at FROM users",
            mail::tokens::remove,
        ),
        (
            "enforcements",
            "INSERT INTO enforcements (edge, last_sequence, first_sequence, at, edges) VALUES (@n, 1, 1, @at, 1)",
            enforcement::forget,
        ),
        (
            "edges",
            "INSERT INTO edges VALUES (@n, @at, '', @at, '', 0, 0, '', 0, 0, 0, 0, 0, 0)",
            edges::forget,
        ),
        ("auth_events", "INSERT INTO auth_events VALUES (@n, '', '', '{}', @at, @at)", events::forget),
        (
            "signing_keys WHERE state = 'retired'",
            "INSERT INTO signing_keys VALUES (@n, 'HS256', '', '', 'retired', @at, @at, @at)",
            keys::forget,
        ),
        ("key_holders", "INSERT INTO key_holders VALUES (@n, '[]', @at)", keys::forget_holders),
        ("token_lives", "INSERT INTO token_lives VALUES (@n, @at)", token_lives::forget),
        (
            "audit_log",
            "INSERT INTO audit_log VALUES (@id, @at, NULL, '', NULL, '', '', NULL, '{}')",
            |connection, now| audit::forget(connection, now - 30 * DAY),
        ),
    ];

    #[sqlx::test(migrations = "./migrations")]
    async fn a_replica_whose_clock_is_ahead_removes_what_is_due_and_nothing_else(pool: MySqlPool) {
        let pool = seen_from(&pool, 100).await;
        register(&identity(pool.clone()).await, "a@example.com").await;
        let mut connection = pool.acquire().await.expect("a connection");
        for (rows, insert, step) in SWEEPS {
            let count = async || -> i64 {
                let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {rows}"));
                sqlx::query_scalar(count).fetch_one(&pool).await.expect("a count")
            };
            let before = count().await;
            let now = shared(&mut connection).await.expect("the time");
            for (number, over_at) in [(1001, now + DAY / 24), (1002, now - 100 * DAY)] {
                let id = Timestamp::from_unix(NoContext, over_at.timestamp().unsigned_abs(), 0);
                sqlx::query("SET @at = CAST(? AS DATETIME(6)), @n = CAST(? AS CHAR), @id = ?")
                    .bind(over_at)
                    .bind(number)
                    .bind(Uuid::new_v7(id).to_string())
                    .execute(&mut *connection)
                    .await
                    .expect("set");
                sqlx::query(insert).execute(&mut *connection).await.expect(rows);
                // A lock of its own: the server lets go of one a moment after its connection was closed.
                once(&pool, &format!("{rows} {number}"), step).await.expect(rows);
                assert_eq!(count().await, before + 1, "{rows}, over at {over_at}, which is {now}");
            }
        }
    }
}
