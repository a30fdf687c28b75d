//! The MySQL pool, migrations that replicas may start at once, and named transactions.
//! Works the same on MySQL 8.4 and 9.x and on MariaDB 10.11 and later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use contract::{ErrorCode, Failure, Outcome};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use sqlx::error::ErrorKind;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, MySql, MySqlConnection, MySqlPool, Row, Transaction,
};
use tracing::Instrument;

use crate::settings::Env;
use crate::{clock, traces};

mod failover;
mod lane;
mod meters;
mod migrations;
mod tls;

pub use lane::Lane;
pub use migrations::{SetupError, migrate};
use tls::Tls;

/// What the server says to the victim of a deadlock.
const DEADLOCK: u16 = 1213;
/// How often a transaction is tried when the database chose it as the victim of a deadlock.
const ATTEMPTS: u32 = 5;
/// The longest that a transaction may take, its repetitions included.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// How long an ending process waits for connections that are in use.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The longest that a connection may take to show that it can be used, before and after it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long to wait before another try to open a connection in the place of one that does not answer.
const REOPENING: Duration = Duration::from_millis(500);
/// How long a connection rests before it is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// Where the database is and how a service signs in.
#[derive(Clone, Debug)]
pub struct Settings {
    host: String,
    port: u16,
    user: String,
    password: SecretString,
    database: String,
    tls: Tls,
    connections: u64,
}

impl Settings {
    /// `user` is the service's own database user by default.
    pub fn read(env: &mut Env, user: &'static str) -> Self {
        Settings {
            host: env.value("AUTH_DB_HOST", "127.0.0.1", "Host of the MySQL server"),
            port: env.value("AUTH_DB_PORT", "3306", "Port of the MySQL server"),
            user: env.value("AUTH_DB_USER", user, "The service's own database user"),
            password: env.password("AUTH_DB_PASSWORD", "Password of the database user"),
            database: env.value("AUTH_DB_NAME", "auth_db", "The schema"),
            tls: Tls::read(env),
            connections: env.number(
                "AUTH_DB_CONNECTIONS",
                "10",
                2..=1000,
                "Most connections of this process for what it is asked; a migration, and each removal of what has \
                 expired, has one of its own beside them",
            ),
        }
    }

    fn options(&self) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(self.password.expose_secret())
            .database(&self.database)
            // With their text and time, never with their values; for traces, and for logs at that level.
            .log_statements(log::LevelFilter::Debug)
            .log_slow_statements(log::LevelFilter::Off, Duration::MAX);
        self.tls.demanded(options)
    }
}

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

