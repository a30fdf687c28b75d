//! The audit log: who did what to whom, from where and when, written in the transaction of the act.

use std::time::Duration;

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
pub use contract::AuditAction as Action;
use contract::Outcome;
use contract::identity::Device;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use uuid::{NoContext, Timestamp, Uuid};

use crate::sweep;

/// Longest request id that is kept, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// Who acts, and from where.
#[derive(Clone, Copy)]
pub struct By<'a> {
    /// `None` when nobody was signed in.
    pub actor_id: Option<&'a str>,
    pub device: Option<&'a Device>,
}

impl<'a> By<'a> {
    /// The account `actor_id` at a device.
    pub fn user(actor_id: &'a str, device: Option<&'a Device>) -> Self {
        By { actor_id: Some(actor_id), device }
    }

    /// The platform itself, or whoever has a shell on the machine.
    pub const SYSTEM: By<'static> = By { actor_id: None, device: None };
}

/// Keeps an act on the account `target_id`, if it is on one. With an auth event in the same transaction it comes after it, so that the
/// entry can say when the act was enforced.
pub async fn record(
    tx: &mut MySqlConnection,
    by: By<'_>,
    action: Action,
    target_id: Option<&str>,
    sequence: Option<i64>,
    details: Value,
) -> Outcome<()> {
    let (address, request_id) =
        by.device.map_or(("", ""), |device| (device.ip_address.as_str(), device.request_id.as_str()));
    sqlx::query!(
        "INSERT INTO audit_log (id, at, actor_id, action, target_id, ip_address, request_id, sequence, details)
         VALUES (?, UTC_TIMESTAMP(6), ?, ?, ?, ?, ?, ?, ?)",
        Uuid::now_v7().to_string(),
        by.actor_id,
        action.name(),
        target_id,
        plain(address, crate::sign_in::MAX_ADDRESS),
        plain(request_id, MAX_REQUEST_ID),
        sequence,
        Json(details)
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Keeps the same act on many accounts, in one statement.
pub async fn record_all(
    tx: &mut MySqlConnection,
    by: By<'_>,
    action: Action,
    targets: impl Iterator<Item = &str>,
    details: Value,
) -> Outcome<()> {
    let (address, request_id) =
        by.device.map_or(("", ""), |device| (device.ip_address.as_str(), device.request_id.as_str()));
    let (address, request_id) =
        (plain(address, crate::sign_in::MAX_ADDRESS), plain(request_id, MAX_REQUEST_ID));
    let details = details.to_string();
    let mut statement = QueryBuilder::<MySql>::new(
        "INSERT INTO audit_log (id, at, actor_id, action, target_id, ip_address, request_id, details) ",
    );
    statement.push_values(targets, |mut row, target_id| {
        row.push_bind(Uuid::now_v7().to_string()).push("UTC_TIMESTAMP(6)").push_bind(by.actor_id);
        row.push_bind(action.name()).push_bind(target_id);
        row.push_bind(&address).push_bind(&request_id).push_bind(&details);
    });
    statement.build().execute(tx).await.map_err(failed)?;
    Ok(())
}

/// Removes what is older than `kept`, for as long as the process lives; nothing without one.
pub async fn sweep(pool: MySqlPool, kept: Option<Duration>) {
    let Some(kept) = kept else { return };
    sweep::sweep(pool, "old entries of the audit log", |connection, now| forget(connection, now - kept))
        .await;
}

/// One step. An entry's id says when it was made by the clock of who made it, and finds it; its time is the database's.
pub fn forget(connection: &mut MySqlConnection, before: DateTime<Utc>) -> sweep::Step<'_> {
    let first = before.timestamp().max(0).unsigned_abs();
    let first = Uuid::new_v7(Timestamp::from_unix(NoContext, first, 0)).to_string();
    let old =
        sqlx::query!("DELETE FROM audit_log WHERE id < ? AND at < ? ORDER BY id LIMIT 1000", first, before);
    Box::pin(old.execute(connection))
}

/// Visible ASCII alone, and no more than a column holds: what callers send must not make the act fail.
pub fn plain(text: &str, most: usize) -> String {
    text.chars().filter(char::is_ascii_graphic).take(most).collect()
}
