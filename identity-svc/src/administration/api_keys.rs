//! The API keys of another account: seeing them, and ending one.

use chassis::mysql::{failed, transaction};
use contract::Outcome;
use contract::identity::ApiKey;

use super::Actor;
use crate::identity::Identity;
use crate::{accounts, api_keys};

/// The API keys of an account, the newest first.
///
/// # Errors
/// AUTH004, USER001.
pub async fn list(identity: &Identity, actor: &Actor, user_id: &str) -> Outcome<Vec<ApiKey>> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    accounts::find(&mut connection, user_id).await?;
    api_keys::list(&mut connection, user_id).await
}

/// Ends a key of an account; tokens that stand for it die within a second.
///
/// # Errors
/// AUTH004, USER001; REQ002 when the account has no such key.
pub async fn revoke(identity: &Identity, actor: &Actor, user_id: &str, id: &str) -> Outcome<()> {
    let given = (actor, user_id, id);
    transaction(&identity.pool, "revoke_user_api_key", given, |tx, (actor, user_id, id)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            api_keys::revoke_in(tx, user_id, id, actor.by()).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}
