//! Accounts: the rows of `users`, and the rules for making, reading, changing and removing them.

use chassis::mysql::{failed, transaction, violated_key};
use chrono::{DateTime, Utc};
use contract::identity::UserInfo;
use contract::{ANY_PERMISSION, ErrorCode, Failure, Outcome, Role, Tier};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::email::Email;
use crate::events::{self, Change};
use crate::identity::Identity;
use crate::password;
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
    let mut permissions = sqlx::query_scalar!(
        "SELECT permission FROM user_permissions WHERE user_id = ? ORDER BY permission",
        row.id
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    // Administrators may do everything; so that services need not know roles, their tokens say so.
    if role == Role::Admin && !permissions.iter().any(|held| held == ANY_PERMISSION) {
        permissions.insert(0, ANY_PERMISSION.to_owned());
    }
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
        .execute(connection)
        .await
        .map_err(failed)?;
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

/// Replaces the password hash, as long as it is still the one that was verified.
pub async fn rehash(
    connection: &mut MySqlConnection,
    user_id: &str,
    verified: &str,
    hash: &str,
) -> Outcome<bool> {
    let done = sqlx::query!(
        "UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ? AND password_hash = ?",
        hash,
        now(),
        user_id,
        verified
    )
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() == 1)
}

/// Raises the version of an account's claims and gives the new one.
async fn raise_version(connection: &mut MySqlConnection, user_id: &str) -> Outcome<i64> {
    sqlx::query!("UPDATE account_versions SET version = version + 1 WHERE user_id = ?", user_id)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::query_scalar!("SELECT version FROM account_versions WHERE user_id = ?", user_id)
        .fetch_one(connection)
        .await
        .map_err(failed)
}

/// Has changed claims bind on tokens already issued. The last step of the transaction that changed them.
async fn announce(connection: &mut MySqlConnection, identity: &Identity, user_id: &str) -> Outcome<()> {
    raise_version(connection, user_id).await?;
    let account = find(connection, user_id).await?;
    let change = Change::AccountChanged {
        version: account.version,
        email: account.email,
        role: account.role,
        tier: account.tier,
        permissions: account.permissions,
    };
    events::append(connection, user_id, &change, identity.tokens.lifetimes.access_token).await
}

/// Removes an account with all that is its own; its tokens die with it.
///
/// # Errors
/// USER001; USER004 for the last administrator, also when two go at once.
pub async fn remove(identity: &Identity, user_id: &str) -> Outcome<()> {
    transaction(&identity.pool, "delete_account", (identity, user_id), |tx, (identity, user_id)| {
        Box::pin(async move {
            let admins = sqlx::query_scalar!(
                "SELECT id FROM users WHERE role = 'admin' AND is_active = TRUE ORDER BY id FOR UPDATE"
            )
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
            let account = find(tx, user_id).await?;
            if admins.len() == 1 && admins[0] == account.id {
                return Err(Failure::new(ErrorCode::LastAdministrator));
            }
            let version = raise_version(tx, user_id).await?;
            sqlx::query!("DELETE FROM users WHERE id = ?", user_id)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            let change = Change::AccountDisabled { version };
            events::append(tx, user_id, &change, identity.tokens.lifetimes.access_token).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Sets the tier that subscription-svc reports. A revision at or below the last one changes nothing.
///
/// # Errors
/// USER001.
pub async fn set_tier(identity: &Identity, user_id: &str, tier: Tier, revision: i64) -> Outcome<()> {
    transaction(&identity.pool, "set_tier", (identity, user_id), move |tx, (identity, user_id)| {
        Box::pin(async move {
            find(tx, user_id).await?;
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
            announce(tx, identity, user_id).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
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
    let password = password::check(typed, "password", identity.min_password_length, &email)?;
    let password_hash = identity.hasher.hash(password).await?;
    let account = NewAccount {
        email,
        password_hash,
        client_id: client_id.to_owned(),
        role: Role::Admin,
        first_name: None,
        last_name: None,
        company: None,
    };
    transaction(&identity.pool, "create_administrator", &account, |tx, account| {
        Box::pin(async move { insert(tx, account).await })
    })
    .await?;
    Ok(true)
}

async fn promote(identity: &Identity, email: &Email) -> Outcome<bool> {
    transaction(&identity.pool, "promote", (identity, email), |tx, (identity, email)| {
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
                announce(tx, identity, &user.id).await?;
            }
            Ok(true)
        })
    })
    .await
}
