//! Changing and removing one account.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::identity::{Device, UpdateUserRequest, User};
use contract::{ErrorCode, Failure, Outcome, Role};
use serde_json::{Map, Value, json};
use sqlx::MySqlConnection;

use super::Actor;
use crate::accounts::{self, Account};
use crate::administrators::must_not_be_last;
use crate::audit::{self, Action};
use crate::email::Email;
use crate::identity::Identity;
use crate::sessions::{Because, close_everything};
use crate::{claims, password, profiles, recovery};

/// What an administrator changes of an account; what is absent stays as it is.
#[derive(Clone, Copy, Default)]
pub struct Change {
    pub role: Option<Role>,
    pub is_active: Option<bool>,
    pub email_verified: Option<bool>,
}

impl Change {
    /// # Errors
    /// REQ001.
    pub fn parse(request: &UpdateUserRequest) -> Outcome<Change> {
        let role = request.role.as_deref().map(str::parse).transpose();
        Ok(Change {
            role: role.map_err(|fault| Failure::field("role", fault))?,
            is_active: request.is_active,
            email_verified: request.email_verified,
        })
    }

    /// Whether an administrator may cease to be one by it.
    fn gives_up(self) -> bool {
        self.role.is_some_and(|role| role != Role::Admin) || self.is_active == Some(false)
    }

    /// What it makes of an account, for the audit log; nothing when the account is so already.
    fn differences(self, before: &Account) -> Map<String, Value> {
        let pairs = [
            ("role", json!(before.role), json!(self.role.unwrap_or(before.role))),
            ("is_active", json!(before.is_active), json!(self.is_active.unwrap_or(before.is_active))),
            (
                "email_verified",
                json!(before.email_verified),
                json!(self.email_verified.unwrap_or(before.email_verified)),
            ),
        ];
        let changed = pairs.into_iter().filter(|(_, from, to)| from != to);
        changed.map(|(name, from, to)| (name.to_owned(), json!({ "from": from, "to": to }))).collect()
    }
}

/// Changes an account and gives it as it is now.
///
/// # Errors
/// AUTH004, USER001; USER004 for the last administrator.
pub async fn update(identity: &Identity, actor: &Actor, user_id: &str, change: Change) -> Outcome<User> {
    apply(identity, actor, user_id, change, None).await?;
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    profiles::user(&mut connection, user_id).await
}

/// Changes an account in a transaction of its own. Disabling it ends its sessions and API keys, so that nothing which was
/// issued before is good again when it is enabled.
///
/// # Errors
/// As [`update`].
pub async fn apply(
    identity: &Identity,
    actor: &Actor,
    user_id: &str,
    change: Change,
    reason: Option<&str>,
) -> Outcome<()> {
    let given = (actor, user_id, reason);
    transaction(&identity.pool, "administer_account", given, move |tx, (actor, user_id, reason)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            if change.gives_up() {
                must_not_be_last(tx, user_id).await?;
            } else {
                accounts::lock(tx, user_id).await?;
            }
            let before = accounts::find(tx, user_id).await?;
            let mut details = change.differences(&before);
            if details.is_empty() {
                return Ok(());
            }
            write(tx, &before, change).await?;
            if before.is_active && change.is_active == Some(false) {
                let ended = close_everything(tx, user_id, Because::AccountDisabled).await?;
                ended.announce(tx, user_id, actor.by()).await?;
            }
            let sequence = claims::announce(tx, user_id).await?;
            if let Some(reason) = reason {
                details.insert("reason".to_owned(), json!(reason));
            }
            let details = Value::Object(details);
            audit::record(tx, actor.by(), Action::AccountUpdated, Some(user_id), Some(sequence), details)
                .await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

async fn write(tx: &mut MySqlConnection, before: &Account, change: Change) -> Outcome<()> {
    sqlx::query!(
        "UPDATE users SET role = ?, is_active = ?, email_verified = ?, updated_at = ? WHERE id = ?",
        change.role.unwrap_or(before.role).name(),
        change.is_active.unwrap_or(before.is_active),
        change.email_verified.unwrap_or(before.email_verified),
        now(),
        before.id
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Removes an account.
///
/// # Errors
/// AUTH004, USER001; REQ001 for one's own account, which has a route of its own; USER004 for the last administrator.
pub async fn remove(identity: &Identity, actor: &Actor, user_id: &str, reason: Option<&str>) -> Outcome<()> {
    if actor.id == user_id {
        return Err(Failure::new(ErrorCode::InvalidRequest)
            .saying("Administrators cannot delete their own account here")
            .with_field("user_id", "must not be your own"));
    }
    let given = (actor, user_id, reason);
    transaction(&identity.pool, "delete_account", given, |tx, (actor, user_id, reason)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            let details = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            accounts::remove_in(tx, user_id, actor.by(), details).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Sets the password of an account and ends its sessions and API keys.
///
/// # Errors
/// AUTH004, USER001, USER003; REQ001 for one's own account, whose owner has to know the current one; GW003.
pub async fn set_password(identity: &Identity, actor: &Actor, user_id: &str, typed: &str) -> Outcome<()> {
    if actor.id == user_id {
        return Err(Failure::new(ErrorCode::InvalidRequest)
            .saying("Administrators cannot set their own password here")
            .with_field("user_id", "must not be your own"));
    }
    let hasher = identity.hasher.turn_of(&actor.id, None)?;
    let account = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        actor.must_administer(&mut connection).await?;
        accounts::find(&mut connection, user_id).await?
    };
    let email = Email::parse(&account.email).map_err(Failure::internal)?;
    let new = password::check(typed, "new_password", identity.min_password_length, &email)?;
    let hash = hasher.hash(new).await?;
    let given = (identity, actor, user_id, &hash, &email);
    transaction(&identity.pool, "set_password", given, |tx, (identity, actor, user_id, hash, email)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            accounts::lock(tx, user_id).await?;
            accounts::set_password_hash(tx, user_id, hash).await?;
            // From where an administrator acts is nothing that an account's owner needs to know.
            recovery::after_change(tx, identity, user_id, email.as_str(), &Device::default()).await?;
            let ended = close_everything(tx, user_id, Because::PasswordSet).await?;
            let sequence = ended.announce(tx, user_id, actor.by()).await?;
            let details = json!({ "sessions": ended.count() });
            audit::record(tx, actor.by(), Action::PasswordSet, Some(user_id), sequence, details).await
        })
    })
    .await?;
    identity.tail.hurry();
    identity.mail.hurry();
    Ok(())
}
