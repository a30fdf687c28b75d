//! Transactions, and the connections that they are lent.

use std::future::Future;
use std::ops::DerefMut;
use std::pin::Pin;
use std::time::{Duration, Instant};

use contract::{ErrorCode, Failure, Outcome};
use sqlx::mysql::MySqlQueryResult;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Execute, Executor, MySql, MySqlConnection, MySqlPool};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::{ATTEMPTS, failed, failover, is_contention, is_end, meters, server_code};
use crate::traces;

/// The longest that a transaction may take, its repetitions included.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(10);
/// How long what was given up keeps the place of its connection, beyond which another is opened beside it: a statement, which
/// the server does not let wait or run for longer...
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// ...and a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);
/// How often such a place is looked after.
const LOOK: Duration = Duration::from_millis(100);

/// What a transaction does: a future that borrows the connection and what it was given.
pub type Work<'c, T> = Pin<Box<dyn Future<Output = Outcome<T>> + Send + 'c>>;

/// Runs a named transaction: committed when `work` succeeds, rolled back when it fails, repeated when the database
/// chose it as the victim of a deadlock or a lock wait took too long, and bounded in time. `work` must have no
/// effect outside the transaction; what it needs is `given` to it, as a closure cannot lend what it has captured.
/// Dropping the future rolls back.
///
/// # Errors
/// What `work` fails with; GW001 when the database is away; GW002 when it takes too long.
pub async fn transaction<C: Sync, T>(
    pool: &MySqlPool,
    name: &'static str,
    given: C,
    work: impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
) -> Outcome<T> {
    repeated(name, || once(pool, &given, &work)).await
}

/// Runs one statement that changes something by itself, bounded in time as a transaction is.
///
/// # Errors
/// GW001 when the database is away; GW002 when it takes too long.
pub async fn write<'q>(
    pool: &MySqlPool,
    statement: impl Execute<'q, MySql> + 'q,
) -> Outcome<MySqlQueryResult> {
    let written = async {
        let mut lent = Lent::from(pool.acquire().await.map_err(failed)?);
        lent.commits();
        let written = lent.connection().execute(statement).await.map_err(failed);
        lent.end_if_in_step(&written);
        written
    };
    in_time(TRANSACTION_LIMIT, written).await
}

