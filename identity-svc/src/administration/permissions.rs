//! Granting permissions and taking them away. Both bind on tokens already issued.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::{Failure, KNOWN_PERMISSIONS, Outcome};
use serde_json::json;
use sqlx::MySqlConnection;

use super::Actor;
use crate::audit::{self, Action};
use crate::identity::Identity;
use crate::{accounts, claims};

/// Grants a permission and gives all that the account holds now.
///
/// # Errors
/// AUTH004, USER001; REQ001 for a permission that nobody knows.
pub async fn grant(
    identity: &Identity,
    actor: &Actor,
    user_id: &str,
    permission: &str,
) -> Outcome<Vec<String>> {
    let given = (actor, user_id, permission);
    let work = "grant_permission";
    let held = transaction(&identity.pool, work, given, |tx, (actor, user_id, permission)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            must_be_known(tx, permission).await?;
            accounts::lock(tx, user_id).await?;
            if !is_granted(tx, user_id, permission).await? {
                sqlx::query!(
                    "INSERT INTO user_permissions (user_id, permission, granted_at) VALUES (?, ?, ?)",
                    user_id,
                    permission,
                    now()
                )
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
                let sequence = claims::announce(tx, user_id).await?;
                let details = json!({ "permission": permission });
                let granted = Action::PermissionGranted;
                audit::record(tx, actor.by(), granted, Some(user_id), Some(sequence), details).await?;
            }
            Ok(accounts::find(tx, user_id).await?.permissions)
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(held)
}

/// Takes a permission away; one that is not held is gone already.
///
/// # Errors
/// AUTH004, USER001; REQ001 for a permission that nobody knows.
pub async fn revoke(identity: &Identity, actor: &Actor, user_id: &str, permission: &str) -> Outcome<()> {
    let given = (actor, user_id, permission);
    let work = "revoke_permission";
    transaction(&identity.pool, work, given, |tx, (actor, user_id, permission)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            must_be_known(tx, permission).await?;
            accounts::lock(tx, user_id).await?;
            if !is_granted(tx, user_id, permission).await? {
                return Ok(());
            }
            sqlx::query!(
                "DELETE FROM user_permissions WHERE user_id = ? AND permission = ?",
                user_id,
                permission
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            let sequence = claims::announce(tx, user_id).await?;
            let details = json!({ "permission": permission });
            audit::record(tx, actor.by(), Action::PermissionRevoked, Some(user_id), Some(sequence), details)
                .await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

async fn is_granted(tx: &mut MySqlConnection, user_id: &str, permission: &str) -> Outcome<bool> {
    let held = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM user_permissions WHERE user_id = ? AND permission = ?",
        user_id,
        permission
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    Ok(held > 0)
}

async fn must_be_known(tx: &mut MySqlConnection, permission: &str) -> Outcome<()> {
    // The server refuses to compare the column with what it cannot hold.
    if permission.is_ascii() {
        let known = sqlx::query_scalar!("SELECT name FROM permissions WHERE name = ?", permission)
            .fetch_optional(tx)
            .await
            .map_err(failed)?;
        // To the collation, "x" and "x " are one.
        if known.is_some_and(|known| known == permission) {
            return Ok(());
        }
    }
    Err(Failure::field("permission_name", format!("must be one of {}", KNOWN_PERMISSIONS.join(", "))))
}
