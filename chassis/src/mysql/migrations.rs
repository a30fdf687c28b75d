//! The tables brought up to date by whichever replica comes first, so that a start which was interrupted, refused or
//! overtaken by a newer version stands in the way of none after it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, MySqlPool};
use uuid::Uuid;

use super::failover::takes_writes;
use super::pool::{answer_within, take_time};
use super::{ATTEMPTS, DEADLOCK, is_away, is_lost_race, lock, server_code};

/// Seconds after which a replica that waits while another migrates says so.
const LOCK_SECONDS: i32 = 60;
/// How much longer than that its answer may take, and how long any other but that to a migration, which takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the server is asked meanwhile whether it is still at it.
const LOOK: Duration = Duration::from_secs(5);
/// How many such looks in vain mean that it is not.
const LOOKS: u32 = 2;
/// How often it is said that a migration goes on, in seconds.
const SAID: u64 = 60;
/// Seconds that a change of a table waits for those who have it. All who come after them wait behind it.
const TABLE_SECONDS: u32 = 1;
/// The same once a change took long before it met them: at its end that costs all of it. Others have three for a connection.
const TABLE_SECONDS_AFTER_LONG: u32 = 2;
/// What is long.
const LONG: Duration = Duration::from_secs(60);
/// What the server says of a table that is not there.
const NO_SUCH_TABLE: u16 = 1146;
/// How long those may go on before the change is tried again, give or take a quarter.
const PAUSE: Duration = Duration::from_secs(10);
/// How long after a deadlock, which holds nobody up.
const SHORT_PAUSE: Duration = Duration::from_millis(500);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the database refused: {0}")]
    Database(#[from] sqlx::Error),
    #[error("a migration failed: {0}")]
    Migration(#[from] MigrateError),
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
        }
    }
}

/// Brings the tables up to date, one replica at a time, and checks that the server refuses what it cannot store.
/// `bookkeeping` is the service's own table of applied migrations. Those of a newer version are left alone: each is made so
/// that the version before it can go on with it.
///
/// # Errors
/// When the database is away, a migration fails, or the SQL mode is not strict.
pub async fn migrate(
    pool: &MySqlPool,
    migrator: Migrator,
    bookkeeping: &'static str,
) -> Result<(), SetupError> {
    migrate_pausing(pool, &migrator, Books(bookkeeping), PAUSE).await
}

async fn migrate_pausing(
    pool: &MySqlPool,
    migrator: &Migrator,
    books: Books,
    pause: Duration,
) -> Result<(), SetupError> {
    let mut connection = pool.acquire().await?.detach();
    let asked = sqlx::query_as("SELECT @@SESSION.sql_mode, CONNECTION_ID()").fetch_one(&mut connection);
    let (mode, number): (String, u64) = answer_within(PATIENCE, asked).await?;
    if !mode.contains("STRICT_TRANS_TABLES") && !mode.contains("STRICT_ALL_TABLES") {
        return Err(SetupError::NotStrict(mode));
    }
    answer_within(PATIENCE, take_time(&mut connection)).await?;
    // A start that finds nothing to do does not wait for hours behind one that has: it serves meanwhile. On a server that takes no
    // writes it goes on, and is told so.
    let is_done = answer_within(PATIENCE, books.say_done(&mut connection, migrator)).await?;
    if is_done && answer_within(PATIENCE, takes_writes(&mut connection)).await? {
        let _ = answer_within(PATIENCE, connection.close()).await;
        return Ok(());
    }
    // sqlx's own lock asks for an endless wait, which MariaDB answers with NULL; this one works on both.
    let patience = Duration::from_secs(LOCK_SECONDS.unsigned_abs().into()) + PATIENCE;
    while !answer_within(patience, lock(&mut connection, books.0, LOCK_SECONDS)).await? {
        tracing::warn!(seconds = LOCK_SECONDS, "another replica still migrates; waiting on");
    }
    let server = Server { pool, number };
    let outcome = run(&mut connection, server, migrator, books, pause).await;
    // With it ends the lock; of a connection that broke the server has ended it.
    let _ = answer_within(PATIENCE, connection.close()).await;
    Ok(outcome?)
}

async fn wait_for_tables(connection: &mut MySqlConnection, seconds: u32) -> Result<(), sqlx::Error> {
    let patience = format!("SET SESSION lock_wait_timeout = {seconds}");
    answer_within(PATIENCE, connection.execute(AssertSqlSafe(patience))).await.map(drop)
}