/// Tries until the database has chosen another victim, and measures.
pub(super) async fn repeated<T, F: Future<Output = Outcome<T>>>(
    name: &'static str,
    once: impl Fn() -> F,
) -> Outcome<T> {
    let since = Instant::now();
    let attempts = async {
        let mut attempt = 1;
        loop {
            match once().await {
                Err(failure) if attempt < ATTEMPTS && is_contention(&failure) => {
                    meters::REPEATED.with_label_values(&[name]).inc();
                    tokio::time::sleep(Duration::from_millis(10 * u64::from(attempt))).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    };
    let span = tracing::info_span!(
        target: traces::TARGET,
        "transaction",
        otel.name = name,
        otel.kind = "client",
        db.system.name = "mysql"
    );
    let outcome = in_time(TRANSACTION_LIMIT, attempts).instrument(span).await;
    meters::SECONDS.with_label_values(&[name]).observe(since.elapsed().as_secs_f64());
    outcome
}

/// Bounds one turn of what goes on for as long as the process lives. A server that vanishes without a word is waited for
/// in vain: once it has got a question, nothing is left to be sent that would show it.
///
/// # Errors
/// What `turn` fails with; GW002 when it takes too long.
pub async fn in_time<T>(limit: Duration, turn: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout(limit, turn).await.unwrap_or_else(|_| Err(too_long()))
}

pub(super) fn too_long() -> Failure {
    Failure::new(ErrorCode::Timeout).with_fact("service", "mysql")
}

async fn once<C, T>(
    pool: &MySqlPool,
    given: &C,
    work: &impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
) -> Outcome<T> {
    let lent = async {
        let mut lent = Lent::from(pool.acquire().await?);
        lent.connection().execute("BEGIN").await?;
        Ok(lent)
    };
    meters::begun(lent).await.map_err(failed)?.complete(given, work).await
}

/// Whose connections are lent.
pub(super) trait Lender: DerefMut<Target = MySqlConnection> + Send + 'static {
    /// Takes one back, to be lent again.
    fn take_back(self);

    /// Frees its place for another, and drops it. To close it would take as long as its server says nothing.
    fn dismiss(self);
}

impl Lender for PoolConnection<MySql> {
    fn take_back(self) {
        drop(self);
    }

    fn dismiss(self) {
        drop(self.detach());
    }
}

/// A connection that is lent for one piece of work, and used no more unless that has come to an end on it, as when the caller
/// goes away. Given up in the middle of BEGIN, it has a transaction that sqlx does not know of: what others write there next
/// would be acknowledged and never committed. Given up while a statement is prepared, it has answers that sqlx does not know
/// of, and takes the end of the transaction for one of them.
///
/// Until the server has answered, too, its place stays taken: there the work goes on, whoever waits for it. Statements it ends
/// itself after some seconds, while its disk stands up to it; a commit never, when that is full or its group has no
/// majority, and each other connection in such a place would be one more there.
pub(super) struct Lent<L: Lender> {
    lender: Option<L>,
    since: Instant,
    commits: bool,
}

impl<L: Lender> From<L> for Lent<L> {
    fn from(lender: L) -> Self {
        Lent { lender: Some(lender), since: Instant::now(), commits: false }
    }
}

impl<L: Lender> Lent<L> {
    pub fn connection(&mut self) -> &mut MySqlConnection {
        let Some(lender) = &mut self.lender else { unreachable!("lent until it ends") };
        lender
    }

    /// From now on nothing but a commit is asked.
    pub fn commits(&mut self) {
        (self.since, self.commits) = (Instant::now(), true);
    }

    /// Has the transaction that was begun end as `work` does.
    pub async fn complete<C, T>(
        mut self,
        given: &C,
        work: &impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
    ) -> Outcome<T> {
        match work(self.connection(), given).await {
            Ok(value) => {
                self.commits();
                self.connection().execute("COMMIT").await.map_err(failed)?;
                self.end();
                Ok(value)
            }
            Err(failure) => {
                if is_in_step(&failure) && self.connection().execute("ROLLBACK").await.is_ok() {
                    self.end();
                }
                Err(failure)
            }
        }
    }

    /// Ends when the work has, and says whether it did.
    pub fn end_if_in_step<T>(mut self, outcome: &Outcome<T>) -> bool {
        let is_in_step = outcome.as_ref().err().is_none_or(is_in_step);
        if is_in_step {
            self.end();
        }
        is_in_step
    }

    fn end(&mut self) {
        if let Some(lender) = self.lender.take() {
            lender.take_back();
        }
    }
}

impl<L: Lender> Drop for Lent<L> {
    fn drop(&mut self) {
        let Some(mut lender) = self.lender.take() else { return };
        let (since, limit) = (self.since, if self.commits { COMMIT_LIMIT } else { STATEMENT_LIMIT });
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                until_it_answers(&mut lender, since, limit).await;
                lender.dismiss();
            });
        } else {
            lender.dismiss();
        }
    }
}

