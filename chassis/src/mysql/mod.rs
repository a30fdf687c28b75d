//! The MySQL pool, migrations that replicas may start at once, and named transactions.
//! Works the same on MySQL 8.4 and 9.x and on MariaDB 10.11 and later.

use std::time::Duration;

use contract::{ErrorCode, Failure};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use sqlx::error::ErrorKind;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, Connection, MySqlConnection, MySqlPool};

use crate::clock;
use crate::settings::Env;

mod failover;
mod lane;
mod meters;
mod migrations;
mod pool;
mod tls;
mod transactions;
#[cfg(test)]
mod ways;

pub use lane::Lane;
pub use migrations::{SetupError, migrate};
pub use pool::{answer_within, close, place, pool, pool_and_followers, pool_and_lane};
use tls::Tls;
pub use transactions::{Work, in_time, transaction, write};

/// What the server says to the victim of a deadlock.
const DEADLOCK: u16 = 1213;
/// How often a transaction is tried when the database chose it as the victim of a deadlock.
const ATTEMPTS: u32 = 5;
/// The longest wait for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// The longest that a connection may take to show that it can be used, before and after it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a connection rests before it is used no more. The server closes it a little later.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

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

/// One connection, for who looks at the database from outside; without what a pool does to hide that it is away.
///
/// # Errors
/// What the server, or the way to it, says.
pub async fn connect(settings: &Settings) -> Result<MySqlConnection, sqlx::Error> {
    settings.options().connect().await
}

/// A connection that holds a lock of the schema until it is closed, so that of all replicas one does something at a time;
/// `None`, at once, while another does. It is the pool's no more: a lock must not stay behind there.
///
/// # Errors
/// When the database is away.
pub async fn alone(pool: &MySqlPool, what: &str) -> Result<Option<MySqlConnection>, sqlx::Error> {
    let mut connection = pool.acquire().await?.detach();
    pool::take_time(&mut connection).await?;
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

/// What an unexpected database error means to the caller: the database is away, or something is wrong.
pub fn failed(error: sqlx::Error) -> Failure {
    failover::note_refusal(&error);
    meters::note(&error);
    if is_away(&error) || server_code(&error).is_some_and(is_locked_out) {
        Failure::new(ErrorCode::Unavailable)
            .with_http(StatusCode::SERVICE_UNAVAILABLE)
            .with_fact("service", "mysql")
            .because(error)
    } else if server_code(&error).is_some_and(is_out_of_time) {
        transactions::too_long().because(error)
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

/// No room on its disk (1021, 1114), closed to a host that failed too often (1129), read-only (1290, 1836), there for
/// administrators alone (3032), access while starting (3168), without its cluster (1047 of Galera, 3100 of a group), or, in the
/// words of a proxy, away (9001).
fn is_refusal_to_serve(code: u16) -> bool {
    is_full(code)
        || is_end(code)
        || matches!(code, 1021 | 1047 | 1114 | 1129 | 1290 | 1836 | 3032 | 3100 | 3168 | 9001)
}

/// Too many connections: of all, of the user, of the user by its own limit.
fn is_full(code: u16) -> bool {
    matches!(code, 1040 | 1203 | 1226)
}

/// The server gives the connection up: it is shutting down (1053), somebody killed it (1927), it was silent for too long (4031),
/// or a proxy has lost its server (2013).
fn is_end(code: u16) -> bool {
    matches!(code, 1053 | 1927 | 2013 | 4031)
}

/// The account or the host is not admitted (any more). A start ends with that; what already runs waits for somebody to mend
/// it, which is no fault of what was asked.
fn is_locked_out(code: u16) -> bool {
    matches!(code, 1044 | 1045 | 1130 | 1698)
}

/// A statement that the server has ended, as its session says how long one may take: 3024, and 1969 on MariaDB.
fn is_out_of_time(code: u16) -> bool {
    matches!(code, 1969 | 3024)
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
    use super::*;

    #[test]
    fn a_server_without_room_or_that_stops_is_away_and_one_that_minds_the_statement_is_not() {
        for away in [1021, 1040, 1047, 1053, 1114, 1290, 3032, 3100] {
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
}