/// What the server knows of the connection of the migrations, as others see it.
#[derive(Clone, Copy)]
struct Server<'p> {
    pool: &'p MySqlPool,
    number: u64,
}

impl Server<'_> {
    /// Waits for a migration, which may take hours: from the connection itself the silence of a server that works on it
    /// cannot be told from that of one which has vanished, or forgotten it in a failover.
    async fn wait<T>(
        self,
        version: i64,
        migration: impl Future<Output = Result<T, MigrateError>>,
    ) -> Result<T, MigrateError> {
        tokio::select! {
            outcome = migration => outcome,
            () = self.forgets(version) => Err(MigrateError::ExecuteMigration(
                sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into()),
                version,
            )),
        }
    }

    async fn forgets(self, version: i64) {
        let since = Instant::now();
        let (mut in_vain, mut to_be_said) = (0, SAID);
        while in_vain < LOOKS {
            tokio::time::sleep(LOOK).await;
            let seconds = since.elapsed().as_secs();
            match answer_within(PATIENCE, self.knows()).await {
                Ok(true) => {
                    in_vain = 0;
                    if seconds >= to_be_said {
                        tracing::warn!(version, seconds, "a migration takes long, and goes on");
                        to_be_said = seconds + SAID;
                    }
                }
                Ok(false) => in_vain += 1,
                Err(error) => {
                    tracing::warn!(%error, version, seconds, "whether a migration goes on cannot be asked");
                }
            }
        }
        tracing::warn!(version, "the server does not know the connection of a migration any more");
    }

    /// Also one that has come to an end with it, and whose answer was lost, does not know it any more.
    async fn knows(self) -> Result<bool, sqlx::Error> {
        let works =
            "SELECT COUNT(*) > 0 FROM information_schema.processlist WHERE id = ? AND command <> 'Sleep'";
        sqlx::query_scalar(works).bind(self.number).fetch_one(self.pool).await
    }
}

/// Not sqlx's own loop: that refuses every start after one that was broken off, and in an older version for the sake of a
/// migration that it does not even know.
async fn run(
    connection: &mut MySqlConnection,
    server: Server<'_>,
    migrator: &Migrator,
    books: Books,
    pause: Duration,
) -> Result<(), MigrateError> {
    answer_within(PATIENCE, connection.ensure_migrations_table(books.0)).await?;
    let notes = answer_within(PATIENCE, books.read(connection)).await?;
    for migration in migrator.iter() {
        match notes.get(&migration.version) {
            Some(note) if note.says_done(migration) => {}
            Some(note) if note.is_done => return Err(MigrateError::VersionMismatch(migration.version)),
            Some(_) => patiently(connection, server, migration, books, true, pause).await?,
            None => patiently(connection, server, migration, books, false, pause).await?,
        }
    }
    Ok(())
}

/// Tries until nobody is in the way. A migration is one statement, which has its whole effect or none, and is noted as begun
/// before. What `was_begun` by a process that did not live to hear what came of it keeps its note until that is known.
async fn patiently(
    connection: &mut MySqlConnection,
    server: Server<'_>,
    migration: &Migration,
    books: Books,
    was_begun: bool,
    pause: Duration,
) -> Result<(), MigrateError> {
    let version = migration.version;
    wait_for_tables(connection, TABLE_SECONDS).await?;
    if was_begun {
        tracing::warn!(version, "a migration was broken off; it is begun again");
    }
    let mut attempt = 1;
    loop {
        let since = Instant::now();
        let outcome = match was_begun {
            true => server.wait(version, again(connection, migration, books)).await,
            false => server.wait(version, connection.apply(books.0, migration)).await.map(drop),
        };
        let Err(MigrateError::ExecuteMigration(error, _)) = &outcome else { return outcome };
        let Some(code) = server_code(error) else { return outcome };
        if !was_begun {
            answer_within(PATIENCE, books.forget(connection, version)).await?;
        }
        match code {
            DEADLOCK if attempt == ATTEMPTS => return outcome,
            DEADLOCK => {
                attempt += 1;
                tracing::warn!(%error, version, "a migration met another change of its tables and is tried again");
                tokio::time::sleep(SHORT_PAUSE).await;
            }
            code if is_lost_race(code) => {
                if since.elapsed() > LONG {
                    wait_for_tables(connection, TABLE_SECONDS_AFTER_LONG).await?;
                }
                make_way(error, version, pause).await;
            }
            _ => return outcome,
        }
    }
}

