//! Tier changes on their way to identity-svc: written in the transaction that makes the change, sent until they are
//! acknowledged.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chassis::grpc::InternalChannel;
use chassis::mysql::{failed, in_time, write};
use chrono::{DateTime, Utc};
use contract::identity::SetTierRequest;
use contract::identity::user_service_client::UserServiceClient;
use contract::{ErrorCode, Failure, Outcome, Tier};
use prometheus::{Gauge, IntGauge};
use sqlx::{MySqlConnection, MySqlPool};
use tokio::sync::Notify;

use crate::service::IDENTITY;
use chassis::clock::now;

/// The longest that one statement may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often the table is read when nothing calls for it earlier: a replica that died may have left something.
const POLL: Duration = Duration::from_millis(500);
/// After a failure the pause doubles from this...
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// ...to this, so that a tier binds within a second or two of identity-svc being back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
pub const BATCH: i64 = 100;

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

/// A tier change that waits.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub user_id: String,
    pub tier: String,
}

/// What waits: the table, or what stands for it in the simulation.
pub trait Outbox: Clone + Send + Sync + 'static {
    /// The first [`BATCH`] rows after this id, in the order of ids.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn after(&self, id: i64) -> impl Future<Output = Outcome<Vec<Row>>> + Send;

    /// Forgets a row.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn delete(&self, id: i64) -> impl Future<Output = Outcome<()>> + Send;

    /// How many wait, and since when the oldest has.
    ///
    /// # Errors
    /// GW001 when the database is away.
    fn waiting(&self) -> impl Future<Output = Outcome<(i64, Option<DateTime<Utc>>)>> + Send;
}

impl Outbox for MySqlPool {
    async fn after(&self, id: i64) -> Outcome<Vec<Row>> {
        let read = async {
            sqlx::query_as!(
                Row,
                "SELECT id, user_id, tier FROM tier_outbox WHERE id > ? ORDER BY id LIMIT ?",
                id,
                BATCH
            )
            .fetch_all(self)
            .await
            .map_err(failed)
        };
        in_time(LIMIT, read).await
    }

    async fn delete(&self, id: i64) -> Outcome<()> {
        let deleted = sqlx::query!("DELETE FROM tier_outbox WHERE id = ?", id);
        in_time(LIMIT, write(self, deleted)).await.map(drop)
    }

    async fn waiting(&self) -> Outcome<(i64, Option<DateTime<Utc>>)> {
        let waiting = sqlx::query!(
            r#"SELECT COUNT(*) AS "count: i64", MIN(created_at) AS "oldest: DateTime<Utc>" FROM tier_outbox"#
        )
        .fetch_one(self);
        let waiting = in_time(LIMIT, async { waiting.await.map_err(failed) }).await?;
        Ok((waiting.count, waiting.oldest))
    }
}

/// Sends what is in the outbox. Cheap to clone.
///
/// Every replica relays, and there is no lock between them, because none is needed for the order that counts:
///
/// - The ids of one user's rows grow in the order in which their transactions commit: a row is inserted while the
///   lock of the user's subscription is held, and the lock is held until the commit. So a later change has the
///   higher id, and it is not visible before the earlier one is.
/// - The id is the revision. identity-svc compares it with the last it has stored in the transaction that stores the
///   tier, and ignores what is not newer. Two relays that send the same row, or rows of one user in the wrong order,
///   end with the tier of the highest revision.
/// - A row is deleted after it was acknowledged, never before. A relay that dies in between leaves a row that is sent
///   again, which the revision makes harmless.
///
/// A lock held across a call to identity-svc would instead let one slow relay hold back all the others.
#[derive(Clone)]
pub struct Relay<O = MySqlPool> {
    outbox: O,
    identity: InternalChannel,
    hurry: Arc<Notify>,
}

impl<O: Outbox> Relay<O> {
    pub fn new(outbox: O, identity: InternalChannel) -> Self {
        Relay { outbox, identity, hurry: Arc::new(Notify::new()) }
    }

    /// Has the outbox read at once, since something was just committed to it.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Relays for as long as the process lives.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = self.send_all().await;
            let measured = self.measure().await;
            let wait = match sent.and(measured) {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    POLL
                }
                Err(failure) => {
                    tracing::warn!(cause = ?failure.cause(), "tier changes wait: {failure}");
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            let _ = tokio::time::timeout(wait, self.hurry.notified()).await;
        }
    }

    /// Sends every row there is, oldest first. A row that is refused stays, and does not hold back the others; when
    /// identity-svc is away, all of them stay.
    ///
    /// # Errors
    /// What keeps a row from being sent.
    pub async fn send_all(&self) -> Outcome<()> {
        let mut seen = 0;
        let mut refused = Ok(());
        loop {
            let rows = self.outbox.after(seen).await?;
            if rows.is_empty() {
                return refused;
            }
            for row in rows {
                seen = row.id;
                match self.send(&row).await {
                    Ok(()) => self.outbox.delete(row.id).await?,
                    Err(failure) if is_away(&failure) => return Err(failure),
                    Err(failure) => refused = Err(failure),
                }
            }
        }
    }

    async fn send(&self, row: &Row) -> Outcome<()> {
        let request =
            SetTierRequest { user_id: row.user_id.clone(), tier: row.tier.clone(), revision: row.id };
        match UserServiceClient::new(self.identity.clone()).set_tier(request).await {
            Ok(_) => Ok(()),
            Err(status) => match Failure::from_status(status, IDENTITY) {
                // Deleted meanwhile: nobody is left to be told about.
                failure if failure.code() == ErrorCode::UserNotFound => Ok(()),
                failure => Err(failure),
            },
        }
    }

    /// Shows how many changes wait, and for how long the oldest has.
    async fn measure(&self) -> Outcome<()> {
        let (count, oldest) = self.outbox.waiting().await?;
        let lag = oldest.map_or(0, |oldest| (now() - oldest).num_milliseconds());
        WAITING.set(count);
        LAG.set(lag.max(0) as f64 / 1000.0);
        Ok(())
    }
}

/// Whether the next call would fare no better.
fn is_away(failure: &Failure) -> bool {
    matches!(failure.code(), ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Overloaded)
}

static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "subscription_tier_outbox",
        "Tier changes that identity-svc has yet to be told"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static LAG: LazyLock<Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "subscription_tier_outbox_lag_seconds",
        "Age of the oldest tier change that identity-svc has yet to be told"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
