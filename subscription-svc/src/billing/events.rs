//! What Stripe tells through its webhook.

use std::sync::LazyLock;

use chassis::clock::now;
use chassis::mysql::failed;
use contract::{ErrorCode, Failure, Outcome};
use prometheus::IntCounterVec;
use sqlx::MySqlPool;

use super::look::look;
use super::objects::{CUSTOMER_DELETED, Event};
use super::{Billing, Customer, customers};
use crate::service::Service;

/// The events after which a customer is looked at.
const KINDS: [&str; 8] = [
    CUSTOMER_DELETED,
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.trial_will_end",
    "invoice.paid",
    "invoice.payment_failed",
];

/// Takes in a webhook. Once this has succeeded its effect is committed; before, Stripe sends it again.
///
/// # Errors
/// REQ001 when Stripe has not signed it; SUB003; GW001 or GW002 when the database or Stripe is away.
pub async fn handle(service: &Service, payload: &[u8], signature: &str) -> Outcome<()> {
    let billing = service.billing()?;
    billing.secrets.verify(signature, payload, now())?;
    let event: Event =
        serde_json::from_slice(payload).map_err(|_| Failure::field("body", "is no event of Stripe's"))?;
    let Some(kind) = KINDS.into_iter().find(|kind| *kind == event.kind) else {
        count("other", "ignored");
        return Ok(());
    };
    let outcome = take(service, billing, &event).await;
    count(kind, outcome.as_ref().unwrap_or(&"failed"));
    outcome.map(drop)
}

/// What came of an event.
async fn take(service: &Service, billing: &Billing, event: &Event) -> Outcome<&'static str> {
    if is_taken(&service.pool, &event.id).await? {
        return Ok("repeated");
    }
    // Only customers that we have made: what an event says of its user, in metadata or otherwise, proves nothing.
    let customer = match event.customer() {
        Some(id) => customers::find(&service.pool, id).await?,
        None => None,
    };
    let Some(customer @ Customer { user_id: Some(_), .. }) = customer else {
        return Ok("ignored");
    };
    match look(service, billing, &customer, Some(&event.id)).await {
        // Deleted meanwhile; the sweep ends what is paid for.
        Err(failure) if failure.code() == ErrorCode::UserNotFound => Ok("ignored"),
        outcome => outcome.map(|_| "taken"),
    }
}

/// Spares a repeated event the call to Stripe; the transaction looks again.
async fn is_taken(pool: &MySqlPool, id: &str) -> Outcome<bool> {
    let found = sqlx::query_scalar!("SELECT id FROM stripe_events WHERE id = ?", id)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    Ok(found.is_some())
}

fn count(kind: &str, result: &str) {
    EVENTS.with_label_values(&[kind, result]).inc();
}

static EVENTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "stripe_events_total",
        "Events that Stripe sent by their kind and what came of them",
        &["kind", "result"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
