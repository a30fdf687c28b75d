//! A database that was set back: by a restore, or by a failover that lost what had just committed. Numbers of events
//! and versions of claims are given out a second time then, and tokens are about that the tables know nothing of. So a
//! new epoch begins: every edge and replica starts over, and the first event of the epoch has edges ask about each
//! caller until the last token of before has expired.

use std::error::Error;
use std::time::Duration;

use chassis::mysql::{failed, transaction};
use clap::Args;
use contract::Outcome;
use contract::identity::Position;
use serde_json::json;
use sqlx::{MySqlConnection, MySqlPool};
use uuid::Uuid;

use crate::audit::{self, Action, By};
use crate::events::{self, Change};
use crate::sessions::{self, Because};
use crate::token_lives::{self, Noted};

/// After a restore of the database, before the services are started.
#[derive(Args)]
pub struct Command {
    /// Sessions that were open when the backup was made go on, those that were ended since then, too.
    #[arg(long)]
    keep_sessions: bool,
}

/// Brings the tables that were restored up to date and runs the command for a platform whose access tokens live so long.
/// Running it again does no harm.
///
/// # Errors
/// That the database is away, or that nothing was restored.
pub async fn run(pool: &MySqlPool, life: Duration, command: Command) -> Result<(), Box<dyn Error>> {
    must_be_filled(pool).await?;
    crate::migrate(pool).await?;
    let ended =
        begin_anew(pool, life, command.keep_sessions).await.map_err(|failure| format!("{failure:?}"))?;
    if let Some(ended) = ended {
        println!("{ended} sessions were ended: everybody signs in again");
    }
    println!("a new epoch has begun: edges ask about each caller until all tokens of before have expired");
    Ok(())
}

/// A restore that failed leaves nothing, or what came before the fault: migrating that would make an empty platform which
/// looks as if all were well.
async fn must_be_filled(pool: &MySqlPool) -> Result<(), Box<dyn Error>> {
    let (_, applied) = crate::migrations();
    for table in [applied, "users"] {
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
        )
        .bind(table)
        .fetch_one(pool)
        .await?;
        if found == 0 {
            return Err(
                format!("nothing was restored here, or not all: the schema has no table `{table}`").into()
            );
        }
    }
    let somebody: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM users LIMIT 1").fetch_optional(pool).await?;
    if somebody.is_none() {
        return Err("nothing was restored here, or not all: the table `users` is empty".into());
    }
    Ok(())
}

