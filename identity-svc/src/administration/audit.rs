//! The audit log of an account: what was done to it, and what it did to others.

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::{AuditEntry, ListAuditResponse};
use contract::{ErrorCode, Failure, Outcome, is_canonical_id, to_timestamp};
use serde_json::Value;
use sqlx::MySqlConnection;
use sqlx::types::Json;

use super::Actor;
use crate::accounts;
use crate::identity::Identity;

const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 100;
/// Above every id.
const FIRST_CURSOR: &str = "g";

/// Entries, newest first. The log of an account that was deleted can still be read.
///
/// # Errors
/// AUTH004; USER001 when there is neither such an account nor an entry; REQ001 for a limit or cursor that is none.
pub async fn list(
    identity: &Identity,
    actor: &Actor,
    user_id: &str,
    limit: i32,
    cursor: &str,
) -> Outcome<ListAuditResponse> {
    let limit = match limit {
        0 => DEFAULT_LIMIT,
        1..=MAX_LIMIT => limit,
        _ => return Err(Failure::field("limit", format!("must be 1 to {MAX_LIMIT}"))),
    };
    // Ids are made in the order of time, so that the last one of a page is where the next begins.
    let before = match cursor {
        "" => FIRST_CURSOR,
        cursor if is_canonical_id(cursor) => cursor,
        _ => return Err(Failure::field("cursor", "must be the next_cursor of an earlier answer")),
    };
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    let mut entries = read(&mut connection, user_id, before, limit + 1).await?;
    if entries.is_empty() && before == FIRST_CURSOR {
        match accounts::find(&mut connection, user_id).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => return Err(failure),
            _ => {}
        }
    }
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|entry| entry.id.clone()).unwrap_or_default();
    Ok(ListAuditResponse { entries, next_cursor })
}

/// Each half is read from its own index, so that a long log costs no more than a page.
async fn read(
    connection: &mut MySqlConnection,
    user_id: &str,
    before: &str,
    limit: i32,
) -> Outcome<Vec<AuditEntry>> {
    let rows = sqlx::query!(
        r#"SELECT audit_log.id, at AS "at: DateTime<Utc>", actor_id, action, target_id, ip_address, request_id,
                  details AS "details: Json<Value>"
           FROM ((SELECT id FROM audit_log WHERE target_id = ? AND id < ? ORDER BY id DESC LIMIT ?)
                 UNION
                 (SELECT id FROM audit_log WHERE actor_id = ? AND id < ? ORDER BY id DESC LIMIT ?)) AS page
           JOIN audit_log ON audit_log.id = page.id
           ORDER BY audit_log.id DESC LIMIT ?"#,
        user_id,
        before,
        limit,
        user_id,
        before,
        limit,
        limit
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(rows
        .into_iter()
        .map(|row| AuditEntry {
            id: row.id,
            at: Some(to_timestamp(row.at)),
            actor_id: row.actor_id,
            action: row.action,
            target_id: row.target_id,
            ip_address: row.ip_address,
            request_id: row.request_id,
            details_json: row.details.0.to_string(),
        })
        .collect())
}
