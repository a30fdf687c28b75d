//! Sessions and refresh tokens. A session is a row; a refresh token is one use of it, kept as its SHA-256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::identity::{Device, TokenPair};
use contract::token::{Claims, ISSUER};
use contract::{ErrorCode, Failure, Outcome};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use sqlx::MySqlConnection;
use std::sync::LazyLock;
use uuid::Uuid;

use crate::accounts::{self, Account};
use crate::audit::{self, Action, By};
use crate::events::{self, Change};
use crate::identity::{Identity, Tokens};
use chassis::clock::now;

/// Bytes of randomness in a refresh token.
const TOKEN_BYTES: usize = 32;

/// Why a session ended, as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    Logout,
    PasswordChanged,
    TokenReused,
}

impl Because {
    fn name(self) -> &'static str {
        match self {
            Because::Logout => "logout",
            Because::PasswordChanged => "password_changed",
            Because::TokenReused => "token_reused",
        }
    }

    fn action(self) -> Action {
        match self {
            Because::Logout => Action::LoggedOut,
            Because::PasswordChanged => Action::PasswordChanged,
            Because::TokenReused => Action::RefreshTokenReused,
        }
    }
}

/// A refresh token as it goes to the client, once.
struct RefreshToken {
    text: String,
    hash: Vec<u8>,
}

impl RefreshToken {
    fn generate() -> Outcome<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::internal("no randomness"))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let hash = hash(&text);
        Ok(RefreshToken { text, hash })
    }
}

fn hash(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

/// Opens a session and gives its first tokens.
pub async fn open(
    connection: &mut MySqlConnection,
    tokens: &Tokens,
    user_id: &str,
    device: &Device,
) -> Outcome<TokenPair> {
    let (session_id, now) = (Uuid::now_v7().to_string(), now());
    sqlx::query!("UPDATE users SET last_login_at = ? WHERE id = ?", now, user_id)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let absolute = now + tokens.lifetimes.session;
    sqlx::query!(
        "INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at, absolute_expires_at, ip_address,
                               user_agent)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        session_id,
        user_id,
        now,
        now,
        absolute.min(now + tokens.lifetimes.session_idle),
        absolute,
        device.ip_address,
        device.user_agent
    )
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let account = accounts::find(connection, user_id).await?;
    issue(connection, tokens, &account, &session_id, None, now).await
}

/// Makes a pair of tokens of a session.
async fn issue(
    connection: &mut MySqlConnection,
    tokens: &Tokens,
    account: &Account,
    session_id: &str,
    parent: Option<&[u8]>,
    now: DateTime<Utc>,
) -> Outcome<TokenPair> {
    let refresh = RefreshToken::generate()?;
    let jti = Uuid::now_v7().to_string();
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, session_id, parent_hash, access_jti, issued_at)
         VALUES (?, ?, ?, ?, ?)",
        refresh.hash,
        session_id,
        parent,
        jti,
        now
    )
    .execute(connection)
    .await
    .map_err(failed)?;
    let lifetime = tokens.lifetimes.access_token.as_secs() as i64;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: tokens.audience.clone(),
        sub: account.id.clone(),
        jti,
        iat: now.timestamp(),
        nbf: now.timestamp(),
        exp: now.timestamp() + lifetime,
        sid: session_id.to_owned(),
        ver: account.version,
        user_id: account.id.clone(),
        email: account.email.clone(),
        client_id: account.client_id.clone(),
        role: account.role,
        tier: account.tier,
        permissions: account.permissions.clone(),
    };
    let access_token = tokens.signer.sign(&claims).map_err(Failure::internal)?;
    Ok(TokenPair {
        access_token,
        refresh_token: refresh.text,
        expires_in: lifetime,
        user: Some(account.info()),
    })
}

