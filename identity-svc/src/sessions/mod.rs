//! Sessions. A session is a row; a refresh token is one use of it, kept as its SHA-256. The times of both are the
//! database's: what one replica writes others compare with, and whose clock is wrong must end none.

mod ending;
#[cfg(test)]
mod family;
mod refresh;
mod sweep;
#[cfg(test)]
mod tests;
mod tokens;

use chassis::clock::shared;
use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::{Device, Session, TokenPair};
use contract::{Outcome, to_timestamp};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::accounts;
use crate::email::Email;
use crate::identity::Tokens;

pub use ending::{close, close_everything, end_all, end_everybodys, end_everything, end_one, end_others};
pub use refresh::{note_use, refresh};
#[cfg(test)]
pub use sweep::forget;
pub use sweep::sweep;

/// Most sessions that a list shows, those seen last first: all, unless an account has some from before they were capped.
const MAX_LISTED: i64 = 1000;

/// Why a session ended, as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    Logout,
    /// Ended by its user from another session.
    Revoked,
    PasswordChanged,
    PasswordReset,
    TokenReused,
    /// The one seen the longest ago, when one too many was opened.
    TooMany,
    /// Ended by an administrator.
    Administrator,
    AccountDisabled,
    /// A new password was set by an administrator.
    PasswordSet,
    /// The database was set back, and the session may have been ended since the backup.
    Restored,
}

impl Because {
    pub fn name(self) -> &'static str {
        match self {
            Because::Logout => "logout",
            Because::Revoked => "revoked",
            Because::PasswordChanged => "password_changed",
            Because::PasswordReset => "password_reset",
            Because::TokenReused => "token_reused",
            Because::TooMany => "too_many",
            Because::Administrator => "administrator",
            Because::AccountDisabled => "account_disabled",
            Because::PasswordSet => "password_set",
            Because::Restored => "restored",
        }
    }
}

/// Opens a session of an account and gives its first tokens. When the account has as many as it may, those seen the
/// longest ago end.
///
/// # Errors
/// USER001.
pub async fn open(
    tx: &mut MySqlConnection,
    tokens: &Tokens,
    user_id: &str,
    device: &Device,
) -> Outcome<TokenPair> {
    let (session_id, now) = (Uuid::now_v7().to_string(), shared(tx).await.map_err(failed)?);
    // Also locks the account: the claims that the token is made of cannot change before the session is there.
    sqlx::query!("UPDATE users SET last_login_at = ? WHERE id = ?", now, user_id)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let absolute_end = now + tokens.lifetimes.session;
    ending::make_room(tx, user_id, tokens.max_sessions, device).await?;
    sqlx::query!(
        "INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at, absolute_expires_at, ip_address,
                               user_agent)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        session_id,
        user_id,
        now,
        now,
        absolute_end.min(now + tokens.lifetimes.session_idle),
        absolute_end,
        device.ip_address,
        device.user_agent
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let account = accounts::find(tx, user_id).await?;
    let left = tokens.lifetimes.session;
    tokens::issue(tx, tokens, &account, tokens::Of { session_id: &session_id, now, left, parent: None }).await
}

/// The open sessions of a user, the one seen last first.
///
/// # Errors
/// GW001 when the database is away.
pub async fn list(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Vec<Session>> {
    let rows = sqlx::query!(
        r#"SELECT id, created_at AS "created_at: DateTime<Utc>", last_seen_at AS "last_seen_at: DateTime<Utc>",
                  expires_at AS "expires_at: DateTime<Utc>", ip_address, user_agent
           FROM sessions WHERE user_id = ? AND ended_at IS NULL AND expires_at > UTC_TIMESTAMP(6)
           ORDER BY last_seen_at DESC, id DESC LIMIT ?"#,
        user_id,
        MAX_LISTED
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let sessions = rows.into_iter().map(|row| Session {
        id: row.id,
        created_at: Some(to_timestamp(row.created_at)),
        last_seen_at: Some(to_timestamp(row.last_seen_at)),
        expires_at: Some(to_timestamp(row.expires_at)),
        ip_address: row.ip_address,
        user_agent: row.user_agent,
    });
    Ok(sessions.collect())
}

/// Until when a session is open, if it is and its account active.
///
/// # Errors
/// GW001 when the database is away.
pub async fn open_until(
    connection: &mut MySqlConnection,
    session_id: &str,
    user_id: &str,
) -> Outcome<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"SELECT sessions.expires_at AS "expires_at: DateTime<Utc>"
           FROM sessions JOIN users ON users.id = sessions.user_id
           WHERE sessions.id = ? AND users.id = ? AND sessions.ended_at IS NULL
             AND sessions.expires_at > UTC_TIMESTAMP(6) AND users.is_active = TRUE"#,
        session_id,
        user_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)
}

/// Whether sessions of an account were opened or refreshed from an address.
///
/// # Errors
/// GW001 when the database is away.
pub async fn were_opened_from(
    connection: &mut MySqlConnection,
    email: &Email,
    ip_address: &str,
) -> Outcome<bool> {
    let some = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM sessions JOIN users ON users.id = sessions.user_id
         WHERE users.email = ? AND sessions.ip_address = ?",
        email.as_str(),
        ip_address
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(some > 0)
}