/// Ends all sessions, unless they are kept, and begins a new epoch. Gives how many were ended.
async fn begin_anew(pool: &MySqlPool, life: Duration, keep_sessions: bool) -> Outcome<Option<u64>> {
    Noted::default().note(pool, life).await?;
    // Without an event for each: edges ask about all callers.
    let ended = if keep_sessions { None } else { Some(sessions::end_everybodys(pool).await?) };
    transaction(pool, "restored", ended, |tx, ended| {
        Box::pin(async move {
            sqlx::query!("UPDATE auth_sequence SET epoch = ? WHERE id = 1", Uuid::new_v4().to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            let sequence = begin(tx).await?;
            if let Some(ended) = ended {
                let details = json!({ "sessions": ended, "because": Because::Restored.name() });
                audit::record(tx, By::SYSTEM, Action::SessionsEnded, None, Some(sequence), details).await?;
            }
            Ok(())
        })
    })
    .await?;
    Ok(ended)
}

/// Begins a new epoch if the table is behind a position that was read from it, and says whether it did. That is decided
/// where the table is written, under the lock of its one row: a reading that lags is no reason, and of replicas that
/// see it at once one begins it.
///
/// # Errors
/// GW001 when the database is away.
pub async fn start_over(pool: &MySqlPool, known: &Position) -> Outcome<bool> {
    transaction(pool, "start_over", known, |tx, known| {
        Box::pin(async move {
            let set_back = sqlx::query!(
                "UPDATE auth_sequence SET epoch = ? WHERE id = 1 AND epoch = ? AND last_sequence < ?",
                Uuid::new_v4().to_string(),
                known.epoch,
                known.sequence
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            let is_behind = set_back.rows_affected() > 0;
            if is_behind {
                begin(tx).await?;
            }
            Ok(is_behind)
        })
    })
    .await
}

/// Writes the first event of an epoch, and gives its number.
async fn begin(tx: &mut MySqlConnection) -> Outcome<i64> {
    // The table may say that all tokens have expired; those are alive that were given out until a moment ago.
    token_lives::revive(tx).await?;
    events::append(tx, "", &Change::Restored).await
}

#[cfg(test)]
mod tests {
    use contract::identity::auth_event::Change as Wire;

    use super::*;
    use crate::events::Log;
    use crate::snapshots::Snapshots;
    use crate::tail;
    use crate::tests::{identity, register};

    #[sqlx::test(migrations = false)]
    async fn a_schema_into_which_nothing_was_restored_is_not_made_a_platform(pool: MySqlPool) {
        let restored = async || {
            let command = Command { keep_sessions: false };
            run(&pool, Duration::from_secs(900), command).await.map_err(|error| error.to_string())
        };
        let tables = async || -> i64 {
            let count = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
            sqlx::query_scalar(count).fetch_one(&pool).await.expect("a count")
        };
        let refused = restored().await.expect_err("there is nothing");
        assert!(refused.contains("no table `_identity_migrations`"), "{refused}");
        assert_eq!(tables().await, 0);
        crate::migrate(&pool).await.expect("migrated");
        let refused = restored().await.expect_err("tables without rows");
        assert!(refused.contains("`users` is empty"), "{refused}");
        register(&identity(pool.clone()).await, "ada@example.com").await;
        restored().await.expect("a whole backup");
        // A dump has its tables by their names, so that one which broke off has the first of them.
        let mut connection = pool.acquire().await.expect("a connection");
        let drop = "SET FOREIGN_KEY_CHECKS = 0; DROP TABLE users, user_profiles; SET FOREIGN_KEY_CHECKS = 1";
        sqlx::raw_sql(drop).execute(&mut *connection).await.expect("gone");
        let all = tables().await;
        let refused = restored().await.expect_err("half a backup");
        assert!(refused.contains("no table `users`"), "{refused}");
        assert_eq!(tables().await, all);
    }

    /// Sets the end of the table.
    async fn set_back(pool: &MySqlPool, sequence: i64) {
        let set = sqlx::query("UPDATE auth_sequence SET last_sequence = ?").bind(sequence).execute(pool);
        set.await.expect("set back");
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn a_table_that_was_set_back_begins_one_new_epoch_which_says_so_first(pool: MySqlPool) {
        set_back(&pool, 9).await;
        let known = pool.ends().await.expect("read").0;
        set_back(&pool, 4).await;
        // The platform has tokens of which the backup says that they have all expired.
        sqlx::query("INSERT INTO token_lives (life, good_until) VALUES (900, '2020-01-01')")
            .execute(&pool)
            .await
            .expect("a life");
        assert!(tail::resume(&pool, &known).await.expect("read").is_none());
        assert!(!pool.start_over(&known).await.expect("looked"), "another replica sees it, too");
        let mut snapshot = Snapshots::new(pool.clone()).begin().await.expect("begun");
        let part = snapshot.part().await.expect("a part");
        let position = part.position.expect("a position");
        assert!(position.epoch != known.epoch && position.sequence == 5, "{position:?}");
        let [event] = part.events.as_slice() else { panic!("{:?}", part.events) };
        assert!(matches!(event.change, Some(Wire::Restored(_))));
        let seconds = |at: &Option<prost_types::Timestamp>| at.as_ref().map_or(0, |at| at.seconds);
        assert!(seconds(&event.forget_at) - seconds(&event.at) >= 900, "for as long as a token lives");
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn a_tail_that_sees_the_table_set_back_starts_over(pool: MySqlPool) {
        set_back(&pool, 9).await;
        let identity = identity(pool.clone()).await;
        let mut readings = identity.tail.readings();
        tokio::spawn(identity.tail.clone().follow(pool.clone()));
        let known =
            readings.wait_for(Option::is_some).await.expect("the tail runs").clone().expect("a position");
        set_back(&pool, 4).await;
        let is_new = |read: &Option<Position>| read.as_ref().is_some_and(|read| read.epoch != known.epoch);
        let read = tokio::time::timeout(Duration::from_secs(10), readings.wait_for(is_new)).await;
        let read = read.expect("a new epoch").expect("the tail runs").clone().expect("a position");
        assert_eq!(read.sequence, 5);
    }

    /// What is read may be older than what was read before; what is written is not.
    #[sqlx::test(migrations = "./migrations")]
    async fn a_reading_that_lags_is_not_taken_for_a_restore(pool: MySqlPool) {
        set_back(&pool, 9).await;
        let known = pool.ends().await.expect("read").0;
        assert!(!pool.start_over(&known).await.expect("looked"));
        assert_eq!(pool.ends().await.expect("read").0, known);
    }
}
