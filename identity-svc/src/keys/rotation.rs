//! `identity-svc keys`: rotating without a request that fails. The new key is made known first and signs only once
//! every live edge and replica accepts it; the old one is accepted until its last token has expired.

use std::error::Error;
use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use contract::{Failure, Outcome};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{MySqlConnection, MySqlPool};
use uuid::Uuid;

use super::{Settings, describe, insert, sealed};
use crate::audit::{self, Action, By};
use crate::{sweep, token_lives};

/// Somebody who has not been heard for this long is not alive. In seconds, as the database counts.
const ALIVE: i64 = 15;
/// How long it is known who was.
const HOLDERS_KEPT: Duration = Duration::from_secs(3600);
/// For how much longer than its last token lives the old key is accepted: replicas learn of the new one within seconds.
const MARGIN: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Who is missing when nobody is alive: edges are only heard through it.
const NOBODY_RUNS: &str = "identity-svc, of which no replica runs";

#[derive(Subcommand)]
pub enum Command {
    /// Has a new key sign, once every live edge and replica accepts it. With another JWT_ALGORITHM than before: moves
    /// to it. Run again after an interruption, it goes on where it was.
    Rotate {
        /// Seconds to wait for edges and replicas before giving up; the old key then goes on signing.
        #[arg(long, default_value_t = 120)]
        wait: u64,
        /// Waits for nobody, for when no identity-svc runs, as none can open the key that signs: the secret that it was
        /// sealed with is lost. Its tokens are good until they expire.
        #[arg(long, conflicts_with = "wait")]
        at_once: bool,
    },
    /// Shows the keys, one JSON object a line.
    List,
}

