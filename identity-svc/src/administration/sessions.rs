//! The sessions of another account: seeing them, and ending them all.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Duration, Utc};
use contract::identity::{ListUserSessionsResponse, UserSession};
use contract::{Failure, Outcome, to_timestamp};
use serde_json::json;
use sqlx::MySqlConnection;

use super::{Actor, lock};
use crate::accounts;
use crate::audit::{self, Action};
use crate::events::{self, Change};
use crate::identity::Identity;

/// Most sessions of one answer.
const MOST: i64 = 100;
/// How much the clocks of two replicas may differ.
const SKEW: Duration = Duration::seconds(60);

/// The open sessions of an account, newest first.
///
/// # Errors
/// AUTH004, USER001.
pub async fn list(identity: &Identity, actor: &Actor, user_id: &str) -> Outcome<ListUserSessionsResponse> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    accounts::find(&mut connection, user_id).await?;
    let now = now();
    let rows = sqlx::query!(
        r#"SELECT id, created_at AS "created_at: DateTime<Utc>", last_seen_at AS "last_seen_at: DateTime<Utc>",
                  expires_at AS "expires_at: DateTime<Utc>", ip_address, user_agent
           FROM sessions WHERE user_id = ? AND ended_at IS NULL AND expires_at > ?
           ORDER BY id DESC LIMIT ?"#,
        user_id,
        now,
        MOST
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let sessions = rows
        .into_iter()
        .map(|row| UserSession {
            id: row.id,
            created_at: Some(to_timestamp(row.created_at)),
            last_seen_at: Some(to_timestamp(row.last_seen_at)),
            expires_at: Some(to_timestamp(row.expires_at)),
            ip_address: row.ip_address,
            user_agent: row.user_agent,
        })
        .collect();
    Ok(ListUserSessionsResponse { sessions, count: count(&mut connection, user_id, now).await? })
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
            lock(tx, user_id).await?;
            let ended = close(tx, user_id, "administrator").await?;
            let sequence = ended.announce(tx, identity, user_id).await?;
            let details = json!({ "sessions": ended.count() });
            audit::record(tx, actor.by(), Action::SessionsEnded, user_id, sequence, details).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Sessions that were ended in a transaction.
pub struct Ended(Vec<Session>);

struct Session {
    id: String,
    last_seen_at: DateTime<Utc>,
}

/// Ends the open sessions of an account that the caller has locked. Tokens already issued die with
/// [`announce`](Ended::announce), which comes last.
pub async fn close(tx: &mut MySqlConnection, user_id: &str, because: &'static str) -> Outcome<Ended> {
    let open = sqlx::query_as!(
        Session,
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
