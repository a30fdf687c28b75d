//! Connections to a server in whose place another may be. One that is still there, but read-only, keeps its connections,
//! and each of them would go on refusing until its end; one that vanished without a word leaves them silent, and each
//! would cost a wait.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, Connection, MySqlConnection};

use super::pool::answer_within;
use super::{ACQUIRE_LIMIT, server_code};

/// How often it is looked for a server that takes writes, in microseconds.
const PAUSE: u64 = 1_000_000;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// When a write was last refused, in microseconds since the process looked first; 0 for never.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// When it was last looked for a server that takes them, counted as above.
static LOOKED: AtomicU64 = AtomicU64::new(0);
/// When one was found, counted as above.
static FOUND: AtomicU64 = AtomicU64::new(0);
/// When a connection was last asked that did not answer, counted as above.
static UNANSWERED: AtomicU64 = AtomicU64::new(0);

/// Takes notice of an error that means that another server may be the one for writes by now (1290, 1836).
pub fn note_refusal(error: &sqlx::Error) {
    if matches!(server_code(error), Some(1290 | 1836)) {
        REFUSED.store(micros(Instant::now()), Ordering::Relaxed);
    }
}

/// Once a write was refused, looks now and then whether a server that takes writes is in the place of that one. What reads
/// goes on with the connections that there are until it is: to open others costs each of those who ask a wait.
pub fn follow(options: &MySqlConnectOptions) {
    if REFUSED.load(Ordering::Relaxed) <= FOUND.load(Ordering::Relaxed) {
        return;
    }
    let (now, last) = (micros(Instant::now()), LOOKED.load(Ordering::Relaxed));
    let is_due = last == 0 || now.saturating_sub(last) >= PAUSE;
    if !is_due || LOOKED.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let options = options.clone();
    let look = async move {
        let mut connection = options.connect().await?;
        let takes_writes = takes_writes(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(takes_writes)
    };
    tokio::spawn(async {
        if answer_within(ACQUIRE_LIMIT, look).await.unwrap_or(false) {
            FOUND.fetch_max(micros(Instant::now()), Ordering::Relaxed);
        }
    });
}

/// Whether the server of a connection takes writes.
///
/// # Errors
/// When it is away.
pub async fn takes_writes(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    // Numbers, or words with MariaDB 12.
    sqlx::query_scalar(
        "SELECT CONCAT(@@GLOBAL.read_only) IN ('0', 'OFF') AND CONCAT(@@GLOBAL.innodb_read_only) IN ('0', 'OFF')",
    )
    .fetch_one(connection)
    .await
}

/// Takes notice of a connection that was asked at that time and has not answered.
pub fn note_silence(asked: Instant) {
    UNANSWERED.fetch_max(micros(asked), Ordering::Relaxed);
}

/// Whether a connection of this age was there before a server was found that takes writes again, and so may lead to another.
pub fn outdates(age: Duration) -> bool {
    is_since(&FOUND, age)
}

/// Whether a connection that has rested for so long did so already when another was asked in vain. Those that were used
/// since then have shown that they answer.
pub fn silences(rest: Duration) -> bool {
    is_since(&UNANSWERED, rest)
}

fn is_since(last: &AtomicU64, time: Duration) -> bool {
    let last = last.load(Ordering::Relaxed);
    last > 0 && time >= Duration::from_micros(micros(Instant::now()).saturating_sub(last))
}

fn micros(at: Instant) -> u64 {
    let since = at.saturating_duration_since(*BEGAN).as_micros();
    u64::try_from(since).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use contract::ErrorCode;
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
    use sqlx::{Executor, MySqlPool};

    use super::super::failed;
    use super::super::pool::pool_of;
    use super::*;

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
        let since = Instant::now();
        let mut second = id(&pool).await;
        while second == first {
            assert!(
                since.elapsed() < Duration::from_secs(3),
                "the server takes writes, and is not asked whether it does"
            );
            second = id(&pool).await;
        }
        assert_eq!(id(&pool).await, second, "the new one is good until it refuses, too");
    }
}
