//! Spending a refresh token. A token is good for one use; using it again ends the session, since somebody has a copy.
//! Two things look like that and are not: an answer that was lost on its way, and two tabs that refreshed at once. As
//! long as nothing shows that a child of the token has arrived (it was neither spent nor was its access token seen at
//! any edge), the token may be presented again for a short while and gets a fresh child. Of all children, the first
//! that is spent stands for the session; the others are refused from then on. All of it goes by the clock of the database:
//! a replica whose own is ahead must not take a lost answer for theft.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::identity::{Device, TokenPair, TokenUse};
use contract::{ErrorCode, Failure, Outcome, from_timestamp};
use sqlx::MySqlConnection;

use super::Because;
use super::ending::end;
use super::tokens::{Of, issue};
use crate::accounts;
use crate::audit::By;
use crate::identity::Identity;
use crate::opaque::hash;

/// How long the verdict on a token that comes again waits for what edges have seen and not yet told.
const SETTLING: Duration = Duration::from_millis(100);
/// A token that comes again this soon was sent by two tabs at once; later, its answer was lost.
const AT_ONCE: Duration = Duration::from_secs(1);
/// By when edges have told what they see. A time before that, or to come, is of an edge whose clock is wrong. In
/// microseconds, as the database counts.
const TOLD_WITHIN: i64 = 3_000_000;
/// Most uses that one report may tell.
const MAX_USES: usize = 1000;