/// One connection, for who looks at the database from outside; without what a pool does to hide that it is away.
///
/// # Errors
/// What the server, or the way to it, says.
pub async fn connect(settings: &Settings) -> Result<MySqlConnection, sqlx::Error> {
    settings.options().connect().await
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

fn pool_of(options: MySqlConnectOptions, connections: u32) -> MySqlPool {
    let returned = Arc::new(options.clone());
    let rested = returned.clone();
    MySqlPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(IDLE_LIMIT)
        .after_connect(|connection, _| Box::pin(prepare_session(connection)))
        // In place of sqlx's ping, which takes any answer for its own.
        .test_before_acquire(false)
        // sqlx pings, too, but waits for as long as it takes, which is for ever where a future was dropped in the middle
        // of an answer, or the server has vanished: nobody else would get its place.
        .after_release(move |connection, _| {
            let options = returned.clone();
            Box::pin(async move {
                match in_answer_time(connection.ping()).await {
                    Ok(()) => Ok(true),
                    Err(error) if is_broken(&error) => Err(error),
                    Err(_) => {
                        replace_at_last(connection, &options).await;
                        Ok(true)
                    }
                }
            })
        })
        .before_acquire(move |connection, about| {
            let options = rested.clone();
            Box::pin(async move {
                if failover::outdates(about.age) {
                    return Ok(false);
                }
                let is_good = !failover::silences(about.idle_for)
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
                }
                Ok(true)
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

async fn open(options: &MySqlConnectOptions) -> Result<MySqlConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    prepare_session(&mut connection).await?;
    Ok(connection)
}

/// Puts another connection in the place of one that does not answer. To close that would take as long as its server says
/// nothing: over TLS sqlx reads before it says goodbye. Dropped, it is gone at once.
async fn replace_at_last(connection: &mut MySqlConnection, options: &MySqlConnectOptions) {
    loop {
        if let Ok(Ok(other)) = tokio::time::timeout(ACQUIRE_LIMIT, open(options)).await {
            *connection = other;
            return;
        }
        // While no server is there, nobody misses the place.
        tokio::time::sleep(REOPENING).await;
    }
}

async fn prepare_session(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    // The second is for what a change of a table waits for, and all others behind it: a year on MySQL.
    connection.execute("SET SESSION innodb_lock_wait_timeout = 5, lock_wait_timeout = 5").await?;
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    Ok(())
}

async fn in_answer_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let too_late = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(ANSWER_LIMIT, answer).await.unwrap_or_else(too_late)
}

/// As [`in_answer_time`], of a connection from which nothing is outstanding: its silence is the server's.
async fn answers<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let asked = Instant::now();
    let answer = in_answer_time(answer).await;
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

/// A connection that holds a lock of the schema until it is closed, so that of all replicas one does something at a time;
/// `None`, at once, while another does. It is the pool's no more: a lock must not stay behind there.
///
/// # Errors
/// When the database is away.
pub async fn alone(pool: &MySqlPool, what: &str) -> Result<Option<MySqlConnection>, sqlx::Error> {
    let mut connection = pool.acquire().await?.detach();
    if lock(&mut connection, what, 0).await? {
        return Ok(Some(connection));
    }
    connection.close().await?;
    Ok(None)
}

/// Waits so many seconds for a lock of the schema, which ends with the connection at the latest, and says whether it was got.
async fn lock(connection: &mut MySqlConnection, what: &str, seconds: i32) -> Result<bool, sqlx::Error> {
    // Locks are the whole server's, and their names have 64 characters at most. MySQL 9.6 has no SHA1 any more.
    let got: Option<i64> =
        sqlx::query_scalar("SELECT GET_LOCK(CONCAT(LEFT(SHA2(DATABASE(), 256), 16), ' ', ?), ?)")
            .bind(what)
            .bind(seconds)
            .fetch_one(connection)
            .await?;
    Ok(got == Some(1))
}

/// Whether the database answers, and by the way what its clock says.
pub async fn probe(pool: &MySqlPool) -> crate::health::State {
    let answer = async {
        let mut connection = pool.acquire().await?;
        let asked = clock::now();
        clock::shared(&mut connection).await.map(|shared| clock::ahead(asked..=clock::now(), shared))
    };
    meters::look_at(pool);
    match answer.await {
        Ok(ahead) => {
            meters::note_clock(ahead);
            crate::health::State::Healthy
        }
        Err(_) => crate::health::State::Unhealthy,
    }
}

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

/// Tries until the database has chosen another victim, and measures.
async fn repeated<T, F: Future<Output = Outcome<T>>>(name: &'static str, once: impl Fn() -> F) -> Outcome<T> {
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
    let outcome = tokio::time::timeout(TRANSACTION_LIMIT, attempts).instrument(span).await;
    meters::SECONDS.with_label_values(&[name]).observe(since.elapsed().as_secs_f64());
    outcome.unwrap_or_else(|_| Err(too_long()))
}

/// Bounds one turn of what goes on for as long as the process lives. A server that vanishes without a word is waited for
/// in vain: once it has got a question, nothing is left to be sent that would show it.
///
/// # Errors
/// What `turn` fails with; GW002 when it takes too long.
pub async fn in_time<T>(limit: Duration, turn: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout(limit, turn).await.unwrap_or_else(|_| Err(too_long()))
}

fn too_long() -> Failure {
    Failure::new(ErrorCode::Timeout).with_fact("service", "mysql")
}

async fn once<C, T>(
    pool: &MySqlPool,
    given: &C,
    work: &impl for<'c> Fn(&'c mut MySqlConnection, &'c C) -> Work<'c, T>,
) -> Outcome<T> {
    let mut lent = None;
    let mut transaction = meters::begun(begin(pool, &mut lent)).await.map_err(failed)?;
    let outcome = match work(&mut transaction, given).await {
        Ok(value) => transaction.commit().await.map(|()| value).map_err(failed),
        Err(failure) => {
            drop(transaction);
            Err(failure)
        }
    };
    if let Some(lent) = lent {
        lent.give_back();
    }
    outcome
}

/// Begins a transaction on a connection that is lent for it.
async fn begin<'c>(
    pool: &MySqlPool,
    lent: &'c mut Option<Lent>,
) -> Result<Transaction<'c, MySql>, sqlx::Error> {
    let connection = pool.acquire().await?;
    lent.insert(Lent { connection, has_ended: false }).connection.begin().await
}

/// A connection of the pool, which is closed unless what it was lent for has come to an end on it, as when the caller goes
/// away. Given up in the middle of BEGIN, it has a transaction that sqlx does not know of: what others write there next
/// would be acknowledged and never committed. Given up while a statement is prepared, it has answers that sqlx does not know
/// of, and takes the end of the transaction for one of them.
struct Lent {
    connection: PoolConnection<MySql>,
    has_ended: bool,
}

impl Lent {
    fn give_back(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}

/// What an unexpected database error means to the caller: the database is away, or something is wrong.
pub fn failed(error: sqlx::Error) -> Failure {
    failover::note_refusal(&error);
    meters::note(&error);
    if is_away(&error) || server_code(&error).is_some_and(is_locked_out) {
        Failure::new(ErrorCode::Unavailable)
            .with_http(StatusCode::SERVICE_UNAVAILABLE)
            .with_fact("service", "mysql")
            .because(error)
    } else {
        Failure::internal(error)
    }
}

/// Whether an error means that the database cannot be used for now, whatever was asked of it.
pub fn is_away(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)
    ) || server_code(error).is_some_and(is_refusal_to_serve)
}

