//! Removes what no longer matters from a table, for as long as the process lives. Any number of replicas may do so at
//! once.

use std::time::Duration;

use sqlx::mysql::MySqlQueryResult;

const INTERVAL: Duration = Duration::from_secs(60);
/// The `LIMIT` of every step, so that none holds many locks for long.
const STEP: u64 = 1000;

/// Takes step after step, each a `DELETE … LIMIT 1000`, until one finds less, once a minute. `what` is said when a step
/// fails.
pub async fn sweep<F: Future<Output = sqlx::Result<MySqlQueryResult>>>(what: &str, step: impl Fn() -> F) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        loop {
            match step().await {
                Ok(done) if done.rows_affected() == STEP => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "{what} were not removed");
                    break;
                }
            }
        }
    }
}
