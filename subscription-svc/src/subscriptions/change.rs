//! Changes to one subscription, each with the change of tier that follows from it.

use chassis::clock::{agreed_with, shared};
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, Utc};
use contract::{ErrorCode, Outcome};
use sqlx::MySqlConnection;

use super::{Subscription, lock, write};
use crate::service::Service;
use crate::{outbox, usage};

/// Changes a subscription under its lock, as of now by the clock of the database; a change of the tier that counts goes into
/// the outbox in the same transaction.
///
/// # Errors
/// USER001; GW001 when the database is away.
pub async fn change(
    service: &Service,
    name: &'static str,
    user_id: &str,
    apply: impl Fn(&mut Subscription, DateTime<Utc>) + Send + Sync,
) -> Outcome<Subscription> {
    let changed = transaction(&service.pool, name, (user_id, apply), |tx, (user_id, apply)| {
        Box::pin(async move {
            let before = lock(tx, user_id).await?;
            let now = shared(tx).await.map_err(failed)?;
            change_locked(tx, before, now, &|subscription| apply(subscription, now)).await
        })
    })
    .await?;
    service.relay.hurry();
    Ok(changed)
}

/// Changes a subscription whose lock is held; `now` is the database's. The relay may be
/// [hurried](crate::outbox::Relay::hurry) once it is committed.
///
/// # Errors
/// GW001 when the database is away.
pub async fn change_locked(
    tx: &mut MySqlConnection,
    before: Subscription,
    now: DateTime<Utc>,
    apply: &(impl Fn(&mut Subscription) + Send + Sync),
) -> Outcome<Subscription> {
    let mut subscription = before.clone();
    apply(&mut subscription);
    if subscription == before {
        return Ok(before);
    }
    subscription.updated_at = now;
    write(tx, &subscription).await?;
    usage::follow(tx, &subscription).await?;
    // When the time of a subscription has run out, identity-svc may have been told of that or not: both the tier
    // that counted and the one that was bought may be what it knows. Telling it twice does no harm.
    let after = subscription.effective_tier(now);
    if before.effective_tier(now) != after || before.tier != after {
        outbox::append(tx, &subscription.user_id, after).await?;
    }
    Ok(subscription)
}

/// Ends a subscription whose time is over by all clocks, and changes nothing when it is not.
///
/// # Errors
/// GW001 when the database is away.
pub async fn lapse(service: &Service, user_id: &str) -> Outcome<()> {
    let ended = change(service, "lapse_subscription", user_id, |subscription, shared| {
        subscription.lapse(agreed_with(shared));
    });
    match ended.await {
        Err(failure) if failure.code() == ErrorCode::UserNotFound => Ok(()),
        outcome => outcome.map(drop),
    }
}