/// What came of a refresh inside its transaction. What ends a session must commit.
enum Refreshed {
    Rotated(Box<TokenPair>, &'static str),
    Refused(ErrorCode, &'static str),
    /// The token comes again: look once more when reports on their way have arrived.
    Unsettled,
}

/// A refresh token as somebody presents it.
struct Presented<'a> {
    hash: &'a [u8],
    since: Instant,
    settled: bool,
    device: &'a Device,
}

/// Spends a refresh token for a new pair.
///
/// # Errors
/// AUTH002 when the session has expired; AUTH003 when the token is unknown or spent, or its session over; GW003 when too
/// many refresh.
pub async fn refresh(identity: &Identity, token: &str, device: &Device) -> Outcome<TokenPair> {
    let hash = hash(token);
    let mut presented = Presented { hash: &hash, since: Instant::now(), settled: false, device };
    let place = identity.bulkhead.enter(Some(device))?;
    loop {
        let turn = place.turn().await?;
        let given = (identity, &presented);
        let outcome = transaction(&identity.pool, "refresh", given, |tx, (identity, presented)| {
            Box::pin(async move { spend(tx, identity, presented).await })
        })
        .await?;
        match outcome {
            Refreshed::Rotated(pair, cause) => {
                REFRESHES.with_label_values(&[cause]).inc();
                return Ok(*pair);
            }
            Refreshed::Refused(code, cause) => {
                REFRESHES.with_label_values(&[cause]).inc();
                identity.tail.hurry();
                return Err(Failure::new(code));
            }
            Refreshed::Unsettled => {
                // Others need it meanwhile, who have nothing to wait for.
                drop(turn);
                tokio::time::sleep(SETTLING).await;
                presented.settled = true;
            }
        }
    }
}

/// A token, its session and its account, all locked.
struct Found {
    /// When it was presented, and when it was found.
    presented_at: DateTime<Utc>,
    now: DateTime<Utc>,
    session_id: String,
    user_id: String,
    is_active: bool,
    ended: bool,
    expires_at: DateTime<Utc>,
    absolute_end: DateTime<Utc>,
    issued_at: DateTime<Utc>,
    spent_at: Option<DateTime<Utc>>,
    parent: Option<Vec<u8>>,
}

async fn spend(
    tx: &mut MySqlConnection,
    identity: &Identity,
    presented: &Presented<'_>,
) -> Outcome<Refreshed> {
    let refused = |cause| Ok(Refreshed::Refused(ErrorCode::TokenInvalid, cause));
    let Some(found) = find_and_lock(tx, presented).await? else {
        return refused("unknown");
    };
    if found.ended || !found.is_active {
        return refused("ended");
    }
    let now = found.now;
    if found.expires_at <= now {
        return Ok(Refreshed::Refused(ErrorCode::TokenExpired, "expired"));
    }
    let window = identity.tokens.lifetimes.refresh_retry;
    let cause = match found.spent_at {
        None if was_overtaken(tx, &found, presented.hash).await? => {
            // One of two tabs lost; or much later: somebody else uses the session.
            if now <= found.issued_at + window {
                return refused("overtaken");
            }
            return end_reused(tx, &found, presented.device).await;
        }
        None => "rotated",
        Some(_) if !presented.settled => return Ok(Refreshed::Unsettled),
        Some(spent_at) => {
            let at = found.presented_at;
            // One that is to come yet was written while the database was ahead: nobody knows how long ago that was.
            let is_late = at > spent_at + window || spent_at > now + window;
            if is_late || child_has_arrived(tx, presented.hash, at).await? {
                return end_reused(tx, &found, presented.device).await;
            }
            if at <= spent_at + AT_ONCE { "concurrent" } else { "lost_answer" }
        }
    };
    if found.spent_at.is_none() && !mark_spent(tx, presented.hash, now).await? {
        return Err(Failure::internal("a refresh token was spent under the lock of its session"));
    }
    sqlx::query!(
        "UPDATE sessions SET last_seen_at = ?, expires_at = LEAST(absolute_expires_at, ?), ip_address = ?,
                             user_agent = ?
         WHERE id = ?",
        now,
        now + identity.tokens.lifetimes.session_idle,
        presented.device.ip_address,
        presented.device.user_agent,
        found.session_id
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let account = accounts::find(tx, &found.user_id).await?;
    let left = (found.absolute_end - now).to_std().unwrap_or_default();
    let of = Of { session_id: &found.session_id, now, left, parent: Some(presented.hash) };
    Ok(Refreshed::Rotated(Box::new(issue(tx, &identity.tokens, &account, of).await?), cause))
}

async fn find_and_lock(tx: &mut MySqlConnection, presented: &Presented<'_>) -> Outcome<Option<Found>> {
    // Looked at before any lock is waited for, and without what has been waited for until now.
    let waited = presented.since.elapsed();
    let session = sqlx::query!(
        r#"SELECT sessions.id, sessions.user_id, UTC_TIMESTAMP(6) AS "now: DateTime<Utc>" FROM refresh_tokens
           JOIN sessions ON sessions.id = refresh_tokens.session_id WHERE refresh_tokens.token_hash = ?"#,
        presented.hash
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    let Some(session) = session else { return Ok(None) };
    let presented_at = session.now - waited;
    // The account first, as everywhere; then nothing about it or its sessions changes until the commit.
    if accounts::lock(tx, &session.user_id).await.is_err_and(|f| f.code() == ErrorCode::UserNotFound) {
        return Ok(None);
    }
    let found = sqlx::query!(
        r#"SELECT sessions.ended_at AS "ended_at: DateTime<Utc>", sessions.expires_at AS "expires_at: DateTime<Utc>",
                  sessions.absolute_expires_at AS "absolute_end: DateTime<Utc>", users.is_active AS "is_active: bool",
                  refresh_tokens.issued_at AS "issued_at: DateTime<Utc>",
                  refresh_tokens.spent_at AS "spent_at: DateTime<Utc>", refresh_tokens.parent_hash,
                  UTC_TIMESTAMP(6) AS "now: DateTime<Utc>"
           FROM refresh_tokens
           JOIN sessions ON sessions.id = refresh_tokens.session_id
           JOIN users ON users.id = sessions.user_id
           WHERE refresh_tokens.token_hash = ?
           FOR UPDATE"#,
        presented.hash
    )
    .fetch_optional(tx)
    .await
    .map_err(failed)?;
    Ok(found.map(|row| Found {
        presented_at,
        now: row.now,
        session_id: session.id,
        user_id: session.user_id,
        is_active: row.is_active,
        ended: row.ended_at.is_some(),
        expires_at: row.expires_at,
        absolute_end: row.absolute_end,
        issued_at: row.issued_at,
        spent_at: row.spent_at,
        parent: row.parent_hash,
    }))
}

/// Whether another child of the same parent was spent, and thereby stands for the session.
async fn was_overtaken(tx: &mut MySqlConnection, found: &Found, hash: &[u8]) -> Outcome<bool> {
    let Some(parent) = &found.parent else { return Ok(false) };
    let spent = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM refresh_tokens WHERE parent_hash = ? AND token_hash <> ? AND spent_at IS NOT NULL",
        parent,
        hash
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    Ok(spent > 0)
}

/// Whether a child of the presented token is known to have reached its client before the token was presented again.
async fn child_has_arrived(tx: &mut MySqlConnection, hash: &[u8], at: DateTime<Utc>) -> Outcome<bool> {
    let arrived = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM refresh_tokens WHERE parent_hash = ? AND (spent_at IS NOT NULL OR used_at < ?)",
        hash,
        at
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    Ok(arrived > 0)
}

/// The one conditional write of a rotation.
async fn mark_spent(tx: &mut MySqlConnection, hash: &[u8], now: DateTime<Utc>) -> Outcome<bool> {
    let done = sqlx::query!(
        "UPDATE refresh_tokens SET spent_at = ? WHERE token_hash = ? AND spent_at IS NULL",
        now,
        hash
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() == 1)
}

async fn end_reused(tx: &mut MySqlConnection, found: &Found, device: &Device) -> Outcome<Refreshed> {
    let by = By { actor_id: None, device: Some(device) };
    end(tx, &found.user_id, &found.session_id, Because::TokenReused, by).await?;
    Ok(Refreshed::Refused(ErrorCode::TokenInvalid, "reused"))
}

/// Notes that access tokens were seen at an edge: proof that the answers that carried them have arrived.
///
/// # Errors
/// GW001 when the database is away.
pub async fn note_use(identity: &Identity, uses: &[TokenUse]) -> Outcome<()> {
    transaction(&identity.pool, "note_use", uses, |tx, uses| {
        Box::pin(async move {
            for used in uses.iter().take(MAX_USES) {
                let at = used.at.and_then(from_timestamp);
                // The tokens of a sign-in have no parent that could be presented again.
                sqlx::query!(
                    "UPDATE refresh_tokens
                     SET used_at = IF(? BETWEEN UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND AND UTC_TIMESTAMP(6),
                                      ?, UTC_TIMESTAMP(6))
                     WHERE access_jti = ? AND used_at IS NULL AND parent_hash IS NOT NULL",
                    at,
                    TOLD_WITHIN,
                    at,
                    used.token_id
                )
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            }
            Ok(())
        })
    })
    .await
}

static REFRESHES: LazyLock<prometheus::IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_refreshes_total",
        "Refreshes by cause: rotated, lost_answer, concurrent, overtaken, reused, expired, ended, unknown",
        &["cause"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
