//! Ending sessions: one, or many of an account. However many they are, it takes a few statements, since the numbers of
//! events are given out under a lock that everybody waits for; and only of sessions that may have an access token left
//! is an event told.

use chassis::mysql::{failed, transaction, write};
use chrono::{DateTime, Duration, Utc};
use contract::identity::Device;
use contract::{ErrorCode, Failure, Outcome};
use serde_json::json;
use sqlx::{MySqlConnection, MySqlPool};

use super::Because;
use crate::audit::{self, Action, By};
use crate::events::{self, Change};
use crate::identity::Identity;
use crate::{accounts, api_keys, token_lives};

/// How much the clock of a replica that gave out a token may differ from the database's.
const SKEW: Duration = Duration::seconds(60);
/// No session is seen later than that, whoever wrote down when it was.
const NEVER: DateTime<Utc> = DateTime::from_timestamp_nanos(i64::MAX);

/// Ends a session, if it is the user's and has not ended; tokens already issued die within a second. The caller has
/// locked the account.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end(
    tx: &mut MySqlConnection,
    user_id: &str,
    session_id: &str,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let ended = sqlx::query!(
        "UPDATE sessions SET ended_at = UTC_TIMESTAMP(6), ended_because = ?
         WHERE id = ? AND user_id = ? AND ended_at IS NULL",
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
    let sequence = events::append(tx, user_id, &change).await?;
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
    let given = (user_id, session_id, by);
    transaction(&identity.pool, "end_session", given, move |tx, (user_id, session_id, by)| {
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
            accounts::lock(tx, user_id).await?;
            end(tx, user_id, session_id, because, *by).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Ends every session of the user but the given one.
///
/// # Errors
/// USER001.
pub async fn end_all(
    identity: &Identity,
    user_id: &str,
    but: Option<&str>,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    let given = (user_id, but, by);
    transaction(&identity.pool, "end_sessions", given, move |tx, (user_id, but, by)| {
        Box::pin(async move {
            accounts::lock(tx, user_id).await?;
            end_others(tx, user_id, *but, because, *by).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Ends every session of an account that the caller has locked, but the given one. One act, and one entry of the log.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end_others(
    tx: &mut MySqlConnection,
    user_id: &str,
    but: Option<&str>,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    close(tx, user_id, but, because).await?.tell(tx, user_id, because, by).await
}

/// Ends every session and API key of an account that the caller has locked: whoever had a hold of it may have made both.
/// One act, and one entry of the log, and another that names the keys.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end_everything(
    tx: &mut MySqlConnection,
    user_id: &str,
    because: Because,
    by: By<'_>,
) -> Outcome<()> {
    close_everything(tx, user_id, because).await?.tell(tx, user_id, because, by).await
}

/// Ends every open session of everybody, some hundred at a time, and gives how many. No event is told of them: it is for a
/// database that was restored, about which edges ask anyway.
///
/// # Errors
/// GW001 when the database is away.
pub async fn end_everybodys(pool: &MySqlPool) -> Outcome<u64> {
    let mut all = 0;
    loop {
        let ended = write(pool, sqlx::query!(
            "UPDATE sessions SET ended_at = UTC_TIMESTAMP(6), ended_because = ? WHERE ended_at IS NULL LIMIT 500",
            Because::Restored.name()
        )).await?
        .rows_affected();
        all += ended;
        if ended == 0 {
            return Ok(all);
        }
    }
}

/// Ends the sessions that were seen the longest ago, so that there is room for one more. The caller has locked the
/// account.
///
/// # Errors
/// GW001 when the database is away.
pub async fn make_room(tx: &mut MySqlConnection, user_id: &str, most: usize, device: &Device) -> Outcome<()> {
    let too_many = sqlx::query!(
        r#"SELECT id, last_seen_at AS "last_seen_at: DateTime<Utc>" FROM sessions
           WHERE user_id = ? AND ended_at IS NULL AND expires_at > UTC_TIMESTAMP(6)
           ORDER BY last_seen_at DESC, id DESC LIMIT 1 OFFSET ?"#,
        user_id,
        i64::try_from(most.saturating_sub(1)).map_err(Failure::internal)?
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    let Some(last) = too_many else { return Ok(()) };
    let ended = close_until(tx, user_id, None, (last.last_seen_at, &last.id), Because::TooMany).await?;
    ended.tell(tx, user_id, Because::TooMany, By::user(user_id, Some(device))).await
}

/// Sessions and API keys that were ended in a transaction.
pub struct Ended {
    count: u64,
    keys: Vec<String>,
    /// Those that may have an access token left.
    alive: Vec<Change>,
}

/// Ends the open sessions of an account that the caller has locked, but the given one. Tokens already issued die with
/// [`announce`](Ended::announce), which comes last.
///
/// # Errors
/// GW001 when the database is away.
pub async fn close(
    tx: &mut MySqlConnection,
    user_id: &str,
    but: Option<&str>,
    because: Because,
) -> Outcome<Ended> {
    close_until(tx, user_id, but, (NEVER, ""), because).await
}

/// As [`close`], for all of them and the API keys.
///
/// # Errors
/// GW001 when the database is away.
pub async fn close_everything(tx: &mut MySqlConnection, user_id: &str, because: Because) -> Outcome<Ended> {
    let mut ended = close(tx, user_id, None, because).await?;
    ended.keys = api_keys::remove_all(tx, user_id).await?;
    // The session of a key's tokens is the key.
    let keys = ended.keys.iter().map(|key| Change::SessionEnded { session_id: key.clone() });
    ended.alive.extend(keys);
    Ok(ended)
}

/// As [`close`], for those that were seen no later than the given one.
async fn close_until(
    tx: &mut MySqlConnection,
    user_id: &str,
    but: Option<&str>,
    (seen, id): (DateTime<Utc>, &str),
    because: Because,
) -> Outcome<Ended> {
    let (but, since) = (but.unwrap_or_default(), token_lives::alive(tx).await?.since - SKEW);
    let alive = sqlx::query_scalar!(
        "SELECT id FROM sessions
         WHERE user_id = ? AND ended_at IS NULL AND id <> ? AND last_seen_at > ?
           AND (last_seen_at < ? OR (last_seen_at = ? AND id <= ?))",
        user_id,
        but,
        since,
        seen,
        seen,
        id
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    let ended = sqlx::query!(
        "UPDATE sessions SET ended_at = UTC_TIMESTAMP(6), ended_because = ?
         WHERE user_id = ? AND ended_at IS NULL AND id <> ?
           AND (last_seen_at < ? OR (last_seen_at = ? AND id <= ?))",
        because.name(),
        user_id,
        but,
        seen,
        seen,
        id
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    let alive = alive.into_iter().map(|session_id| Change::SessionEnded { session_id }).collect();
    Ok(Ended { count: ended.rows_affected(), keys: Vec::new(), alive })
}

impl Ended {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Has the ends bind on tokens already issued, keeps in the log which keys it were, and gives the number of the last
    /// event.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn announce(
        &self,
        tx: &mut MySqlConnection,
        user_id: &str,
        by: By<'_>,
    ) -> Outcome<Option<i64>> {
        if self.alive.is_empty() {
            return Ok(None);
        }
        let sequence = Some(events::append_all(tx, user_id, &self.alive).await?);
        if !self.keys.is_empty() {
            let details = json!({ "api_key_ids": self.keys });
            audit::record(tx, by, Action::ApiKeyRevoked, Some(user_id), sequence, details).await?;
        }
        Ok(sequence)
    }

    /// Announces the ends and keeps them in the log, if there were any.
    async fn tell(
        self,
        tx: &mut MySqlConnection,
        user_id: &str,
        because: Because,
        by: By<'_>,
    ) -> Outcome<()> {
        let sequence = self.announce(tx, user_id, by).await?;
        if self.count == 0 {
            return Ok(());
        }
        let details = json!({ "sessions": self.count, "because": because.name() });
        audit::record(tx, by, Action::SessionsEnded, Some(user_id), sequence, details).await
    }
}
