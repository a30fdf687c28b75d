//! The tables brought up to date by whichever replica comes first, so that a start which was interrupted, refused or
//! overtaken by a newer version stands in the way of none after it.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, MySqlPool};

use super::{ATTEMPTS, is_away, is_lost_race, lock, server_code};

/// Seconds that one replica waits while another migrates.
const LOCK_SECONDS: i32 = 120;
/// How long what waits behind a change of its table may go on before the change is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the database refused: {0}")]
    Database(#[from] sqlx::Error),
    #[error("a migration failed: {0}")]
    Migration(#[from] MigrateError),
    #[error("another replica has held the migration lock for {LOCK_SECONDS} seconds")]
    Locked,
    #[error("sql_mode is {0:?}: STRICT_TRANS_TABLES is missing, so that the server would cut values short")]
    NotStrict(String),
}

impl SetupError {
    /// Whether another try may succeed though nobody does anything.
    pub fn may_pass(&self) -> bool {
        let passes = |error: &sqlx::Error| is_away(error) || server_code(error).is_some_and(is_lost_race);
        match self {
            SetupError::Database(error) => passes(error),
            SetupError::Migration(
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
            ) => passes(error),
            SetupError::Migration(_) | SetupError::NotStrict(_) => false,
            SetupError::Locked => true,
        }
    }
}

/// Brings the tables up to date, one replica at a time, and checks that the server refuses what it cannot store.
/// `bookkeeping` is the service's own table of applied migrations. Those of a newer version are left alone: each is made so
/// that the version before it can go on with it.
///
/// # Errors
/// When the database is away, the lock stays taken, a migration fails, or the SQL mode is not strict.
pub async fn migrate(
    pool: &MySqlPool,
    mut migrator: Migrator,
    bookkeeping: &'static str,
) -> Result<(), SetupError> {
    let mut connection = pool.acquire().await?.detach();
    let mode: String = sqlx::query_scalar("SELECT @@SESSION.sql_mode").fetch_one(&mut connection).await?;
    if !mode.contains("STRICT_TRANS_TABLES") && !mode.contains("STRICT_ALL_TABLES") {
        return Err(SetupError::NotStrict(mode));
    }
    // sqlx's own lock asks for an endless wait, which MariaDB answers with NULL; this one works on both.
    if !lock(&mut connection, bookkeeping, LOCK_SECONDS).await? {
        return Err(SetupError::Locked);
    }
    migrator.set_locking(false).set_ignore_missing(true);
    migrator.dangerous_set_table_name(bookkeeping);
    let outcome = run(&mut connection, &migrator, bookkeeping).await;
    // With it ends the lock; of a connection that broke the server has ended it.
    let _ = connection.close().await;
    Ok(outcome?)
}

/// A migration is one statement, which has its whole effect or none. sqlx notes beforehand that it was begun, and takes the
/// note for half an effect ever after.
async fn run(
    connection: &mut MySqlConnection,
    migrator: &Migrator,
    bookkeeping: &str,
) -> Result<(), MigrateError> {
    let forget = format!("DELETE FROM {bookkeeping} WHERE version = ? AND success = FALSE");
    let believe = format!("UPDATE {bookkeeping} SET success = TRUE WHERE version = ?");
    let mut broken_off = None;
    let mut attempt = 1;
    loop {
        let outcome = migrator.run_direct(None, &mut *connection, false).await;
        let (version, note, goes_on) = match &outcome {
            // Whoever began it has not heard whether it happened. If so, it cannot happen again.
            Err(MigrateError::Dirty(version)) => {
                tracing::warn!(version, "a migration was broken off; it is begun again");
                broken_off = Some(*version);
                (*version, &forget, true)
            }
            Err(MigrateError::ExecuteMigration(error, version)) => match server_code(error) {
                Some(_) if broken_off == Some(*version) && has_happened(error) => (*version, &believe, true),
                // Another service that changes its tables at the same time, or a transaction that has one of them.
                Some(code) => (*version, &forget, is_lost_race(code)),
                None => return outcome,
            },
            _ => return outcome,
        };
        sqlx::query(AssertSqlSafe(note.as_str())).bind(version).execute(&mut *connection).await?;
        if !goes_on || attempt == ATTEMPTS {
            return outcome;
        }
        if let Err(MigrateError::ExecuteMigration(error, version)) = &outcome {
            tracing::warn!(%error, version, "a migration is tried again");
            tokio::time::sleep(PAUSE).await;
        }
        attempt += 1;
    }
}

/// Whether the server refuses a statement because its effect is there: a table (1050), column (1060), key (1061, 1068), or
/// constraint (1826, 3822, and 1005 with 121 on MariaDB) that exists, or one to be dropped that does not (1051, 1091).
fn has_happened(error: &sqlx::Error) -> bool {
    match server_code(error) {
        Some(1050 | 1051 | 1060 | 1061 | 1068 | 1091 | 1826 | 3822) => true,
        Some(1005) => error.to_string().contains("errno: 121"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Executor;
    use sqlx::migrate::{Migration, MigrationType};
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

    use super::super::pool_of;
    use super::*;

    const BOOKS: &str = "_a_test";

    fn migrator(statements: &[&'static str]) -> Migrator {
        let migration = |(place, sql): (usize, &&'static str)| {
            let version = i64::try_from(place).expect("a number") + 1;
            let sql = sqlx::SqlStr::from_static(sql);
            Migration::new(version, "a step".into(), MigrationType::Simple, sql, false)
        };
        Migrator::with_migrations(statements.iter().enumerate().map(migration).collect())
    }

    async fn count(pool: &MySqlPool, question: &'static str) -> i64 {
        sqlx::query_scalar(question).fetch_one(pool).await.expect("a count")
    }

    #[sqlx::test]
    async fn a_server_that_would_cut_values_short_is_not_used(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let with_mode = |mode: &'static str| {
            let pool = MySqlPoolOptions::new().max_connections(1).after_connect(move |connection, _| {
                Box::pin(async move {
                    let set = format!("SET SESSION sql_mode = '{mode}'");
                    connection.execute(AssertSqlSafe(set)).await.map(drop)
                })
            });
            pool.connect_lazy_with(options.clone())
        };
        let start = async |mode| migrate(&with_mode(mode), migrator(&[]), BOOKS).await;
        for lax in ["", "NO_ENGINE_SUBSTITUTION"] {
            assert!(matches!(start(lax).await, Err(SetupError::NotStrict(mode)) if mode == lax), "{lax:?}");
        }
        for strict in ["STRICT_TRANS_TABLES", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"] {
            start(strict).await.expect("migrated");
        }
    }

    #[sqlx::test(migrations = false)]
    async fn the_tables_of_a_newer_version_are_good_for_the_one_before(pool: MySqlPool) {
        let newer = ["CREATE TABLE a (id INT PRIMARY KEY)", "ALTER TABLE a ADD COLUMN b INT"];
        migrate(&pool, migrator(&newer), BOOKS).await.expect("migrated");
        migrate(&pool, migrator(&newer[..1]), BOOKS).await.expect("an older replica starts");
        assert_eq!(count(&pool, "SELECT COUNT(*) FROM _a_test WHERE success").await, 2);
    }

    #[sqlx::test(migrations = false)]
    async fn what_the_server_refused_is_done_once_it_can_be(pool: MySqlPool) {
        let child = ["CREATE TABLE child (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES parent (id))"];
        for _ in 0..2 {
            let refused = migrate(&pool, migrator(&child), BOOKS).await.expect_err("there is no parent");
            assert!(
                matches!(&refused, SetupError::Migration(MigrateError::ExecuteMigration(_, 1))),
                "{refused}"
            );
            assert!(!refused.may_pass(), "{refused}");
        }
        pool.execute("CREATE TABLE parent (id INT PRIMARY KEY)").await.expect("made");
        migrate(&pool, migrator(&child), BOOKS).await.expect("migrated");
    }

    #[sqlx::test(migrations = false)]
    async fn what_was_broken_off_is_finished_whether_it_had_happened_or_not(pool: MySqlPool) {
        let all = [
            "CREATE TABLE a (id INT PRIMARY KEY)",
            "ALTER TABLE a ADD COLUMN b INT, ADD KEY ix_b (b)",
            "ALTER TABLE a ADD CONSTRAINT ck_b CHECK (b > 0)",
        ];
        let noted = "INSERT INTO _a_test (version, description, success, checksum, execution_time) VALUES (?, '', 0, '', -1)";
        for version in 1..=3_usize {
            for has_happened in [false, true] {
                pool.execute("DROP TABLE IF EXISTS a, _a_test").await.expect("gone");
                migrate(&pool, migrator(&all[..version - 1]), BOOKS).await.expect("migrated");
                sqlx::query(noted).bind(version as i64).execute(&pool).await.expect("noted");
                if has_happened {
                    pool.execute(all[version - 1]).await.expect("done");
                }
                migrate(&pool, migrator(&all), BOOKS).await.expect("finished");
                migrate(&pool, migrator(&all), BOOKS).await.expect("and known to be");
                assert_eq!(count(&pool, "SELECT COUNT(*) FROM a WHERE b = 1").await, 0);
            }
        }
    }

    #[sqlx::test(migrations = false)]
    async fn a_migration_does_not_wait_behind_a_long_transaction_for_ever(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(options, 2);
        assert_eq!(count(&pool, "SELECT CAST(@@lock_wait_timeout AS SIGNED)").await, 5);
        let all = ["CREATE TABLE a (id INT PRIMARY KEY)", "ALTER TABLE a ADD COLUMN b INT"];
        migrate(&pool, migrator(&all[..1]), BOOKS).await.expect("migrated");
        let mut reader = pool.begin().await.expect("a transaction");
        reader.execute("SELECT * FROM a").await.expect("read");
        // As long as a test has.
        let mut connection = pool.acquire().await.expect("a connection");
        connection.execute("SET SESSION lock_wait_timeout = 1").await.expect("set");
        drop(connection);
        let refused = migrate(&pool, migrator(&all), BOOKS).await.expect_err("somebody reads it");
        assert!(refused.may_pass(), "{refused}");
        reader.rollback().await.expect("ended");
        migrate(&pool, migrator(&all), BOOKS).await.expect("migrated");
    }
}
