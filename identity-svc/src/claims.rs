//! What tokens say of an account, and how a change of it binds on tokens already issued.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::{Outcome, Tier};
use serde_json::json;
use sqlx::MySqlConnection;

use crate::accounts;
use crate::audit::{self, Action, By};
use crate::events::{self, Change};
use crate::identity::Identity;

/// Raises the version of an account's claims and gives the new one.
pub async fn raise_version(connection: &mut MySqlConnection, user_id: &str) -> Outcome<i64> {
    sqlx::query!("UPDATE account_versions SET version = version + 1 WHERE user_id = ?", user_id)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::query_scalar!("SELECT version FROM account_versions WHERE user_id = ?", user_id)
        .fetch_one(connection)
        .await
        .map_err(failed)
}

/// Has changed claims bind on tokens already issued, and gives the number of the event. A disabled account has no
/// claims that could be told, whatever has changed of it. From here on the transaction holds up all others that
/// announce something: only the audit log comes after it.
pub async fn announce(connection: &mut MySqlConnection, user_id: &str) -> Outcome<i64> {
    raise_version(connection, user_id).await?;
    let account = accounts::find(connection, user_id).await?;
    let change = if account.is_active {
        Change::AccountChanged {
            version: account.version,
            email: account.email,
            role: account.role,
            tier: account.tier,
            permissions: account.permissions,
        }
    } else {
        Change::AccountDisabled { version: account.version }
    };
    events::append(connection, user_id, &change).await
}

/// Sets the tier that subscription-svc reports. A revision at or below the last one changes nothing.
///
/// # Errors
/// USER001.
pub async fn set_tier(identity: &Identity, user_id: &str, tier: Tier, revision: i64) -> Outcome<()> {
    transaction(&identity.pool, "set_tier", user_id, move |tx, user_id| {
        Box::pin(async move {
            accounts::lock(tx, user_id).await?;
            let before = accounts::find(tx, user_id).await?.tier;
            let newer = sqlx::query!(
                "UPDATE account_versions SET tier_revision = ? WHERE user_id = ? AND tier_revision < ?",
                revision,
                user_id,
                revision
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            if newer.rows_affected() == 0 {
                return Ok(());
            }
            sqlx::query!(
                "UPDATE users SET subscription_tier = ?, updated_at = ? WHERE id = ?",
                tier.name(),
                now(),
                user_id
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            let sequence = announce(tx, user_id).await?;
            let details = json!({ "from": before, "to": tier });
            audit::record(tx, By::SYSTEM, Action::TierChanged, Some(user_id), Some(sequence), details).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}
