//! What is done without a word from Stripe.

use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::failed;
use chrono::TimeDelta;
use contract::{ErrorCode, Outcome};

use super::look::look;
use super::{Billing, customers};
use crate::service::Service;

/// How long a repeated event is recognised; Stripe sends one again for three days, or by hand for thirty.
const EVENTS_KEPT: TimeDelta = TimeDelta::days(40);

const INTERVAL: Duration = Duration::from_secs(2);

/// Sweeps for as long as the process lives. On its own, as it waits for Stripe.
pub async fn run(service: Service) {
    let Some(billing) = &service.billing else { return };
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(failure) = sweep(&service, billing).await {
            tracing::warn!(cause = ?failure.cause(), "the sweep of customers failed: {failure}");
        }
    }
}

/// Looks at customers for whom an event may have been lost, and ends what deleted accounts pay for. Every replica may.
///
/// # Errors
/// GW001 or GW002 when the database or Stripe is away; what is left comes with the next sweep.
async fn sweep(service: &Service, billing: &Billing) -> Outcome<()> {
    forget_events(service).await?;
    end_for_the_deleted(service, billing).await?;
    for customer in customers::due(&service.pool, now()).await? {
        match look(service, billing, &customer, None).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

/// Deleting a customer ends all that it pays for.
async fn end_for_the_deleted(service: &Service, billing: &Billing) -> Outcome<()> {
    for customer in customers::left_behind(&service.pool).await? {
        billing.stripe.delete("delete a customer", &format!("/v1/customers/{}", customer.id)).await?;
        customers::forget(&service.pool, &customer.id).await?;
    }
    Ok(())
}

async fn forget_events(service: &Service) -> Outcome<()> {
    sqlx::query!("DELETE FROM stripe_events WHERE taken_at < ? LIMIT 1000", now() - EVENTS_KEPT)
        .execute(&service.pool)
        .await
        .map_err(failed)?;
    Ok(())
}
