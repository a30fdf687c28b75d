//! How long access tokens live. Replicas may be started with another life than before, or each with its own for a
//! while, and all tokens are good for as long as they say: what must bind on them is kept for the longest-lived.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chassis::clock::{agreed_with, now, shared};
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::{Failure, Outcome};
use sqlx::{MySqlConnection, MySqlPool};

use crate::sweep;

/// How often a replica writes down that it goes on giving out tokens.
const INTERVAL: Duration = Duration::from_secs(60);
/// How far ahead it does so: as long as this may pass without, no token costs a write.
const AHEAD: Duration = Duration::from_secs(600);

/// Up to when this replica has written down that its tokens may live, in seconds since 1970. Cheap to clone.
#[derive(Clone, Default)]
pub struct Noted(Arc<AtomicI64>);

impl Noted {
    /// Sees to it, before a token is given out, that the table knows of it.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn cover(
        &self,
        tx: &mut MySqlConnection,
        life: Duration,
        expires: DateTime<Utc>,
    ) -> Outcome<()> {
        if self.covers(expires) {
            return Ok(());
        }
        // Not noted as written: the transaction may yet be rolled back.
        write(tx, life, expires + AHEAD).await
    }

    /// Whether the table knows of a token that expires then.
    pub fn covers(&self, expires: DateTime<Utc>) -> bool {
        expires.timestamp() < self.0.load(Ordering::Relaxed)
    }

    /// Writes down that tokens of this life are given out from now on.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn note(&self, pool: &MySqlPool, life: Duration) -> Outcome<()> {
        let good_until = now() + life + AHEAD;
        transaction(pool, "token_life", (life, good_until), |tx, (life, good_until)| {
            Box::pin(write(tx, *life, *good_until))
        })
        .await?;
        self.0.fetch_max(good_until.timestamp(), Ordering::Relaxed);
        Ok(())
    }

    /// Goes on writing it down for as long as the process lives.
    pub async fn keep(self, pool: MySqlPool, life: Duration) {
        loop {
            if let Err(failure) = self.note(&pool, life).await {
                tracing::warn!(cause = ?failure.cause(), "the life of tokens was not written down: {failure}");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

async fn write(connection: &mut MySqlConnection, life: Duration, good_until: DateTime<Utc>) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO token_lives (life, good_until) VALUES (?, ?)
         ON DUPLICATE KEY UPDATE good_until = GREATEST(good_until, VALUES(good_until))",
        i64::try_from(life.as_secs()).map_err(Failure::internal)?,
        good_until
    )
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Removes lives that no token can be of any more, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "former lives of tokens", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM token_lives WHERE good_until < ? LIMIT 1000", now - AHEAD);
    Box::pin(old.execute(connection))
}

/// Takes tokens of every life in the table for given out until now, whatever it says: a table that was restored knows
/// nothing of those since the backup.
///
/// # Errors
/// GW001 when the database is away.
pub async fn revive(tx: &mut MySqlConnection) -> Outcome<()> {
    sqlx::query!(
        "UPDATE token_lives SET good_until = GREATEST(good_until, UTC_TIMESTAMP(6) + INTERVAL (life + ?) SECOND)",
        i64::try_from(AHEAD.as_secs()).map_err(Failure::internal)?
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// The tokens that may be alive at one moment.
pub struct Alive {
    /// That moment, by the clock of the database.
    pub at: DateTime<Utc>,
    /// When the oldest of them was given out, at the earliest: by that clock or ours, whichever is behind, as what ends while
    /// one of them is ahead must bind on them all the same.
    pub since: DateTime<Utc>,
    /// When the last of them has expired, by the clock of the database.
    pub until: DateTime<Utc>,
}

/// Which tokens, of any replica, may be alive now.
///
/// # Errors
/// GW001 when the database is away.
pub async fn alive(connection: &mut MySqlConnection) -> Outcome<Alive> {
    let shared = shared(connection).await.map_err(failed)?;
    let agreed = agreed_with(shared);
    let lives = sqlx::query!(
        r#"SELECT life, good_until AS "good_until: DateTime<Utc>" FROM token_lives WHERE good_until > ?"#,
        agreed
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let mut alive = Alive { at: shared, since: agreed, until: shared };
    for row in lives {
        let life = chrono::Duration::seconds(i64::from(row.life));
        alive.since = alive.since.min(agreed - life);
        alive.until = alive.until.max(shared + (row.good_until - agreed).min(life));
    }
    Ok(alive)
}