/// The name of the unique key that an insert or update ran into.
pub fn violated_key(error: &sqlx::Error) -> Option<String> {
    let database = error.as_database_error().filter(|e| e.kind() == ErrorKind::UniqueViolation)?;
    // "Duplicate entry 'x' for key 'users.uq_users_email'" on MySQL, without the table on MariaDB.
    let key = database.message().rsplit('\'').nth(1)?;
    Some(key.rsplit('.').next().unwrap_or(key).to_owned())
}

/// Whether an insert named a row of another table that does not exist.
pub fn misses_parent(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.kind() == ErrorKind::ForeignKeyViolation)
}

/// The number that the server gave an error.
pub fn server_code(error: &sqlx::Error) -> Option<u16> {
    let database = error.as_database_error()?;
    database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(|e| e.number())
}

/// No room on its disk (1021, 1114), shutting down (1053), too many connections (1040, 1203, 1226), of a host that failed too
/// often (1129), read-only (1290, 1836), there for administrators alone (3032), access while starting (3168), and a connection
/// that the server has given up: killed (1927), or silent for too long (4031).
fn is_refusal_to_serve(code: u16) -> bool {
    matches!(code, 1021 | 1040 | 1053 | 1114 | 1129 | 1203 | 1226 | 1290 | 1836 | 1927 | 3032 | 3168 | 4031)
}

/// The account or the host is not admitted (any more). A start ends with that; what already runs waits for somebody to mend
/// it, which is no fault of what was asked.
fn is_locked_out(code: u16) -> bool {
    matches!(code, 1044 | 1045 | 1130 | 1698)
}

/// A deadlock (1213) or a lock that was not got in time (1205; 3572 for NOWAIT on MySQL).
fn is_contention(failure: &Failure) -> bool {
    let code = failure.cause().and_then(|cause| cause.downcast_ref::<sqlx::Error>()).and_then(server_code);
    code.is_some_and(is_lost_race)
}

fn is_lost_race(code: u16) -> bool {
    matches!(code, DEADLOCK | 1205 | 3572)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The server, with answers that take long enough to be waited for in vain.
    pub(super) async fn slow(options: MySqlConnectOptions) -> MySqlConnectOptions {
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut questions, mut client) = client.into_split();
                let server = TcpStream::connect(&server).await.expect("the server");
                let (mut answers, mut server) = server.into_split();
                tokio::spawn(async move { copy(&mut questions, &mut server).await });
                tokio::spawn(async move {
                    let mut answer = [0; 4096];
                    while let Ok(length @ 1..) = answers.read(&mut answer).await {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        client.write_all(&answer[..length]).await?;
                    }
                    client.shutdown().await
                });
            }
        });
        options.host("127.0.0.1").port(port)
    }

    #[test]
    fn a_server_without_room_or_that_stops_is_away_and_one_that_minds_the_statement_is_not() {
        for away in [1021, 1114, 1040, 1053, 1290, 3032] {
            assert!(is_refusal_to_serve(away), "{away}");
        }
        for other in [1062, 1064, 1213, 1452] {
            assert!(!is_refusal_to_serve(other), "{other}");
        }
    }

    #[sqlx::test(migrations = false)]
    async fn of_all_who_want_to_be_alone_one_is_until_its_connection_ends(pool: MySqlPool) {
        let first = alone(&pool, "sweep").await.expect("a server").expect("nobody else");
        assert!(alone(&pool, "sweep").await.expect("a server").is_none());
        assert!(alone(&pool, "another").await.expect("a server").is_some());
        // Gone without a word, as a replica that dies.
        drop(first);
        while alone(&pool, "sweep").await.expect("a server").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Polls a future so often and drops it, as a caller that goes away does; says whether it had come to its end.
    async fn abandon<F: Future>(work: F, mut polls: u32) -> bool {
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