/// Waits until the server has come to an end with what was given up, or has gone, or for long enough.
async fn until_it_answers(connection: &mut MySqlConnection, since: Instant, limit: Duration) {
    let gone = async {
        while !failover::silences(since.elapsed()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        _ = connection.ping() => {}
        () = gone => {}
        () = tokio::time::sleep(limit) => {
            tracing::warn!(
                seconds = since.elapsed().as_secs(),
                "the database comes to no end with what was given up; another connection may take its place"
            );
        }
    }
}

/// Whether the connection can be used after a failure: the failure is our own, or was the server's whole answer.
fn is_in_step(failure: &Failure) -> bool {
    match failure.cause().and_then(|cause| cause.downcast_ref::<sqlx::Error>()) {
        None => true,
        Some(error @ sqlx::Error::Database(_)) => !server_code(error).is_some_and(is_end),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

    use super::super::pool::pool_of;
    use super::super::pool::tests::abandon;
    use super::super::ways::{Statements, hanging, slow};
    use super::super::{IDLE_LIMIT, Lane};
    use super::*;

    /// Gives work up in its commit, on what has one connection.
    async fn give_up<F: Future<Output = Outcome<()>>>(commits: &Statements, work: impl Fn() -> F) {
        tokio::select! {
            outcome = work() => panic!("it does not hang: {outcome:?}"),
            () = commits.reached.notified() => {}
        }
        let refused = work().await.expect_err("the only place is taken");
        assert_eq!(refused.code(), ErrorCode::Unavailable);
        commits.allowed.add_permits(2);
        let again = tokio::join!(work(), commits.reached.notified());
        again.0.expect("the place is free");
    }

    #[sqlx::test]
    async fn a_commit_that_hangs_keeps_its_place_until_the_server_has_come_to_an_end_with_it(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let on_pool = async {
            let (way, commits) = hanging(&options, "COMMIT").await;
            let pool = pool_of(way, 1);
            let work = || transaction(&pool, "test", (), |_, ()| Box::pin(async { Ok(()) }));
            give_up(&commits, work).await;
            give_up(&commits, async || write(&pool, sqlx::raw_sql("DO 1 # COMMIT")).await.map(drop)).await;
        };
        let on_lane = async {
            let (way, commits) = hanging(&options, "COMMIT").await;
            let lane = Lane::of(way, 1);
            give_up(&commits, || lane.transaction("test", (), |_, ()| Box::pin(async { Ok(()) }))).await;
            let work = || {
                lane.statement("test", (), |connection, ()| {
                    let statement = connection.execute("DO 1 # COMMIT");
                    Box::pin(async { statement.await.map(drop).map_err(failed) })
                })
            };
            give_up(&commits, work).await;
        };
        tokio::join!(on_pool, on_lane);
    }

    #[sqlx::test]
    async fn what_is_asked_takes_no_longer_at_the_server_than_somebody_waits_for_it(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(options, 1);
        let mut connection = pool.acquire().await.expect("a connection");
        let limit = "SELECT CAST(/*!50708 @@max_execution_time / 1000 */ /*M!100101 @@max_statement_time */ AS SIGNED)";
        let limit: i64 = sqlx::query_scalar(limit).fetch_one(&mut *connection).await.expect("a limit");
        assert_eq!(limit, TRANSACTION_LIMIT.as_secs() as i64);
        let silence: u64 = sqlx::query_scalar("SELECT @@SESSION.wait_timeout")
            .fetch_one(&mut *connection)
            .await
            .expect("a limit");
        assert!(
            silence > IDLE_LIMIT.as_secs() && silence < 100,
            "locks of a machine that is gone end after {silence} s"
        );

        let shorter =
            "SET SESSION /*!50708 max_execution_time = 100 */ /*M!100101 max_statement_time = 0.1 */";
        connection.execute(shorter).await.expect("set");
        let long = "SELECT COUNT(*) FROM information_schema.columns a, information_schema.columns b,
                    information_schema.columns c";
        let ended = connection.execute(long).await.expect_err("too long");
        assert_eq!(failed(ended).code(), ErrorCode::Timeout);
    }

    #[sqlx::test]
    async fn what_is_written_after_a_transaction_that_was_abandoned_anywhere_is_committed(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(slow(options.clone()).await, 1);
        let others = pool_of(options, 1);
        pool.execute("CREATE TABLE written (number INT UNSIGNED NOT NULL) ENGINE = InnoDB")
            .await
            .expect("a table");
        for polls in 1.. {
            let work = transaction(&pool, "test", (), |tx, ()| {
                // Prepared first, which leaves most behind.
                Box::pin(async move {
                    sqlx::query("DELETE FROM written WHERE number > ?")
                        .bind(0)
                        .execute(tx)
                        .await
                        .map_err(failed)
                })
            });
            let has_ended = abandon(work, polls).await;
            sqlx::query("INSERT INTO written VALUES (?)")
                .bind(polls)
                .execute(&pool)
                .await
                .expect("acknowledged");
            let seen: Option<u32> = sqlx::query_scalar("SELECT MAX(number) FROM written")
                .fetch_one(&others)
                .await
                .expect("a number");
            assert_eq!(seen, Some(polls), "acknowledged, and nobody else sees it");
            if has_ended {
                assert!(polls > 3, "neither waits for a connection nor for an answer");
                return;
            }
        }
    }
}
