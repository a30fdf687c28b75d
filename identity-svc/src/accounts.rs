//! Accounts: the rows of `users`, and the rules for making, reading, changing and removing them.

use chassis::mysql::{failed, transaction, violated_key};
use chrono::{DateTime, Utc};
use contract::identity::UserInfo;
use contract::{ANY_PERMISSION, ErrorCode, Failure, Outcome, Role, Tier};
use serde_json::{Value, json};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::audit::{self, Action, By};
use crate::email::Email;
use crate::events::{self, Change};
use crate::identity::Identity;
use crate::{administrators, claims, newcomers};
use chassis::clock::now;

/// An account as everything but profile pages needs it.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: String,
    pub email: String,
    pub role: Role,
    pub client_id: String,
    pub tier: Tier,
    pub is_active: bool,
    pub email_verified: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub last_login_at: Option<DateTime<Utc>>,
    /// The version of its claims.
    pub version: i64,
    /// Those of the role included, in order.
    pub permissions: Vec<String>,
}

impl Account {
    /// Whether the account holds a permission, or the one that stands for all.
    pub fn holds(&self, permission: &str) -> bool {
        self.permissions.iter().any(|held| held == permission || held == ANY_PERMISSION)
    }

    /// The account as an answer carries it.
    pub fn info(&self) -> UserInfo {
        UserInfo {
            id: self.id.clone(),
            email: self.email.clone(),
            client_id: self.client_id.clone(),
            role: self.role.name().to_owned(),
            tier: self.tier.name().to_owned(),
            email_verified: self.email_verified,
            permissions: self.permissions.clone(),
        }
    }
}

struct Row {
    id: String,
    email: String,
    role: String,
    client_id: String,
    subscription_tier: String,
    is_active: bool,
    email_verified: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    last_login_at: Option<DateTime<Utc>>,
    version: i64,
}

/// The account with this id.
///
/// # Errors
/// USER001.
pub async fn find(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Account> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, email, role, client_id, subscription_tier, is_active AS "is_active: bool",
                  email_verified AS "email_verified: bool", created_at AS "created_at: DateTime<Utc>",
                  updated_at AS "updated_at: DateTime<Utc>", last_login_at AS "last_login_at: DateTime<Utc>",
                  version
           FROM users JOIN account_versions ON account_versions.user_id = users.id
           WHERE id = ?"#,
        user_id
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let row = row.ok_or_else(|| Failure::new(ErrorCode::UserNotFound))?;
    complete(connection, row).await
}

