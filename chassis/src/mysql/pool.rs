//! The pool: connections for all that is asked, each of which shows that it can be used before it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, MySqlConnection, MySqlPool, Row};

use super::{ACQUIRE_LIMIT, ANSWER_LIMIT, IDLE_LIMIT, Lane, Settings, failover, is_full, server_code};

/// How long an ending process waits for connections that are in use.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// After so long a connection is replaced by another: statements that were prepared have their numbers, and go on counting.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// How long to wait before another try to open a connection in the place of one that does not answer.
const REOPENING: Duration = Duration::from_millis(500);

/// Opens the pool. The database may still be away: connections are made when they are needed.
pub fn pool(settings: &Settings) -> MySqlPool {
    pool_of(settings.options(), u32::try_from(settings.connections).unwrap_or(u32::MAX))
}

/// Half of the connections as a pool, half as a lane for what is done often.
pub fn pool_and_lane(settings: &Settings) -> (MySqlPool, Lane) {
    let connections = u32::try_from(settings.connections).unwrap_or(u32::MAX);
    let lane = Lane::of(settings.options(), connections / 2);
    (pool_of(settings.options(), connections - connections / 2), lane)
}

/// A pool for what is asked for, and of at most two of the connections one for what must go on however much is.
pub fn pool_and_followers(settings: &Settings) -> (MySqlPool, MySqlPool) {
    let connections = u32::try_from(settings.connections).unwrap_or(u32::MAX);
    let followers = (connections / 2).min(2);
    (pool_of(settings.options(), connections - followers), pool_of(settings.options(), followers))
}

/// Where a pool looks for its server, for those who look for it in vain.
pub fn place(pool: &MySqlPool) -> String {
    let options = pool.connect_options();
    format!("{}:{}", options.get_host(), options.get_port())
}

/// Closes the connections of a pool; those that somebody holds after two seconds end with the process.
pub async fn close(pool: &MySqlPool) {
    let _ = tokio::time::timeout(CLOSE_LIMIT, pool.close()).await;
}

pub(super) fn pool_of(options: MySqlConnectOptions, connections: u32) -> MySqlPool {
    let returned = Arc::new(options.clone());
    let rested = returned.clone();
    MySqlPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        // sqlx would close what is old or has rested, and wait for the server meanwhile.
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| Box::pin(prepare_session(connection)))
        // In place of sqlx's ping, which takes any answer for its own.
        .test_before_acquire(false)
        // sqlx pings, too, but waits for as long as it takes, which is for ever where a future was dropped in the middle
        // of an answer, or the server has vanished: nobody else would get its place.
        .after_release(move |connection, _| {
            let options = returned.clone();
            Box::pin(async move {
                match answer_within(ANSWER_LIMIT, connection.ping()).await {
                    Ok(()) => Ok(true),
                    Err(error) if is_broken(&error) => Err(error),
                    Err(_) => Ok(replace_at_last(connection, &options).await),
                }
            })
        })
        .before_acquire(move |connection, about| {
            let options = rested.clone();
            Box::pin(async move {
                failover::follow(&options);
                let is_good = about.idle_for < IDLE_LIMIT
                    && !failover::silences(about.idle_for)
                    && match answers(is_in_step(connection)).await {
                        Ok(()) => true,
                        Err(error) if is_broken(&error) => return Err(error),
                        Err(error) => {
                            tracing::warn!(%error, "a connection to the database cannot be used; another is opened");
                            false
                        }
                    };
                if !is_good {
                    *connection = open(&options).await?;
                    return Ok(true);
                }
                // It answers, and so is closed at once.
                Ok(about.age < LIFE && !failover::outdates(about.age))
            })
        })
        .connect_lazy_with(options)
}

fn is_silence(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

/// Whether the connection has ended: closing it waits for nothing.
fn is_broken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) && !is_silence(error)
}

pub(super) async fn open(options: &MySqlConnectOptions) -> Result<MySqlConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    prepare_session(&mut connection).await?;
    Ok(connection)
}

/// Puts another connection in the place of one that does not answer. To close that would take as long as its server says
/// nothing: over TLS sqlx reads before it says goodbye. Dropped, it is gone at once. False when it answers after all, and
/// the server takes no other beside it.
async fn replace_at_last(connection: &mut MySqlConnection, options: &MySqlConnectOptions) -> bool {
    loop {
        match answer_within(ACQUIRE_LIMIT, open(options)).await {
            Ok(other) => {
                *connection = other;
                return true;
            }
            Err(error) if server_code(&error).is_some_and(is_full) => {
                let answer = answer_within(ANSWER_LIMIT, connection.ping()).await;
                if !answer.is_err_and(|error| is_silence(&error)) {
                    return false;
                }
            }
            // While no server is there, nobody misses the place.
            Err(_) => tokio::time::sleep(REOPENING).await,
        }
    }
}

