//! The sessions of another account: seeing them, and ending them all.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Duration, Utc};
use contract::identity::Session;
use contract::{Failure, Outcome};
use serde_json::json;
use sqlx::MySqlConnection;

use super::Actor;
use crate::accounts;
use crate::audit::{self, Action};
use crate::events::{self, Change};
use crate::identity::Identity;

/// How much the clocks of two replicas may differ.
const SKEW: Duration = Duration::seconds(60);

/// The open sessions of an account, the one seen last first.
///
/// # Errors
/// AUTH004, USER001.
pub async fn list(identity: &Identity, actor: &Actor, user_id: &str) -> Outcome<Vec<Session>> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    accounts::find(&mut connection, user_id).await?;
    crate::sessions::list(&mut connection, user_id).await
}

/// How many sessions of an account are open.
pub async fn count(connection: &mut MySqlConnection, user_id: &str, now: DateTime<Utc>) -> Outcome<i64> {
    sqlx::query_scalar!(
        "SELECT COUNT(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL AND expires_at > ?",
        user_id,
        now
    )
    .fetch_one(connection)
    .await
    .map_err(failed)
}

/// Ends all sessions of an account.
///
/// # Errors
/// AUTH004, USER001.
pub async fn end_all(identity: &Identity, actor: &Actor, user_id: &str) -> Outcome<()> {
    let given = (identity, actor, user_id);
    transaction(&identity.pool, "end_sessions", given, |tx, (identity, actor, user_id)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            accounts::lock(tx, user_id).await?;
            let ended = close(tx, user_id, "administrator").await?;
            let sequence = ended.announce(tx, identity, user_id).await?;
            let details = json!({ "sessions": ended.count() });
            audit::record(tx, actor.by(), Action::SessionsEnded, Some(user_id), sequence, details).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Sessions that were ended in a transaction.
pub struct Ended(Vec<Open>);

struct Open {
    id: String,
    last_seen_at: DateTime<Utc>,
}

/// Ends the open sessions of an account that the caller has locked. Tokens already issued die with
/// [`announce`](Ended::announce), which comes last.
pub async fn close(tx: &mut MySqlConnection, user_id: &str, because: &'static str) -> Outcome<Ended> {
    let open = sqlx::query_as!(
        Open,
        r#"SELECT id, last_seen_at AS "last_seen_at: DateTime<Utc>" FROM sessions
           WHERE user_id = ? AND ended_at IS NULL ORDER BY id FOR UPDATE"#,
        user_id
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    if !open.is_empty() {
        sqlx::query!(
            "UPDATE sessions SET ended_at = ?, ended_because = ? WHERE user_id = ? AND ended_at IS NULL",
            now(),
            because,
            user_id
        )
        .execute(tx)
        .await
        .map_err(failed)?;
    }
    Ok(Ended(open))
}

impl Ended {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Has the ends bind on tokens already issued, and gives the number of the last event. A session that has not
    /// been refreshed for longer than an access token lives has none, and is not spoken of.
    pub async fn announce(
        &self,
        tx: &mut MySqlConnection,
        identity: &Identity,
        user_id: &str,
    ) -> Outcome<Option<i64>> {
        let life = identity.tokens.lifetimes.access_token;
        let since = now() - SKEW - Duration::from_std(life).map_err(Failure::internal)?;
        let mut last = None;
        for session in self.0.iter().filter(|session| session.last_seen_at > since) {
            let change = Change::SessionEnded { session_id: session.id.clone() };
            last = Some(events::append(tx, user_id, &change, life).await?);
        }
        Ok(last)
    }
}
