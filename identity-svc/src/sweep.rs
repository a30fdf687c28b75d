//! Removes what no longer matters from a table, for as long as the process lives. Of all replicas one does so at a time:
//! on MariaDB two that remove the same rows end in deadlocks.

use std::pin::Pin;
use std::time::Duration;

use chassis::mysql::alone;
use sqlx::mysql::MySqlQueryResult;
use sqlx::{Connection, MySqlConnection, MySqlPool};

const INTERVAL: Duration = Duration::from_secs(60);
/// The `LIMIT` of every step, so that none holds many locks for long.
pub const STEP: u64 = 1000;

/// One `DELETE … LIMIT 1000`.
pub type Step<'c> = Pin<Box<dyn Future<Output = sqlx::Result<MySqlQueryResult>> + Send + 'c>>;

/// Takes step after step until one finds less, once a minute, unless another replica is at it. `what` names the lock, and
/// is said when a step fails.
pub async fn sweep(pool: MySqlPool, what: &str, step: impl for<'c> Fn(&'c mut MySqlConnection) -> Step<'c>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(error) = once(&pool, what, &step).await {
            tracing::warn!(%error, "{what} were not removed");
        }
    }
}

async fn once(
    pool: &MySqlPool,
    what: &str,
    step: impl for<'c> Fn(&'c mut MySqlConnection) -> Step<'c>,
) -> sqlx::Result<()> {
    let Some(mut connection) = alone(pool, what).await? else { return Ok(()) };
    while step(&mut connection).await?.rows_affected() == STEP {}
    connection.close().await
}