async fn prepare_session(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    // The second is for what a change of a table waits for, and all others behind it: a year on MySQL. The third is for the
    // locks of a process whose machine is gone, which says nothing to the server: eight hours. The next, of MySQL in milliseconds
    // and of MariaDB in seconds, ends what nobody waits for any more.
    connection
        .execute(
            "SET SESSION innodb_lock_wait_timeout = 5, lock_wait_timeout = 5, wait_timeout = 90 \
             /*!50708 , max_execution_time = 10000 */ \
             /*M!100101 , max_statement_time = 10, idle_transaction_timeout = 30 */",
        )
        .await?;
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    Ok(())
}

/// Lets a statement take as long as it does: of work that nobody waits for, and that is done at one place at a time.
pub(super) async fn take_time(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let unlimited = "SET SESSION innodb_lock_wait_timeout = 5 \
                     /*!50708 , max_execution_time = 0 */ /*M!100101 , max_statement_time = 0 */";
    connection.execute(unlimited).await.map(drop)
}

/// Waits for an answer, which a server that vanished without a word never gives.
///
/// # Errors
/// That of the answer; that it took too long.
pub async fn answer_within<T, E: From<sqlx::Error>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let too_late = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into());
    tokio::time::timeout(limit, answer).await.unwrap_or_else(too_late)
}

/// Of a connection from which nothing is outstanding: its silence is the server's.
pub(super) async fn answers<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let asked = Instant::now();
    let answer = answer_within(ANSWER_LIMIT, answer).await;
    answer.inspect_err(|error| {
        if is_silence(error) {
            failover::note_silence(asked);
        }
    })
}

/// Has the connection answer what it is asked. A future that was dropped in the middle of a ping, or while a
/// statement was prepared, leaves an answer behind that sqlx does not know of: each later question would be given the
/// answer to the one before it, which may be another user's.
async fn is_in_step(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    static ASKED: AtomicI64 = AtomicI64::new(1);
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    let row = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(format!("SELECT {asked}")))).await?;
    if row.try_get::<i64, _>(0)? == asked {
        return Ok(());
    }
    Err(sqlx::Error::Protocol("its answers are out of step".to_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::task::Poll;

    use super::super::ways::slow;
    use super::*;

    /// Polls a future so often and drops it, as a caller that goes away does; says whether it had come to its end.
    pub async fn abandon<F: Future>(work: F, mut polls: u32) -> bool {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            polls -= 1;
            match work.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending if polls == 0 => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    #[sqlx::test]
    async fn what_was_abandoned_in_the_middle_of_a_long_answer_keeps_no_place_in_the_pool(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(slow(options).await, 1);
        for polls in 1.. {
            let mut connection = pool.acquire().await.expect("a connection");
            let long = sqlx::query("SELECT REPEAT('abc', 100000)").fetch_one(&mut *connection);
            let has_ended = abandon(long, polls).await;
            drop(connection);
            let answer: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&pool).await.expect("an answer");
            assert_eq!(answer, 1);
            if has_ended {
                assert!(polls > 2, "never in the middle");
                return;
            }
        }
    }

    #[sqlx::test]
    async fn what_was_abandoned_never_gives_its_answer_to_the_next_question(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(slow(options).await, 1);
        for question in 0..30_i64 {
            let mut connection = pool.acquire().await.expect("a connection");
            let has_ended = match question % 3 {
                0 => abandon(connection.ping(), 1).await,
                1 => {
                    let asked = sqlx::query("SELECT ?, 'new'").bind(question);
                    abandon(asked.fetch_one(&mut *connection), 1).await
                }
                _ => abandon(connection.begin(), 1).await,
            };
            assert!(!has_ended, "nothing was abandoned");
            drop(connection);
            let answer: i64 =
                sqlx::query_scalar("SELECT ?").bind(question).fetch_one(&pool).await.expect("an answer");
            assert_eq!(answer, question);
            let transaction = pool.begin().await.expect("a transaction");
            transaction.commit().await.expect("committed");
        }
    }
}