/// A key as `list` shows it.
pub struct Listed {
    pub kid: String,
    pub algorithm: String,
    pub state: String,
    pub created_at: String,
    pub retire_at: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When the database is away, or somebody did not take the new key in time.
pub async fn run(pool: &MySqlPool, settings: &Settings, command: Command) -> Result<(), Box<dyn Error>> {
    let told = |failure: Failure| match failure.cause() {
        Some(cause) => format!("{failure}: {cause}"),
        None => failure.to_string(),
    };
    match command {
        Command::List => {
            for key in list(pool).await.map_err(told)? {
                println!("{}", describe(&key));
            }
            Ok(())
        }
        Command::Rotate { wait, at_once } => {
            let kid = prepare(pool, settings).await.map_err(told)?;
            if at_once {
                let missing = without(pool, &kid).await.map_err(told)?;
                if !missing.is_empty() && missing != [NOBODY_RUNS] {
                    let missing = missing.join(", ");
                    return Err(format!("these run, or ran until a moment ago: {missing}; stop every identity-svc, wait for 15 seconds and try again, or rotate without --at-once").into());
                }
            } else {
                println!("The new key {kid} ({}) waits until everybody has it.", settings.algorithm);
                until_known(pool, &kid, Duration::from_secs(wait)).await?;
            }
            activate(pool, settings, &kid).await.map_err(told)?;
            println!("It signs from now on. Tokens of the old key are good until they expire.");
            Ok(())
        }
    }
}

/// Makes the next key known, or gives the one that already is.
async fn prepare(pool: &MySqlPool, settings: &Settings) -> Outcome<String> {
    transaction(pool, "prepare_key", settings, |tx, settings| {
        Box::pin(async move {
            lock(tx).await?;
            let pending = sqlx::query!(
                "SELECT kid, algorithm, sealed_private_key FROM signing_keys WHERE state = 'pending'"
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
            if let Some(pending) = pending {
                // Only the secret of today stays: with a former one it could not be read any more one day.
                let secret = std::slice::from_ref(settings.secret()?);
                let sealed = &pending.sealed_private_key;
                let is_readable = sealed.is_empty() || sealed::open(secret, &pending.kid, sealed).is_ok();
                if pending.algorithm == settings.algorithm.name() && is_readable {
                    return Ok(pending.kid);
                }
                sqlx::query!("DELETE FROM signing_keys WHERE kid = ?", pending.kid)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
            }
            let kid = Uuid::now_v7().to_string();
            insert(tx, settings, &kid, "pending").await?;
            Ok(kid)
        })
    })
    .await
}

/// Waits until everybody who is alive accepts the key.
async fn until_known(pool: &MySqlPool, kid: &str, limit: Duration) -> Result<(), String> {
    let mut shown = String::new();
    let waited = async {
        loop {
            let missing = without(pool, kid).await.map_err(|failure| failure.to_string())?;
            if missing.is_empty() {
                return Ok(());
            }
            let line = format!("Waiting for {}.", missing.join(", "));
            if line != shown {
                println!("{line}");
                shown = line;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let outcome = tokio::time::timeout(limit, waited).await;
    outcome
        .unwrap_or_else(|_| Err("not everybody took the new key in time; the old one goes on signing".into()))
}

async fn without(pool: &MySqlPool, kid: &str) -> Outcome<Vec<String>> {
    let holders = sqlx::query!(
        r#"SELECT name, key_ids AS "key_ids: Json<Vec<String>>" FROM key_holders
           WHERE seen_at > UTC_TIMESTAMP(6) - INTERVAL ? SECOND ORDER BY name"#,
        ALIVE
    )
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    if holders.is_empty() {
        return Ok(vec![NOBODY_RUNS.to_owned()]);
    }
    let missing = holders.into_iter().filter(|holder| !holder.key_ids.0.iter().any(|held| held == kid));
    Ok(missing.map(|holder| holder.name).collect())
}

async fn activate(pool: &MySqlPool, settings: &Settings, kid: &str) -> Outcome<()> {
    transaction(pool, "activate_key", (settings, kid), |tx, (settings, kid)| {
        Box::pin(async move {
            lock(tx).await?;
            let (now, kid) = (now(), *kid);
            let last_token = token_lives::alive(tx).await?.until;
            sqlx::query!(
                "UPDATE signing_keys SET state = 'retired', retire_at = ? WHERE state = 'active'",
                last_token + MARGIN
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            let done = sqlx::query!(
                "UPDATE signing_keys SET state = 'active', activated_at = ? WHERE kid = ? AND state = 'pending'",
                now,
                kid
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            if done.rows_affected() != 1 {
                // Rolls the retirement back.
                return Err(Failure::internal("another rotation has taken the new key away"));
            }
            let details = json!({ "kid": kid, "algorithm": settings.algorithm.name() });
            audit::record(tx, By::SYSTEM, Action::KeyRotated, None, None, details).await
        })
    })
    .await
}

/// One rotation at a time.
async fn lock(tx: &mut MySqlConnection) -> Outcome<()> {
    sqlx::query!("SELECT kid FROM signing_keys ORDER BY kid FOR UPDATE")
        .fetch_all(tx)
        .await
        .map(drop)
        .map_err(failed)
}

async fn list(pool: &MySqlPool) -> Outcome<Vec<Listed>> {
    let rows = sqlx::query!(
        r#"SELECT kid, algorithm, state, created_at AS "created_at: DateTime<Utc>",
                  retire_at AS "retire_at: DateTime<Utc>"
           FROM signing_keys ORDER BY created_at DESC, kid"#
    )
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let listed = rows.into_iter().map(|row| Listed {
        kid: row.kid,
        algorithm: row.algorithm,
        state: row.state,
        created_at: text(row.created_at),
        retire_at: row.retire_at.map(text),
    });
    Ok(listed.collect())
}

/// Removes keys whose last token has expired and holders that are long gone, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    let keys = sweep::sweep(pool.clone(), "old signing keys", forget);
    let holders = sweep::sweep(pool, "edges that are gone", forget_holders);
    tokio::join!(keys, holders);
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old =
        sqlx::query!("DELETE FROM signing_keys WHERE state = 'retired' AND retire_at < ? LIMIT 1000", now);
    Box::pin(old.execute(connection))
}

/// As [`forget`], of those who held them.
pub fn forget_holders(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM key_holders WHERE seen_at < ? LIMIT 1000", now - HOLDERS_KEPT);
    Box::pin(old.execute(connection))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::keys::hold;
    use crate::tests::seen_from;

    #[sqlx::test(migrations = "./migrations")]
    async fn who_told_a_replica_that_was_ahead_is_waited_for_until_gone_and_no_longer(pool: MySqlPool) {
        let holder = |name: &str| BTreeMap::from([(name.to_owned(), Vec::new())]);
        let before = seen_from(&pool, 61).await;
        hold(&before, &holder("edge gone")).await.expect("noted");
        assert_eq!(without(&before, "k").await.expect("read"), ["edge gone"]);
        hold(&pool, &holder("edge here")).await.expect("noted");
        assert_eq!(without(&pool, "k").await.expect("read"), ["edge here"]);
    }
}
