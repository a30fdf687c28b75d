//! Ending what is paid for, at Stripe as well: all of it, should a customer have come to several subscriptions there.

use contract::Outcome;
use serde::de::IgnoredAny;

use super::look::{look, running};
use super::standing::Standing;
use super::stripe::{Fault, Form};
use super::{Billing, customers};
use crate::service::Service;
use crate::subscriptions::{self, Subscription, change};

/// Cancels the user's own subscription: what is paid for lasts to its end, what is late ends now.
///
/// # Errors
/// USER001; SUB003 when Stripe is paid and its keys are gone; GW001 or GW002 when the database or Stripe is away.
pub async fn cancel(service: &Service, user_id: &str) -> Outcome<Subscription> {
    let subscription = change(service, "cancel_subscription", user_id, |subscription, now| {
        if subscription.stripe_subscription_id.is_none() {
            subscription.cancel(now);
        }
    })
    .await?;
    if subscription.stripe_subscription_id.is_none() || subscription.cancelled_at.is_some() {
        return Ok(subscription);
    }
    let billing = service.billing()?;
    let mut refusal = None;
    for one in all_of(service, billing, user_id).await?.iter().filter(|one| !one.is_cancelled()) {
        match stop(billing, one).await {
            Err(Fault::Away(failure)) => return Err(failure),
            Err(refused) => refusal = Some(refused),
            Ok(()) => {}
        }
    }
    let subscription = look_at(service, billing, user_id).await?;
    let goes_on = subscription.cancelled_at.is_none() && subscription.stripe_subscription_id.is_some();
    match refusal {
        Some(refused) if goes_on => Err(refused.into()),
        // One that is over already cannot be cancelled, and is none any more.
        _ => Ok(subscription),
    }
}

/// Ends what a user pays for at Stripe now, if anything.
///
/// # Errors
/// As [`cancel`].
pub async fn end(service: &Service, user_id: &str) -> Outcome<()> {
    let subscription = subscriptions::find(&service.pool, user_id).await?;
    if subscription.stripe_subscription_id.is_some() {
        let billing = service.billing()?;
        for one in all_of(service, billing, user_id).await? {
            billing.stripe.delete("end a subscription", &path(&one)).await?;
        }
        look_at(service, billing, user_id).await?;
    }
    Ok(())
}

/// Has a subscription end by itself, or now when its payment is late.
async fn stop(billing: &Billing, one: &Standing) -> Result<(), Fault> {
    if one.is_late() {
        return billing.stripe.delete("end a subscription", &path(one)).await;
    }
    let form = Form::default().with("cancel_at_period_end", "true");
    billing.stripe.post::<IgnoredAny>("cancel a subscription", &path(one), form).await.map(drop)
}

fn path(one: &Standing) -> String {
    format!("/v1/subscriptions/{}", one.subscription_id)
}

async fn all_of(service: &Service, billing: &Billing, user_id: &str) -> Outcome<Vec<Standing>> {
    match customers::of_user(&service.pool, user_id).await? {
        Some(customer) => running(service, billing, &customer.id).await,
        // A look has found out that the customer was deleted at Stripe.
        None => Ok(Vec::new()),
    }
}

async fn look_at(service: &Service, billing: &Billing, user_id: &str) -> Outcome<Subscription> {
    match customers::of_user(&service.pool, user_id).await? {
        Some(customer) => Ok(look(service, billing, &customer, None).await?.subscription),
        None => subscriptions::find(&service.pool, user_id).await,
    }
}
