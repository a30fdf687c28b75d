//! What is done without a word from Stripe.

use std::time::Duration;

use chassis::mysql::in_time;
use chrono::{DateTime, TimeDelta, Utc};
use contract::{ErrorCode, Outcome};
use sqlx::MySqlConnection;

use super::look::look;
use super::{Billing, Customer, customers};
use crate::forgetting::Step;
use crate::service::Service;

/// How long a repeated event is recognised; Stripe sends one again for three days, or by hand for thirty.
const EVENTS_KEPT: TimeDelta = TimeDelta::days(40);

const INTERVAL: Duration = Duration::from_secs(2);
/// The longest that one turn may take, with Stripe slow for all of it; the next goes on where it was.
const TURN_LIMIT: Duration = Duration::from_secs(300);

/// When a customer comes again for which Stripe was away, behind those that waited meanwhile.
const AWAY_PAUSE: TimeDelta = TimeDelta::seconds(5);
/// When one comes again that Stripe refuses.
const REFUSED_PAUSE: TimeDelta = TimeDelta::minutes(10);

/// Sweeps for as long as the process lives. On its own, as it waits for Stripe.
pub async fn run(service: Service) {
    let Some(billing) = &service.billing else { return };
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(failure) = in_time(TURN_LIMIT, sweep(&service, billing)).await {
            tracing::warn!(cause = ?failure.cause(), "the sweep of customers failed: {failure}");
        }
    }
}

/// Looks at customers for whom an event may have been lost, and ends what deleted accounts pay for. Every replica may.
///
/// # Errors
/// GW001 or GW002 when the database or Stripe is away; what is left comes with the next sweep.
async fn sweep(service: &Service, billing: &Billing) -> Outcome<()> {
    let ended = end_for_the_deleted(service, billing).await;
    look_at_the_due(service, billing).await.and(ended)
}

async fn look_at_the_due(service: &Service, billing: &Billing) -> Outcome<()> {
    for customer in customers::due(&service.pool).await? {
        match look(service, billing, &customer, None).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
            outcome => go_on(service, &customer, outcome.map(drop)).await?,
        }
    }
    Ok(())
}

/// Deleting a customer ends all that it pays for.
async fn end_for_the_deleted(service: &Service, billing: &Billing) -> Outcome<()> {
    for customer in customers::left_behind(&service.pool).await? {
        go_on(service, &customer, delete(service, billing, &customer.id).await).await?;
    }
    Ok(())
}

async fn delete(service: &Service, billing: &Billing, id: &str) -> Outcome<()> {
    billing.stripe.delete("delete a customer", &format!("/v1/customers/{id}")).await?;
    customers::forget(&service.pool, id).await
}

/// Whatever became of one customer, it is not the first in the next round again. Only what concerns all ends this one.
async fn go_on(service: &Service, customer: &Customer, outcome: Outcome<()>) -> Outcome<()> {
    let Err(failure) = outcome else { return Ok(()) };
    let is_refusal = failure.code() == ErrorCode::Internal;
    let pause = if is_refusal { REFUSED_PAUSE } else { AWAY_PAUSE };
    customers::postpone(&service.pool, &customer.id, pause).await?;
    if is_refusal {
        tracing::warn!(customer = customer.id, cause = ?failure.cause(), "a customer is left for later: {failure}");
        return Ok(());
    }
    Err(failure)
}

/// Forgets old events.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> Step<'_> {
    let old = sqlx::query!("DELETE FROM stripe_events WHERE taken_at < ? LIMIT 1000", now - EVENTS_KEPT);
    Box::pin(old.execute(connection))
}