/// Does what may have been done already. If so it cannot be done again, as the server then says.
async fn again(
    connection: &mut MySqlConnection,
    migration: &Migration,
    books: Books,
) -> Result<(), MigrateError> {
    match connection.execute(migration.sql.clone()).await {
        Err(error) if !has_happened(&error) => Err(MigrateError::ExecuteMigration(error, migration.version)),
        Ok(_) | Err(_) => Ok(books.believe(connection, migration).await?),
    }
}

/// Lets those go on who wait behind a change of their table that could not be made.
async fn make_way(error: &sqlx::Error, version: i64, pause: Duration) {
    let pause = pause.mul_f64(0.75 + f64::from(Uuid::new_v4().as_bytes()[0]) / 510.0);
    tracing::warn!(
        %error,
        version,
        pause_seconds = pause.as_secs(),
        "a transaction (a dump, a report) has the table of a migration, behind which all others wait; it is tried again"
    );
    tokio::time::sleep(pause).await;
}

/// The table in which a service notes its migrations, in sqlx's form.
#[derive(Clone, Copy)]
struct Books(&'static str);

struct Note {
    checksum: Vec<u8>,
    is_done: bool,
}

impl Note {
    fn says_done(&self, migration: &Migration) -> bool {
        self.is_done && self.checksum == *migration.checksum
    }
}

impl Books {
    /// Whether all migrations are done that this version knows.
    async fn say_done(self, connection: &mut MySqlConnection, migrator: &Migrator) -> sqlx::Result<bool> {
        match self.read(connection).await {
            Ok(notes) => Ok(migrator.iter().all(|migration| {
                notes.get(&migration.version).is_some_and(|note| note.says_done(migration))
            })),
            Err(error) if server_code(&error) == Some(NO_SUCH_TABLE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(self, connection: &mut MySqlConnection) -> sqlx::Result<BTreeMap<i64, Note>> {
        let question = format!("SELECT version, checksum, success FROM {}", self.0);
        let rows: Vec<(i64, Vec<u8>, bool)> =
            sqlx::query_as(AssertSqlSafe(question)).fetch_all(connection).await?;
        Ok(rows
            .into_iter()
            .map(|(version, checksum, is_done)| (version, Note { checksum, is_done }))
            .collect())
    }

    async fn forget(self, connection: &mut MySqlConnection, version: i64) -> sqlx::Result<()> {
        let forget = format!("DELETE FROM {} WHERE version = ? AND success = FALSE", self.0);
        sqlx::query(AssertSqlSafe(forget)).bind(version).execute(connection).await.map(drop)
    }

    async fn believe(self, connection: &mut MySqlConnection, migration: &Migration) -> sqlx::Result<()> {
        let believe = format!("UPDATE {} SET success = TRUE, checksum = ? WHERE version = ?", self.0);
        let believe = sqlx::query(AssertSqlSafe(believe)).bind(&*migration.checksum).bind(migration.version);
        believe.execute(connection).await.map(drop)
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
    use sqlx::migrate::MigrationType;
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

    use super::super::pool::pool_of;
    use super::super::ways::hanging;
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

    /// As a process does that dies then.
    async fn note_as_begun(pool: &MySqlPool, version: i64) {
        let note = "INSERT INTO _a_test (version, description, success, checksum, execution_time) VALUES (?, '', 0, '', -1)";
        sqlx::query(note).bind(version).execute(pool).await.expect("noted");
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
        for version in 1..=3_usize {
            for has_happened in [false, true] {
                pool.execute("DROP TABLE IF EXISTS a, _a_test").await.expect("gone");
                migrate(&pool, migrator(&all[..version - 1]), BOOKS).await.expect("migrated");
                note_as_begun(&pool, version as i64).await;
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
    async fn what_a_newer_version_had_begun_is_left_to_it(pool: MySqlPool) {
        let newer = ["CREATE TABLE a (id INT PRIMARY KEY)", "ALTER TABLE a ADD KEY ix_a (id)"];
        migrate(&pool, migrator(&newer[..1]), BOOKS).await.expect("migrated");
        note_as_begun(&pool, 2).await;
        pool.execute(newer[1]).await.expect("done");
        for _ in 0..2 {
            migrate(&pool, migrator(&newer[..1]), BOOKS).await.expect("an older replica starts");
        }
        migrate(&pool, migrator(&newer), BOOKS).await.expect("the newer one comes back");
        assert_eq!(count(&pool, "SELECT COUNT(*) FROM _a_test WHERE success").await, 2);
    }

    #[sqlx::test(migrations = false)]
    async fn what_was_made_by_another_hand_is_not_taken_for_a_migration(pool: MySqlPool) {
        let all =
            ["CREATE TABLE a (id INT PRIMARY KEY)", "ALTER TABLE a ADD KEY ix_a (id), ADD COLUMN b INT"];
        migrate(&pool, migrator(&all[..1]), BOOKS).await.expect("migrated");
        pool.execute("ALTER TABLE a ADD KEY ix_a (id)").await.expect("done");
        let refused = migrate(&pool, migrator(&all), BOOKS).await.expect_err("there is no column");
        assert!(!refused.may_pass(), "{refused}");
        pool.execute("ALTER TABLE a DROP KEY ix_a").await.expect("undone");
        migrate(&pool, migrator(&all), BOOKS).await.expect("migrated");
    }

    #[sqlx::test(migrations = false)]
    async fn a_migration_does_not_wait_behind_a_long_transaction_for_ever(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let pool = pool_of(options, 3);
        let all = ["CREATE TABLE a (id INT PRIMARY KEY)", "ALTER TABLE a ADD COLUMN b INT"];
        migrate(&pool, migrator(&all[..1]), BOOKS).await.expect("migrated");
        let mut report = pool.begin().await.expect("a transaction");
        report.execute("SELECT * FROM a").await.expect("read");

        // As long as it is in the way, others wait behind the change for a second, and then go on.
        let migrator = migrator(&all);
        let change = migrate_pausing(&pool, &migrator, Books(BOOKS), Duration::from_secs(1));
        let others = async {
            while count(&pool, "SELECT COUNT(*) FROM _a_test WHERE NOT success").await == 0 {}
            let mut longest = Duration::ZERO;
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(4) {
                let asked = Instant::now();
                count(&pool, "SELECT COUNT(*) FROM a").await;
                longest = longest.max(asked.elapsed());
            }
            report.rollback().await.expect("ended");
            longest
        };
        let (changed, longest) = tokio::join!(change, others);
        assert!(longest < Duration::from_secs(3), "{longest:?}");
        changed.expect("made once nobody is in the way");
        assert_eq!(count(&pool, "SELECT COUNT(*) FROM _a_test WHERE success").await, 2);
    }

    #[sqlx::test(migrations = false)]
    async fn a_migration_that_the_server_has_forgotten_is_waited_for_no_more(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        let (way, statements) = hanging(&options, "# the end").await;
        statements.allowed.close();
        let all = ["CREATE TABLE a (id INT PRIMARY KEY) # the end"];
        let vanished =
            migrate(&pool_of(way, 1), migrator(&all), BOOKS).await.expect_err("the server vanished");
        assert!(vanished.may_pass(), "{vanished}");
        let pool = pool_of(options, 1);
        migrate(&pool, migrator(&all), BOOKS).await.expect("migrated");
        assert_eq!(count(&pool, "SELECT COUNT(*) FROM _a_test WHERE success").await, 1);
    }

    #[sqlx::test(migrations = false)]
    async fn a_migration_may_take_its_time(_: MySqlPoolOptions, options: MySqlConnectOptions) {
        let pool = pool_of(options, 2);
        let long = ["CREATE TABLE a AS SELECT SLEEP(12) AS id"];
        migrate(&pool, migrator(&long), BOOKS).await.expect("migrated");
        assert_eq!(count(&pool, "SELECT COUNT(*) FROM a WHERE id = 0").await, 1);
    }

    #[sqlx::test(migrations = false)]
    async fn a_start_with_nothing_to_do_does_not_wait_for_one_that_migrates(pool: MySqlPool) {
        let all = ["CREATE TABLE a (id INT PRIMARY KEY)"];
        migrate(&pool, migrator(&all), BOOKS).await.expect("migrated");
        let mut other = pool.acquire().await.expect("a connection");
        assert!(lock(&mut other, BOOKS, 0).await.expect("a server"));
        let start = answer_within(PATIENCE, async {
            migrate(&pool, migrator(&all), BOOKS)
                .await
                .map_err(|error| sqlx::Error::Protocol(error.to_string()))
        });
        start.await.expect("at once");
    }
}
