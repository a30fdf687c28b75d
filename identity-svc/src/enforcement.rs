//! When each edge began to enforce what: for the audit log, and to know who is alive when keys rotate.

use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::identity::ReportEnforcementRequest;
use contract::{Failure, Outcome, from_timestamp};
use sqlx::MySqlPool;

use crate::keys;

/// How long the times are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const MAX_RANGES: usize = 1000;
const MAX_KEYS: usize = 100;

/// Keeps what an edge reports.
///
/// # Errors
/// REQ001; GW001 when the database is away.
pub async fn note(pool: &MySqlPool, report: &ReportEnforcementRequest) -> Outcome<()> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !(1..=100).contains(&report.edge.len()) || !plain(&report.edge) {
        return Err(Failure::field("edge", "must have 1 to 100 visible ASCII characters"));
    }
    if report.enforced.len() > MAX_RANGES || report.key_ids.len() > MAX_KEYS {
        return Err(Failure::field(
            "enforced",
            format!("must be at most {MAX_RANGES}, with {MAX_KEYS} keys"),
        ));
    }
    if !report.enforced.is_empty() {
        transaction(pool, "note_enforcement", report, |tx, report| {
            Box::pin(async move {
                for range in &report.enforced {
                    sqlx::query!(
                        "INSERT INTO enforcements (edge, last_sequence, first_sequence, at) VALUES (?, ?, ?, ?)
                         ON DUPLICATE KEY UPDATE first_sequence = LEAST(first_sequence, VALUES(first_sequence))",
                        report.edge,
                        range.last_sequence,
                        range.first_sequence,
                        range.at.and_then(from_timestamp).unwrap_or_else(now)
                    )
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                }
                Ok(())
            })
        })
        .await?;
    }
    keys::hold(pool, &report.edge, &report.key_ids).await
}

/// Removes what is too old, in small steps, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        loop {
            let swept = sqlx::query!("DELETE FROM enforcements WHERE at < ? LIMIT 1000", now() - KEPT)
                .execute(&pool)
                .await;
            match swept {
                Ok(done) if done.rows_affected() == 1000 => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old times of enforcement were not removed");
                    break;
                }
            }
        }
    }
}
