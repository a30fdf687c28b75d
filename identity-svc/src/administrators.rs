//! Administrators: how the first one is made, and why the last one stays.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::{ErrorCode, Failure, Outcome, Role};
use serde_json::json;
use sqlx::{MySqlConnection, MySqlPool};

use crate::accounts::{self, NewAccount};
use crate::audit::{self, Action, By};
use crate::claims::announce;
use crate::email::Email;
use crate::identity::Identity;
use crate::password;

/// Sees to it that somebody can still administer when this account no longer does, also when several leave at once.
/// Locks the account, and the other administrators if it is one: all in the order of their ids, so that those who
/// leave at once wait for each other.
///
/// # Errors
/// USER001; USER004 for the last active administrator.
pub async fn must_not_be_last(tx: &mut MySqlConnection, user_id: &str) -> Outcome<()> {
    let seen = sqlx::query_scalar!("SELECT role FROM users WHERE id = ?", user_id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
    let mut others = if is_admin(seen.as_deref()) { Some(other_admins(tx, user_id).await?) } else { None };
    let role = sqlx::query_scalar!("SELECT role FROM users WHERE id = ? FOR UPDATE", user_id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
    if role.is_none() {
        return Err(Failure::new(ErrorCode::UserNotFound));
    }
    if !is_admin(role.as_deref()) {
        return Ok(());
    }
    if others.is_none() {
        // Promoted between the look and the lock.
        others = Some(other_admins(tx, user_id).await?);
    }
    if others.is_some_and(|others| others > 0) {
        Ok(())
    } else {
        Err(Failure::new(ErrorCode::LastAdministrator))
    }
}

fn is_admin(role: Option<&str>) -> bool {
    role == Some(Role::Admin.name())
}

/// How many active administrators there are beside this one. Locks them all.
async fn other_admins(tx: &mut MySqlConnection, user_id: &str) -> Outcome<usize> {
    let admins = sqlx::query_scalar!(
        "SELECT id FROM users WHERE role = 'admin' AND is_active = TRUE ORDER BY id FOR UPDATE"
    )
    .fetch_all(tx)
    .await
    .map_err(failed)?;
    Ok(admins.iter().filter(|id| *id != user_id).count())
}

/// Makes an administrator: a new account, or an existing one, whose password then stays as it is. Gives whether the
/// account is new.
///
/// # Errors
/// REQ001, USER003.
pub async fn make_administrator(
    identity: &Identity,
    email: &str,
    client_id: &str,
    typed: &str,
) -> Outcome<bool> {
    let email = Email::parse(email).map_err(|fault| Failure::field("email", fault))?;
    if promote(identity, &email).await? {
        return Ok(false);
    }
    let account = account_of(identity, email, client_id, typed).await?;
    transaction(&identity.pool, "create_administrator", &account, |tx, account| {
        Box::pin(async move { create(tx, account).await })
    })
    .await?;
    Ok(true)
}

/// Makes a new account the first administrator. Gives whether it did: where somebody is one already, active or not,
/// nothing is done, also when several come at once.
///
/// # Errors
/// REQ001, USER003; USER002 when the address belongs to somebody, who is not promoted.
pub async fn make_first_administrator(
    identity: &Identity,
    email: &str,
    client_id: &str,
    typed: &str,
) -> Outcome<bool> {
    let email = Email::parse(email).map_err(|fault| Failure::field("email", fault))?;
    if are_there(&identity.pool).await? {
        return Ok(false);
    }
    let account = account_of(identity, email, client_id, typed).await?;
    transaction(&identity.pool, "create_administrator", &account, |tx, account| {
        Box::pin(async move {
            // One at a time; the row is there from the first migration on.
            sqlx::query!("SELECT id FROM auth_sequence WHERE id = 1 FOR UPDATE")
                .fetch_one(&mut *tx)
                .await
                .map_err(failed)?;
            if is_any(tx).await? {
                return Ok(false);
            }
            create(tx, account).await?;
            Ok(true)
        })
    })
    .await
}

/// Whether somebody is an administrator, active or not.
///
/// # Errors
/// GW001 when the database is away.
pub async fn are_there(pool: &MySqlPool) -> Outcome<bool> {
    is_any(&mut *pool.acquire().await.map_err(failed)?).await
}

async fn is_any(connection: &mut MySqlConnection) -> Outcome<bool> {
    let one = sqlx::query_scalar!("SELECT id FROM users WHERE role = 'admin' LIMIT 1")
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    Ok(one.is_some())
}

async fn account_of(identity: &Identity, email: Email, client_id: &str, typed: &str) -> Outcome<NewAccount> {
    let password = password::check(typed, "password", identity.min_password_length, &email)?;
    let password_hash = identity.hasher.hash(password).await?;
    Ok(NewAccount {
        email,
        password_hash,
        client_id: client_id.to_owned(),
        role: Role::Admin,
        first_name: None,
        last_name: None,
        company: None,
    })
}

async fn create(tx: &mut MySqlConnection, account: &NewAccount) -> Outcome<()> {
    let user_id = accounts::insert(tx, account).await?;
    audit::record(tx, By::SYSTEM, Action::AdministratorMade, Some(&user_id), None, json!({})).await
}

async fn promote(identity: &Identity, email: &Email) -> Outcome<bool> {
    transaction(&identity.pool, "promote", email, |tx, email| {
        Box::pin(async move {
            let user = sqlx::query!("SELECT id, role FROM users WHERE email = ? FOR UPDATE", email.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(failed)?;
            let Some(user) = user else { return Ok(false) };
            if user.role != Role::Admin.name() {
                sqlx::query!("UPDATE users SET role = 'admin', updated_at = ? WHERE id = ?", now(), user.id)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                let sequence = announce(tx, &user.id).await?;
                let made = Action::AdministratorMade;
                audit::record(tx, By::SYSTEM, made, Some(&user.id), Some(sequence), json!({})).await?;
            }
            Ok(true)
        })
    })
    .await
}
