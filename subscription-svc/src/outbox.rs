//! Tier changes on their way to identity-svc: written in the transaction that makes the change, sent until they are
//! acknowledged.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chassis::grpc::InternalChannel;
use chassis::mysql::failed;
use contract::identity::SetTierRequest;
use contract::identity::user_service_client::UserServiceClient;
use contract::{ErrorCode, Failure, Outcome, Tier};
use prometheus::IntGauge;
use sqlx::{MySqlConnection, MySqlPool};
use tokio::sync::Notify;

use crate::clock::now;
use crate::service::IDENTITY;

/// How often the table is read when nothing calls for it earlier: a replica that died may have left something.
const POLL: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const BATCH: i64 = 100;

/// Has identity-svc told of a tier. The caller holds the lock of the user's subscription, so that the ids of one
/// user's changes have their order.
///
/// # Errors
/// GW001 when the database is away.
pub async fn append(tx: &mut MySqlConnection, user_id: &str, tier: Tier) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO tier_outbox (user_id, tier, created_at) VALUES (?, ?, ?)",
        user_id,
        tier.name(),
        now()
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

struct Row {
    id: i64,
    user_id: String,
    tier: String,
}

/// Sends what is in the outbox. Cheap to clone.
///
/// Every replica relays, without a lock: identity-svc ignores a revision that is not newer than the last, so that two
/// relays which send the same row, or rows of one user in the wrong order, do no harm.
#[derive(Clone)]
pub struct Relay {
    pool: MySqlPool,
    identity: InternalChannel,
    hurry: Arc<Notify>,
}

impl Relay {
    pub fn new(pool: MySqlPool, identity: InternalChannel) -> Self {
        Relay {
            pool,
            identity,
            hurry: Arc::new(Notify::new()),
        }
    }

    /// Has the outbox read at once, since something was just committed to it.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Relays for as long as the process lives.
    pub async fn run(self) {
        let mut pause = POLL;
        loop {
            pause = match self.send_all().await {
                Ok(()) => POLL,
                Err(failure) => {
                    tracing::warn!(cause = ?failure.cause(), "tier changes wait: {failure}");
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
            let _ = tokio::time::timeout(pause, self.hurry.notified()).await;
        }
    }

    /// Sends every row there is, oldest first.
    ///
    /// # Errors
    /// What keeps a row from being sent; it stays.
    pub async fn send_all(&self) -> Outcome<()> {
        loop {
            let rows = sqlx::query_as!(
                Row,
                "SELECT id, user_id, tier FROM tier_outbox ORDER BY id LIMIT ?",
                BATCH
            )
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
            WAITING.set(rows.len() as i64);
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                self.send(&row).await?;
                sqlx::query!("DELETE FROM tier_outbox WHERE id = ?", row.id)
                    .execute(&self.pool)
                    .await
                    .map_err(failed)?;
            }
        }
    }

    async fn send(&self, row: &Row) -> Outcome<()> {
        let request = SetTierRequest {
            user_id: row.user_id.clone(),
            tier: row.tier.clone(),
            revision: row.id,
        };
        match UserServiceClient::new(self.identity.clone())
            .set_tier(request)
            .await
        {
            Ok(_) => Ok(()),
            Err(status) => match Failure::from_status(status, IDENTITY) {
                // Deleted meanwhile: nobody is left to be told about.
                failure if failure.code() == ErrorCode::UserNotFound => Ok(()),
                failure => Err(failure),
            },
        }
    }
}

static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "subscription_tier_outbox",
        "Tier changes that identity-svc has yet to be told"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
