//! Sessions. A session is a row; a refresh token is one use of it, kept as its SHA-256.

mod refresh;
mod sweep;
mod tokens;

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::identity::{Device, Session, TokenPair};
use contract::{ErrorCode, Failure, Outcome, to_timestamp};
use serde_json::json;
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::accounts;
use crate::audit::{self, Action, By};
use crate::email::Email;
use crate::events::{self, Change};
use crate::identity::{Identity, Tokens};

pub use refresh::{note_use, refresh};
pub use sweep::sweep;

/// Most sessions that a list shows, those seen last first.
const MAX_LISTED: i64 = 200;

/// Why a session ended, as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    Logout,
    /// Ended by its user from another session.
    Revoked,
    PasswordChanged,
    PasswordReset,
    TokenReused,
}

impl Because {
    fn name(self) -> &'static str {
        match self {
            Because::Logout => "logout",
            Because::Revoked => "revoked",
            Because::PasswordChanged => "password_changed",
            Because::PasswordReset => "password_reset",
            Because::TokenReused => "token_reused",
        }
    }
}

/// Opens a session of an account and gives its first tokens.
///
/// # Errors
/// USER001.
pub async fn open(
    tx: &mut MySqlConnection,
    tokens: &Tokens,
    user_id: &str,
    device: &Device,
) -> Outcome<TokenPair> {
    let (session_id, now) = (Uuid::now_v7().to_string(), now());
    // Also locks the account: the claims that the token is made of cannot change before the session is there.
    sqlx::query!("UPDATE users SET last_login_at = ? WHERE id = ?", now, user_id)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let absolute_end = now + tokens.lifetimes.session;
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
    tokens::issue(tx, tokens, &account, tokens::Of { session_id: &session_id, absolute_end, parent: None })
        .await
}

/// The open sessions of a user, the one seen last first.
///
/// # Errors
/// GW001 when the database is away.
pub async fn list(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Vec<Session>> {
    let rows = sqlx::query!(
        r#"SELECT id, created_at AS "created_at: DateTime<Utc>", last_seen_at AS "last_seen_at: DateTime<Utc>",
                  expires_at AS "expires_at: DateTime<Utc>", ip_address, user_agent
           FROM sessions WHERE user_id = ? AND ended_at IS NULL AND expires_at > ?
           ORDER BY last_seen_at DESC, id DESC LIMIT ?"#,
        user_id,
        now(),
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

/// Ends a session, if it is the user's and has not ended; tokens already issued die within a second. The caller has
/// locked the account.
async fn end(
    tx: &mut MySqlConnection,
    identity: &Identity,
    user_id: &str,
    session_id: &str,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let ended = sqlx::query!(
        "UPDATE sessions SET ended_at = ?, ended_because = ? WHERE id = ? AND user_id = ? AND ended_at IS NULL",
        now(),
        because.name(),
        session_id,
        user_id
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    if ended.rows_affected() == 0 {
        return Ok(());
    }
    let change = Change::SessionEnded { session_id: session_id.to_owned() };
    let sequence = events::append(tx, user_id, &change, identity.tokens.lifetimes.access_token).await?;
    let details = json!({ "session_id": session_id, "because": because.name() });
    audit::record(tx, by, Action::SessionEnded, Some(user_id), Some(sequence), details).await
}

/// Ends a session of the user. Ending it again is no fault.
///
/// # Errors
/// REQ002 when the user has no such session.
pub async fn end_one(
    identity: &Identity,
    user_id: &str,
    session_id: &str,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let given = (identity, user_id, session_id, by);
    transaction(&identity.pool, "end_session", given, move |tx, (identity, user_id, session_id, by)| {
        Box::pin(async move {
            let own = sqlx::query_scalar!(
                "SELECT COUNT(*) FROM sessions WHERE id = ? AND user_id = ?",
                session_id,
                user_id
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
            if own == 0 {
                return Err(Failure::new(ErrorCode::NoSuchRoute).saying("No such session"));
            }
            end(tx, identity, user_id, session_id, because, *by).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Ends every session of the user but the given one.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end_all(
    identity: &Identity,
    user_id: &str,
    but: Option<&str>,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let given = (identity, user_id, but, by);
    transaction(&identity.pool, "end_sessions", given, move |tx, (identity, user_id, but, by)| {
        Box::pin(async move {
            accounts::lock(tx, user_id).await?;
            end_others(tx, identity, user_id, *but, because, *by).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Ends every session of an account that the caller has locked, but the given one.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end_others(
    tx: &mut MySqlConnection,
    identity: &Identity,
    user_id: &str,
    but: Option<&str>,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let others = sqlx::query_scalar!(
        "SELECT id FROM sessions WHERE user_id = ? AND id <> ? AND ended_at IS NULL ORDER BY id FOR UPDATE",
        user_id,
        but.unwrap_or_default()
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    for session_id in others {
        end(tx, identity, user_id, &session_id, because, by).await?;
    }
    Ok(())
}

/// Whether a session is open, and its account active.
///
/// # Errors
/// GW001 when the database is away.
pub async fn is_open(connection: &mut MySqlConnection, session_id: &str, user_id: &str) -> Outcome<bool> {
    let open = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM sessions JOIN users ON users.id = sessions.user_id
         WHERE sessions.id = ? AND users.id = ? AND sessions.ended_at IS NULL AND sessions.expires_at > ?
           AND users.is_active = TRUE",
        session_id,
        user_id,
        now()
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(open == 1)
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
