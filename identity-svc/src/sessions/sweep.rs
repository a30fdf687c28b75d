use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlQueryResult;
use sqlx::{MySqlConnection, MySqlPool};

use crate::sweep;

/// How long a session that is over, and a refresh token that was spent, are kept: so long does presenting a copy of
/// the token still end the session.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes what is long over, in small steps, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old sessions and their tokens", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    Box::pin(step(connection, now - KEPT))
}

/// Of one kind after the other, and one replica at a time: the tokens of a session go with it, so that two who remove both at
/// once would meet in the same rows, and one of them end as the victim of a deadlock.
async fn step(connection: &mut MySqlConnection, before: DateTime<Utc>) -> sqlx::Result<MySqlQueryResult> {
    let spent = sqlx::query!("DELETE FROM refresh_tokens WHERE spent_at < ? LIMIT 1000", before);
    let spent = spent.execute(&mut *connection).await?;
    if spent.rows_affected() == sweep::STEP {
        return Ok(spent);
    }
    let ended = sqlx::query!("DELETE FROM sessions WHERE ended_at < ? LIMIT 1000", before);
    let ended = ended.execute(&mut *connection).await?;
    if ended.rows_affected() == sweep::STEP {
        return Ok(ended);
    }
    sqlx::query!("DELETE FROM sessions WHERE expires_at < ? LIMIT 1000", before).execute(connection).await
}

#[cfg(test)]
mod tests {
    use chassis::clock::now;
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::tests::{identity, register};

    #[sqlx::test(migrations = "./migrations")]
    async fn what_is_long_over_goes_step_by_step_and_what_is_not_stays(pool: MySqlPool) {
        let identity = identity(pool.clone()).await;
        for name in ["open", "ended", "expired", "spent"] {
            register(&identity, &format!("{name}@example.com")).await;
        }
        let old = "UPDATE sessions JOIN users ON users.id = user_id SET";
        let (ended, expired) = ("ended_at = '2020-01-01'", "expires_at = '2020-01-01'");
        for (name, change) in [("ended", ended), ("expired", expired)] {
            let change = format!("{old} {change} WHERE email = '{name}@example.com'");
            sqlx::query(AssertSqlSafe(change)).execute(&pool).await.expect("changed");
        }
        sqlx::query(
            "UPDATE refresh_tokens JOIN sessions ON sessions.id = session_id JOIN users ON users.id = user_id
             SET spent_at = '2020-01-01' WHERE email = 'spent@example.com'",
        )
        .execute(&pool)
        .await
        .expect("spent");
        let mut connection = pool.acquire().await.expect("a connection");
        while forget(&mut connection, now()).await.expect("a step").rows_affected() == sweep::STEP {}
        let count = async |table| -> i64 {
            let count = format!("SELECT COUNT(*) FROM {table}");
            sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&pool).await.expect("a count")
        };
        assert_eq!((count("sessions").await, count("refresh_tokens").await), (2, 1));
    }
}
