//! The rows of `mail_outbox`. A replica that takes a mail has it for a lease; when it dies, another takes the mail
//! after that. So each mail is sent at least once, and only after a death twice. All times are the database's: no mail
//! waits, or is given up, for a clock that was wrong.

use std::ops::RangeInclusive;
use std::time::Duration;

use chassis::clock::shared;
use chassis::mysql::{failed, transaction, write};
use chrono::{DateTime, Utc};
use contract::identity::Device;
use contract::{Failure, Outcome};
use serde_json::json;
use sqlx::{MySqlConnection, MySqlPool};

use super::Kind;
use super::tokens::Purpose;
use crate::audit::{self, Action, By};
use crate::sign_in::MAX_ADDRESS;

/// Longer than making a mail's token and sending it may take.
const LEASE: Duration = Duration::from_secs(60);

/// A mail that was taken.
pub struct Queued {
    pub id: i64,
    pub kind: Kind,
    pub email: String,
    pub device: Device,
    pub queued_at: DateTime<Utc>,
    /// How long ago that was when it was taken.
    pub age: Duration,
    /// How often the mail server did not want it yet.
    pub refusals: u32,
}

struct Row {
    id: i64,
    kind: String,
    email: String,
    ip_address: String,
    request_id: String,
    queued_at: DateTime<Utc>,
    now: DateTime<Utc>,
    refusals: i32,
}

/// Writes a mail into the outbox, due at once.
pub async fn append(tx: &mut MySqlConnection, kind: Kind, email: &str, device: &Device) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO mail_outbox (kind, email, ip_address, request_id, queued_at, due_at, refusals)
         VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), 0)",
        kind.name(),
        email,
        audit::plain(&device.ip_address, MAX_ADDRESS),
        audit::plain(&device.request_id, audit::MAX_REQUEST_ID)
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Withdraws links to an address that wait to be sent: what they are for has been done.
///
/// # Errors
/// GW001 when the database is away.
pub async fn withdraw(tx: &mut MySqlConnection, purpose: Purpose, email: &str) -> Outcome<()> {
    sqlx::query!("DELETE FROM mail_outbox WHERE email = ? AND kind = ?", email, purpose.name())
        .execute(tx)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Takes mails that are due, the longest due first, of which at most `most_again` were not wanted before. Others that
/// take at the same time get others.
pub async fn take(pool: &MySqlPool, most: usize, most_again: usize) -> Outcome<Vec<Queued>> {
    let rows = transaction(pool, "take_mails", (most, most_again), |tx, (most, most_again)| {
        Box::pin(async move {
            let now = shared(tx).await.map_err(failed)?;
            let mut rows = due(tx, now, 1..=i32::MAX, *most_again).await?;
            rows.extend(due(tx, now, 0..=0, most.saturating_sub(rows.len())).await?);
            for row in &rows {
                sqlx::query!("UPDATE mail_outbox SET due_at = ? WHERE id = ?", now + LEASE, row.id)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
            }
            Ok(rows)
        })
    })
    .await?;
    Ok(rows.into_iter().filter_map(queued).collect())
}

async fn due(
    tx: &mut MySqlConnection,
    now: DateTime<Utc>,
    refusals: RangeInclusive<i32>,
    most: usize,
) -> Outcome<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"SELECT id, kind, email, ip_address, request_id, queued_at AS "queued_at: DateTime<Utc>",
                  UTC_TIMESTAMP(6) AS "now: DateTime<Utc>", refusals
           FROM mail_outbox WHERE due_at <= ? AND refusals BETWEEN ? AND ?
           ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED"#,
        now,
        refusals.start(),
        refusals.end(),
        most as u64
    )
    .fetch_all(tx)
    .await
    .map_err(failed)
}

/// `None` for a kind that a newer version of this program has written; a replica of that version sends it.
fn queued(row: Row) -> Option<Queued> {
    let device = Device { ip_address: row.ip_address, user_agent: String::new(), request_id: row.request_id };
    Some(Queued {
        id: row.id,
        kind: Kind::parse(&row.kind)?,
        email: row.email,
        device,
        queued_at: row.queued_at,
        age: (row.now - row.queued_at).to_std().unwrap_or_default(),
        refusals: u32::try_from(row.refusals).unwrap_or(0),
    })
}

/// Puts a mail back that could not be tried; it is due again at once.
pub async fn put_back(pool: &MySqlPool, mail: &Queued) -> Outcome<()> {
    write(pool, sqlx::query!("UPDATE mail_outbox SET due_at = UTC_TIMESTAMP(6) WHERE id = ?", mail.id))
        .await?;
    Ok(())
}

/// Puts a mail back that was not wanted yet, for a later time.
pub async fn delay(pool: &MySqlPool, mail: &Queued, pause: Duration) -> Outcome<()> {
    write(pool, sqlx::query!(
        "UPDATE mail_outbox SET due_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND, refusals = refusals + 1 WHERE id = ?",
        i64::try_from(pause.as_secs()).map_err(Failure::internal)?,
        mail.id
    )).await?;
    Ok(())
}

/// Removes a mail that will not be sent.
pub async fn drop_mail(pool: &MySqlPool, mail: &Queued) -> Outcome<()> {
    write(pool, sqlx::query!("DELETE FROM mail_outbox WHERE id = ?", mail.id)).await?;
    Ok(())
}

/// Removes a mail that the mail server has taken, and keeps in the audit log that it was sent.
pub async fn sent(pool: &MySqlPool, mail: &Queued) -> Outcome<()> {
    transaction(pool, "mail_sent", mail, |tx, mail| {
        Box::pin(async move {
            sqlx::query!("DELETE FROM mail_outbox WHERE id = ?", mail.id)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            let user_id = sqlx::query_scalar!("SELECT id FROM users WHERE email = ?", mail.email)
                .fetch_optional(&mut *tx)
                .await
                .map_err(failed)?;
            let by = By { actor_id: None, device: Some(&mail.device) };
            let details = json!({ "kind": mail.kind.name() });
            audit::record(tx, by, Action::MailSent, user_id.as_deref(), None, details).await
        })
    })
    .await
}

/// What is in the outbox.
pub struct Waiting {
    pub count: i64,
    /// Those that nobody is sending, and whose time has come.
    pub due: i64,
    /// How long the oldest does, in microseconds.
    pub oldest: Option<i64>,
}

/// How many mails wait, and for how long the oldest does.
pub async fn waiting(pool: &MySqlPool) -> Outcome<Waiting> {
    sqlx::query_as!(
        Waiting,
        r#"SELECT COUNT(*) AS "count: i64", COUNT(IF(due_at <= UTC_TIMESTAMP(6), 1, NULL)) AS "due: i64",
                  TIMESTAMPDIFF(MICROSECOND, MIN(queued_at), UTC_TIMESTAMP(6)) AS "oldest: i64"
           FROM mail_outbox"#
    )
    .fetch_one(pool)
    .await
    .map_err(failed)
}
