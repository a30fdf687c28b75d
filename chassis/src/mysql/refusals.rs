//! Connections to a server that takes writes no more. After a failover one that is still there, but read-only, keeps its
//! connections, and each of them would go on refusing until its end.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::server_code;

/// While a server stays read-only, what it refuses says nothing new for this long, in microseconds, so that connections are
/// not made for each request.
const PAUSE: u64 = 1_000_000;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// When a write was last refused, in microseconds since the process looked first; 0 for never.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Takes notice of an error that means that another server may be the one for writes by now (1290, 1836).
pub fn note(error: &sqlx::Error) {
    if !matches!(server_code(error), Some(1290 | 1836)) {
        return;
    }
    let now = now();
    let last = LAST.load(Ordering::Relaxed);
    if last == 0 || now.saturating_sub(last) >= PAUSE {
        LAST.store(now, Ordering::Relaxed);
    }
}

/// Whether a connection of this age was there before the last refusal, and so may lead to the wrong server.
pub fn outdates(age: Duration) -> bool {
    let last = LAST.load(Ordering::Relaxed);
    last > 0 && age >= Duration::from_micros(now().saturating_sub(last))
}

fn now() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use contract::ErrorCode;
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
    use sqlx::{Executor, MySqlPool};

    use super::super::{failed, pool_of};

    async fn id(pool: &MySqlPool) -> u64 {
        sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(pool).await.expect("an id")
    }

    #[sqlx::test(migrations = false)]
    async fn a_connection_to_a_server_that_became_read_only_is_used_no_more(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(options, 1);
        let first = id(&pool).await;
        assert_eq!(id(&pool).await, first);
        let refused = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290, MESSAGE_TEXT = 'read-only'";
        let refused = pool.execute(sqlx::raw_sql(refused)).await.expect_err("read-only");
        assert_eq!(failed(refused).code(), ErrorCode::Unavailable);
        let second = id(&pool).await;
        assert_ne!(second, first);
        assert_eq!(id(&pool).await, second, "the new one is good until it refuses, too");
    }
}
