//! The sessions of another account: seeing them, and ending them all.

use chassis::mysql::{failed, transaction};
use contract::Outcome;
use contract::identity::Session;
use serde_json::json;
use sqlx::MySqlConnection;

use super::Actor;
use crate::accounts;
use crate::audit::{self, Action};
use crate::identity::Identity;
use crate::sessions::{Because, close};

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
pub async fn count(connection: &mut MySqlConnection, user_id: &str) -> Outcome<i64> {
    sqlx::query_scalar!(
        "SELECT COUNT(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL AND expires_at > UTC_TIMESTAMP(6)",
        user_id
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
    let given = (actor, user_id);
    transaction(&identity.pool, "end_sessions", given, |tx, (actor, user_id)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            accounts::lock(tx, user_id).await?;
            let ended = close(tx, user_id, None, Because::Administrator).await?;
            let sequence = ended.announce(tx, user_id, actor.by()).await?;
            let details = json!({ "sessions": ended.count() });
            audit::record(tx, actor.by(), Action::SessionsEnded, Some(user_id), sequence, details).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}
