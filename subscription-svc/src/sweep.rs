//! What time alone changes: trials, cancelled periods and the grace of late payments end, and keys of counted usage are forgotten.

use std::time::Duration;

use chassis::mysql::{failed, transaction};
use contract::Outcome;

use crate::service::Service;
use crate::{idempotency, subscriptions, usage};
use chassis::clock::now;

const INTERVAL: Duration = Duration::from_secs(2);
/// How long a repeated RecordUsage is recognised; callers give up long before.
const KEYS_KEPT_DAYS: i64 = 7;

/// Sweeps for as long as the process lives. Every replica may: each subscription is looked at again under its lock.
pub async fn run(service: Service) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(failure) = once(&service).await {
            tracing::warn!(cause = ?failure.cause(), "the sweep failed: {failure}");
        }
    }
}

/// Ends what is over, with the change of tier that follows, and forgets old keys.
///
/// # Errors
/// GW001 when the database is away.
pub async fn once(service: &Service) -> Outcome<()> {
    for user_id in subscriptions::lapsed_users(&service.pool, now()).await? {
        subscriptions::lapse(service, &user_id).await?;
    }
    usage::sweep(&service.pool).await?;
    idempotency::sweep(&service.pool).await?;
    let old = now() - chrono::Duration::days(KEYS_KEPT_DAYS);
    transaction(&service.pool, "forget_usage_keys", old, |tx, old| {
        Box::pin(async move {
            sqlx::query!("DELETE FROM usage_records WHERE recorded_at < ? LIMIT 1000", old)
                .execute(tx)
                .await
                .map_err(failed)?;
            Ok(())
        })
    })
    .await
}
