//! Connections for transactions that are many and short. The pool asks each connection for a number before it is used,
//! and pings it after, since whoever used it may have been given up in the middle. Here a connection is kept only by
//! who has come to an end on it, and closed otherwise, so that nothing has to be asked: whether the server is still
//! there shows the BEGIN, which has no effect and is repeated elsewhere.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::Outcome;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{Connection, Executor, MySqlConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pool::{answers, open};
use super::transactions::{Lender, Lent, Work, repeated};
use super::{ACQUIRE_LIMIT, IDLE_LIMIT, failed, failover, meters};

/// A bounded number of connections, opened when they are needed. Cheap to clone.
#[derive(Clone)]
pub struct Lane(Arc<Inner>);

struct Inner {
    options: MySqlConnectOptions,
    places: Arc<Semaphore>,
    /// The last one that was used is the first to be used again.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: MySqlConnection,
    opened: Instant,
    since: Instant,
}

/// A connection in its place.
struct Placed {
    idle: Idle,
    lane: Lane,
    _place: OwnedSemaphorePermit,
}

impl Lender for Placed {
    fn take_back(self) {
        if !self.lane.0.places.is_closed() {
            self.lane.idle().push(Idle { since: Instant::now(), ..self.idle });
        }
    }

    fn dismiss(self) {
        drop(self);
    }
}

impl Deref for Placed {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.idle.connection
    }
}

impl DerefMut for Placed {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.idle.connection
    }
}

impl Lane {
    /// At most so many connections.
    pub fn of(options: MySqlConnectOptions, connections: u32) -> Self {
        let places = Arc::new(Semaphore::new(connections as usize));
        Lane(Arc::new(Inner { options, places, idle: Mutex::default() }))
    }

    /// As [`super::transaction`].
    ///
    /// # Errors
    /// What `work` fails with; GW001 when the database is away; GW002 when it takes too long.
    pub async fn transaction<C: Sync, T>(
        &self,
        name: &'static str,
        given: C,
        work: impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
    ) -> Outcome<T> {
        repeated(name, || self.once(&given, &work)).await
    }

    /// `work` is one statement by itself, with a commit of its own. It is repeated also when the connection breaks, so
    /// that doing it twice must be as doing it once.
    ///
    /// # Errors
    /// As [`Lane::transaction`].
    pub async fn statement<C: Sync, T>(
        &self,
        name: &'static str,
        given: C,
        work: impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
    ) -> Outcome<T> {
        repeated(name, || self.alone(&given, &work)).await
    }

    async fn once<C, T>(
        &self,
        given: &C,
        work: &impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
    ) -> Outcome<T> {
        self.begin().await.map_err(failed)?.complete(given, work).await
    }

    /// A connection on which a transaction has begun.
    async fn begin(&self) -> Result<Lent<Placed>, sqlx::Error> {
        meters::begun(acquired(async {
            let place = self.place().await?;
            while let Some(mut idle) = self.kept() {
                if answers(idle.connection.execute("BEGIN")).await.is_ok() {
                    return Ok(self.lent(place, idle));
                }
            }
            let mut new = self.open().await?;
            new.connection.execute("BEGIN").await?;
            Ok(self.lent(place, new))
        }))
        .await
    }

