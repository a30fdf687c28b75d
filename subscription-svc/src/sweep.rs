//! What time alone changes: trials, cancelled periods, the grace of late payments and reservations end. The count of
//! subscriptions for metrics goes on along with it.

use std::time::Duration;

use contract::Outcome;

use crate::census::Census;
use crate::service::Service;
use crate::{subscriptions, usage};
use chassis::clock::agreed;
use chassis::mysql::{failed, in_time};

const INTERVAL: Duration = Duration::from_secs(2);
/// The longest that one turn may take; the next goes on where it was.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// Sweeps for as long as the process lives. Every replica may: each subscription is looked at again under its lock.
pub async fn run(service: Service) {
    let mut census = Census::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let swept = async {
            once(&service).await?;
            census.go_on(&service.pool).await
        };
        if let Err(failure) = in_time(TURN_LIMIT, swept).await {
            tracing::warn!(cause = ?failure.cause(), "the sweep failed: {failure}");
        }
    }
}

/// Ends what is over, with the change of tier that follows, and releases what has expired.
///
/// # Errors
/// GW001 when the database is away.
pub async fn once(service: &Service) -> Outcome<()> {
    let now = agreed(&mut *service.pool.acquire().await.map_err(failed)?).await.map_err(failed)?;
    for user_id in subscriptions::lapsed_users(&service.pool, now).await? {
        subscriptions::lapse(service, &user_id).await?;
    }
    usage::sweep(&service.pool).await
}
