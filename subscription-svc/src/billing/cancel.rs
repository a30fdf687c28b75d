//! Ending what is paid for, at Stripe as well.

use chassis::clock::now;
use contract::Outcome;
use serde::de::IgnoredAny;

use super::look::look;
use super::stripe::{Fault, Form};
use super::{Billing, customers};
use crate::service::Service;
use crate::subscriptions::{self, Status, Subscription, change};

/// Cancels the user's own subscription: what is paid for lasts to its end, what is late ends now.
///
/// # Errors
/// USER001; SUB003 when Stripe is paid and its keys are gone; GW001 or GW002 when the database or Stripe is away.
pub async fn cancel(service: &Service, user_id: &str) -> Outcome<Subscription> {
    let subscription = change(service, "cancel_subscription", user_id, |subscription| {
        if subscription.stripe_subscription_id.is_none() {
            subscription.cancel(now());
        }
    })
    .await?;
    let Some(paid) = subscription.stripe_subscription_id.as_deref() else {
        return Ok(subscription);
    };
    if subscription.cancelled_at.is_some() {
        return Ok(subscription);
    }
    let billing = service.billing()?;
    let asked = if matches!(subscription.status, Status::PastDue | Status::Expired) {
        billing.stripe.delete("end a subscription", &path(paid)).await
    } else {
        let form = Form::default().with("cancel_at_period_end", "true");
        billing.stripe.post::<IgnoredAny>("cancel a subscription", &path(paid), form).await.map(drop)
    };
    if let Err(Fault::Away(failure)) = asked {
        return Err(failure);
    }
    // One that is over already cannot be cancelled, and is none any more.
    let subscription = look_at(service, billing, user_id).await?;
    let goes_on = subscription.cancelled_at.is_none() && subscription.stripe_subscription_id.is_some();
    if goes_on {
        asked?;
    }
    Ok(subscription)
}

/// Ends what a user pays for at Stripe now, if anything.
///
/// # Errors
/// As [`cancel`].
pub async fn end(service: &Service, user_id: &str) -> Outcome<()> {
    let subscription = subscriptions::find(&service.pool, user_id).await?;
    if let Some(paid) = subscription.stripe_subscription_id.as_deref() {
        let billing = service.billing()?;
        billing.stripe.delete("end a subscription", &path(paid)).await?;
        look_at(service, billing, user_id).await?;
    }
    Ok(())
}

fn path(paid: &str) -> String {
    format!("/v1/subscriptions/{paid}")
}

async fn look_at(service: &Service, billing: &Billing, user_id: &str) -> Outcome<Subscription> {
    match customers::of_user(&service.pool, user_id).await? {
        Some(customer) => Ok(look(service, billing, &customer, None).await?.subscription),
        // Another look has found out that the customer was deleted at Stripe.
        None => subscriptions::find(&service.pool, user_id).await,
    }
}