    async fn alone<C, T>(
        &self,
        given: &C,
        work: &impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
    ) -> Outcome<T> {
        loop {
            let place = acquired(self.place()).await.map_err(failed)?;
            let (idle, is_new) = match self.kept() {
                Some(idle) => (idle, false),
                None => (acquired(self.open()).await.map_err(failed)?, true),
            };
            let mut lent = self.lent(place, idle);
            lent.commits();
            let outcome = work(lent.connection(), given).await;
            if lent.end_if_in_step(&outcome) || is_new {
                return outcome;
            }
        }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        failover::follow(&self.0.options);
        self.0.places.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)
    }

    async fn open(&self) -> Result<Idle, sqlx::Error> {
        let opened = Instant::now();
        Ok(Idle { connection: open(&self.0.options).await?, opened, since: opened })
    }

    fn lent(&self, place: OwnedSemaphorePermit, idle: Idle) -> Lent<Placed> {
        Placed { idle, lane: self.clone(), _place: place }.into()
    }

    /// What rests for long may have been forgotten on the way to the server, which would show by silence alone.
    fn kept(&self) -> Option<Idle> {
        let mut idle = self.idle();
        while let Some(last) = idle.pop() {
            let rest = last.since.elapsed();
            if rest >= IDLE_LIMIT || failover::silences(rest) {
                idle.clear();
            } else if !failover::outdates(last.opened.elapsed()) {
                return Some(last);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what rests; from now on everything is refused with GW001.
    pub async fn close(&self) {
        self.0.places.close();
        let idle = std::mem::take(&mut *self.idle());
        for Idle { connection, .. } in idle {
            // The server forgets it by itself if it does not hear of it.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

async fn acquired<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ACQUIRE_LIMIT, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

#[cfg(test)]
mod tests {
    use contract::{ErrorCode, Failure};
    use sqlx::mysql::MySqlPoolOptions;
    use sqlx::{AssertSqlSafe, MySqlPool};

    use super::super::ways::slow;
    use super::*;

    fn ask(connection: &mut MySqlConnection, question: i64) -> Work<'_, i64> {
        Box::pin(async move {
            sqlx::query_scalar("SELECT ?").bind(question).fetch_one(connection).await.map_err(failed)
        })
    }

    /// The server's number of a connection of the lane. It is in use for long enough that two at once are two.
    async fn number(lane: &Lane) -> u64 {
        let number = lane.transaction("number", (), |tx, ()| {
            Box::pin(async move {
                tx.execute("DO SLEEP(0.1)").await.map_err(failed)?;
                sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(tx).await.map_err(failed)
            })
        });
        number.await.expect("a number")
    }

    /// Has the server close the two connections of a lane.
    async fn cut(lane: &Lane, pool: &MySqlPool) {
        let (one, other) = tokio::join!(number(lane), number(lane));
        assert_ne!(one, other);
        for number in [one, other] {
            pool.execute(AssertSqlSafe(format!("KILL {number}"))).await.expect("killed");
        }
        let left = "SELECT COUNT(*) FROM information_schema.processlist WHERE id IN (?, ?)";
        while sqlx::query_scalar::<_, i64>(left).bind(one).bind(other).fetch_one(pool).await.expect("a count")
            > 0
        {}
    }

    #[sqlx::test]
    async fn the_first_call_after_the_server_was_restarted_succeeds(
        pool: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let lane = Lane::of(options.clone(), 2);
        let pool = pool.connect_with(options).await.expect("a pool");
        cut(&lane, &pool).await;
        let answer = lane.transaction("ask", 1, |tx, question| ask(tx, *question)).await;
        assert_eq!(answer.expect("an answer"), 1);
        cut(&lane, &pool).await;
        let answer = lane.statement("ask", 2, |connection, question| ask(connection, *question)).await;
        assert_eq!(answer.expect("an answer"), 2);
    }

    #[sqlx::test]
    async fn what_was_given_up_in_a_lane_gives_its_answer_to_nobody(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let lane = Lane::of(slow(options).await, 1);
        for question in 0..40_i64 {
            let patience = Duration::from_millis(u64::try_from(question % 10).expect("a number"));
            // A question that is new to the connection is prepared first.
            let new = format!("SELECT ?, 'question {question}'");
            let given = lane.transaction("given up", new, |tx, new| {
                Box::pin(async move {
                    sqlx::query(AssertSqlSafe(new.clone())).bind(0).execute(tx).await.map_err(failed)
                })
            });
            drop(tokio::time::timeout(patience, given).await);
            let asked = lane.statement("ask", question, |connection, question| ask(connection, *question));
            assert_eq!(asked.await.expect("an answer"), question);
        }
    }

    #[sqlx::test]
    async fn what_fails_is_rolled_back_and_its_connection_used_again(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let lane = Lane::of(options, 1);
        let table = lane.statement("make", (), |connection, ()| {
            Box::pin(async move {
                connection.execute("CREATE TABLE things (id INT PRIMARY KEY)").await.map_err(failed)
            })
        });
        table.await.expect("a table");
        let number_before = number(&lane).await;
        for code in [ErrorCode::QuotaExceeded, ErrorCode::Internal] {
            let failed = lane.transaction("insert", code, |tx, code| {
                Box::pin(async move {
                    tx.execute("INSERT INTO things VALUES (1)").await.map_err(failed)?;
                    if *code == ErrorCode::QuotaExceeded {
                        return Err::<(), _>(Failure::new(*code));
                    }
                    // Refused by the server.
                    tx.execute("INSERT INTO things VALUES (1)").await.map_err(failed).map(drop)
                })
            });
            assert_eq!(failed.await.expect_err("a failure").code(), code);
        }
        let count = lane.statement("count", (), |connection, ()| {
            Box::pin(async move {
                sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM things")
                    .fetch_one(connection)
                    .await
                    .map_err(failed)
            })
        });
        assert_eq!(count.await.expect("a count"), 0);
        assert_eq!(number(&lane).await, number_before);
    }

    #[tokio::test]
    async fn without_a_server_it_is_told_at_once() {
        let lane = Lane::of(MySqlConnectOptions::new().host("127.0.0.1").port(1), 1);
        let asked = lane.transaction("ask", 1, |tx, question| ask(tx, *question));
        let refused = tokio::time::timeout(Duration::from_secs(2), asked).await.expect("at once");
        assert_eq!(refused.expect_err("no server").code(), ErrorCode::Unavailable);
        lane.close().await;
        let refused = lane.statement("ask", 1, |connection, question| ask(connection, *question)).await;
        assert_eq!(refused.expect_err("closed").code(), ErrorCode::Unavailable);
    }
}