/// What came of a refresh inside its transaction. Reuse must commit: it ends the session.
enum Refreshed {
    Rotated(Box<TokenPair>),
    Refused(Failure, &'static str),
}

struct Presented {
    session_id: String,
    user_id: String,
    expires_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    is_active: bool,
    is_spent: bool,
}

/// Spends a refresh token for a new pair. A token that was spent before ends its session: somebody has a copy.
///
/// # Errors
/// AUTH002 when the session has expired; AUTH003 when the token is unknown, spent or its session over.
pub async fn refresh(identity: &Identity, token: &str, device: &Device) -> Outcome<TokenPair> {
    let hash = hash(token);
    let given = (identity, &hash, device);
    let outcome = transaction(&identity.pool, "refresh", given, |tx, (identity, hash, device)| {
        Box::pin(async move { rotate(tx, identity, hash, device).await })
    })
    .await?;
    match outcome {
        Refreshed::Rotated(pair) => {
            REFRESHES.with_label_values(&["rotated"]).inc();
            Ok(*pair)
        }
        Refreshed::Refused(failure, cause) => {
            REFRESHES.with_label_values(&[cause]).inc();
            identity.tail.hurry();
            Err(failure)
        }
    }
}

async fn rotate(
    tx: &mut MySqlConnection,
    identity: &Identity,
    hash: &[u8],
    device: &Device,
) -> Outcome<Refreshed> {
    let invalid = |cause| Ok(Refreshed::Refused(Failure::new(ErrorCode::TokenInvalid), cause));
    let now = now();
    // The one conditional write that decides who rotates.
    let spent = sqlx::query!(
        "UPDATE refresh_tokens SET spent_at = ? WHERE token_hash = ? AND spent_at IS NULL",
        now,
        hash
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let Some(presented) = presented(tx, hash, spent.rows_affected() == 0).await? else {
        return invalid("unknown");
    };
    if presented.ended_at.is_some() || !presented.is_active {
        return invalid("ended");
    }
    if presented.is_spent {
        let by = By { actor_id: None, device: Some(device) };
        end(tx, identity, &presented.user_id, &presented.session_id, Because::TokenReused, by).await?;
        return invalid("reused");
    }
    if presented.expires_at <= now {
        return Ok(Refreshed::Refused(Failure::new(ErrorCode::TokenExpired), "expired"));
    }
    let idle = now + identity.tokens.lifetimes.session_idle;
    sqlx::query!(
        "UPDATE sessions SET last_seen_at = ?, expires_at = LEAST(absolute_expires_at, ?) WHERE id = ?",
        now,
        idle,
        presented.session_id
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let account = accounts::find(tx, &presented.user_id).await?;
    let pair = issue(tx, &identity.tokens, &account, &presented.session_id, Some(hash), now).await?;
    Ok(Refreshed::Rotated(Box::new(pair)))
}

async fn presented(tx: &mut MySqlConnection, hash: &[u8], is_spent: bool) -> Outcome<Option<Presented>> {
    let row = sqlx::query!(
        r#"SELECT sessions.id AS "session_id!", users.id AS "user_id!",
                  sessions.expires_at AS "expires_at: DateTime<Utc>", sessions.ended_at AS "ended_at: DateTime<Utc>",
                  users.is_active AS "is_active: bool"
           FROM refresh_tokens
           JOIN sessions ON sessions.id = refresh_tokens.session_id
           JOIN users ON users.id = sessions.user_id
           WHERE refresh_tokens.token_hash = ?
           FOR UPDATE"#,
        hash
    )
    .fetch_optional(tx)
    .await
    .map_err(failed)?;
    Ok(row.map(|row| Presented {
        session_id: row.session_id,
        user_id: row.user_id,
        expires_at: row.expires_at,
        ended_at: row.ended_at,
        is_active: row.is_active,
        is_spent,
    }))
}

/// Ends a session, if it is the user's and has not ended; tokens already issued die within a second.
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
    audit::record(tx, by, because.action(), user_id, Some(sequence), json!({ "session_id": session_id }))
        .await
}

/// Ends a session of the user. Ending it again is no fault.
///
/// # Errors
/// GW001 when the database is away.
pub async fn log_out(identity: &Identity, user_id: &str, session_id: &str, by: By<'_>) -> Outcome<()> {
    let given = (identity, user_id, session_id, by);
    transaction(&identity.pool, "logout", given, |tx, (identity, user_id, session_id, by)| {
        Box::pin(async move { end(tx, identity, user_id, session_id, Because::Logout, *by).await })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Ends every session of the user but one, in the caller's transaction.
pub async fn end_others(
    tx: &mut MySqlConnection,
    identity: &Identity,
    user_id: &str,
    but: &str,
    by: By<'_>,
) -> Outcome<()> {
    let others = sqlx::query_scalar!(
        "SELECT id FROM sessions WHERE user_id = ? AND id <> ? AND ended_at IS NULL ORDER BY id FOR UPDATE",
        user_id,
        but
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    for session_id in others {
        end(tx, identity, user_id, &session_id, Because::PasswordChanged, by).await?;
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
         WHERE sessions.id = ? AND users.id = ? AND sessions.ended_at IS NULL AND users.is_active = TRUE",
        session_id,
        user_id
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(open == 1)
}

static REFRESHES: LazyLock<prometheus::IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_refreshes_total",
        "Refreshes by what came of them",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