async fn complete(connection: &mut MySqlConnection, row: Row) -> Outcome<Account> {
    let role: Role = row.role.parse().map_err(Failure::internal)?;
    let granted = sqlx::query_scalar!(
        "SELECT permission FROM user_permissions WHERE user_id = ? ORDER BY permission",
        row.id
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let permissions = with_those_of_the_role(role, granted);
    Ok(Account {
        id: row.id,
        email: row.email,
        role,
        client_id: row.client_id,
        tier: row.subscription_tier.parse().map_err(Failure::internal)?,
        is_active: row.is_active,
        email_verified: row.email_verified,
        created_at: row.created_at,
        updated_at: row.updated_at,
        last_login_at: row.last_login_at,
        version: row.version,
        permissions,
    })
}

/// All that an account holds. Administrators may do everything; so that services need not know roles, their tokens say
/// so.
pub fn with_those_of_the_role(role: Role, mut granted: Vec<String>) -> Vec<String> {
    if role == Role::Admin && !granted.iter().any(|held| held == ANY_PERMISSION) {
        granted.insert(0, ANY_PERMISSION.to_owned());
    }
    granted
}

/// Locks an account for the rest of the transaction. Whoever changes an account or its sessions does this first.
///
/// # Errors
/// USER001.
pub async fn lock(tx: &mut MySqlConnection, user_id: &str) -> Outcome<()> {
    let found = sqlx::query_scalar!("SELECT id FROM users WHERE id = ? FOR UPDATE", user_id)
        .fetch_optional(tx)
        .await
        .map_err(failed)?;
    found.map(drop).ok_or_else(|| Failure::new(ErrorCode::UserNotFound))
}

/// What a new account starts with.
pub struct NewAccount {
    pub email: Email,
    pub password_hash: String,
    pub client_id: String,
    pub role: Role,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub company: Option<String>,
}

/// Makes an account with its profile and gives its id.
///
/// # Errors
/// USER002 when the e-mail is taken, which the unique key alone decides.
pub async fn insert(connection: &mut MySqlConnection, account: &NewAccount) -> Outcome<String> {
    let (id, now) = (Uuid::now_v7().to_string(), now());
    sqlx::query!(
        "INSERT INTO users (id, email, password_hash, role, client_id, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        id,
        account.email.as_str(),
        account.password_hash,
        account.role.name(),
        account.client_id,
        now,
        now
    )
    .execute(&mut *connection)
    .await
    .map_err(|error| match violated_key(&error).as_deref() {
        Some("uq_users_email") => Failure::new(ErrorCode::UserExists),
        _ => failed(error),
    })?;
    sqlx::query!(
        "INSERT INTO user_profiles (user_id, first_name, last_name, company, preferences, created_at, updated_at)
         VALUES (?, ?, ?, ?, '{}', ?, ?)",
        id,
        account.first_name,
        account.last_name,
        account.company,
        now,
        now
    )
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    sqlx::query!("INSERT INTO account_versions (user_id, version, tier_revision) VALUES (?, 1, 0)", id)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    newcomers::add(connection, &id).await?;
    Ok(id)
}

/// The id and password hash of the active account with this e-mail.
pub async fn credentials(
    connection: &mut MySqlConnection,
    email: &Email,
) -> Outcome<Option<(String, String)>> {
    let row = sqlx::query!(
        "SELECT id, password_hash FROM users WHERE email = ? AND is_active = TRUE",
        email.as_str()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    Ok(row.map(|row| (row.id, row.password_hash)))
}

/// Whether the account is active and its password still the one that was verified. Locks the account for the rest of
/// the transaction, so that what follows cannot slip past a change of password or a ban.
pub async fn still_has(tx: &mut MySqlConnection, user_id: &str, verified_hash: &str) -> Outcome<bool> {
    let hash = sqlx::query_scalar!(
        "SELECT password_hash FROM users WHERE id = ? AND is_active = TRUE FOR UPDATE",
        user_id
    )
    .fetch_optional(tx)
    .await
    .map_err(failed)?;
    Ok(hash.is_some_and(|hash| hash == verified_hash))
}

/// Replaces the password hash of an account that the caller has locked.
pub async fn set_password_hash(tx: &mut MySqlConnection, user_id: &str, hash: &str) -> Outcome<()> {
    sqlx::query!("UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ?", hash, now(), user_id)
        .execute(tx)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes an account with all that is its own; its tokens die with it.
///
/// # Errors
/// USER001; USER004 for the last administrator, also when two go at once.
pub async fn remove(identity: &Identity, user_id: &str, by: By<'_>) -> Outcome<()> {
    let given = (user_id, by);
    transaction(&identity.pool, "delete_account", given, |tx, (user_id, by)| {
        Box::pin(async move { remove_in(tx, user_id, *by, json!({})).await })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Removes an account in the caller's transaction, which may do nothing after it.
///
/// # Errors
/// As [`remove`].
pub async fn remove_in(tx: &mut MySqlConnection, user_id: &str, by: By<'_>, details: Value) -> Outcome<()> {
    administrators::must_not_be_last(tx, user_id).await?;
    let version = claims::raise_version(tx, user_id).await?;
    sqlx::query!("DELETE FROM users WHERE id = ?", user_id).execute(&mut *tx).await.map_err(failed)?;
    let change = Change::AccountDisabled { version };
    let sequence = events::append(tx, user_id, &change).await?;
    audit::record(tx, by, Action::AccountDeleted, Some(user_id), Some(sequence), details).await
}
