//! Buying a tier, or another one.

use std::time::Duration;

use chassis::clock::now;
use chrono::{DateTime, TimeDelta, Utc};
use contract::subscription::{CreateCheckoutRequest, CreateCheckoutResponse};
use contract::{ErrorCode, Failure, Outcome, Tier, to_timestamp};
use http::StatusCode;
use serde::de::IgnoredAny;

use super::look::{Seen, look};
use super::objects::{Checkout, Interval, Page, Plan};
use super::standing::Standing;
use super::stripe::{Fault, Form};
use super::{Billing, Customer, customers, prices};
use crate::service::Service;

/// How long a page of the customer portal waits for its visitor, as Stripe says.
const PORTAL_LIFE: TimeDelta = TimeDelta::minutes(5);

/// A page of Stripe's for what the user wants: one on which a first subscription is paid for, or, with one that runs,
/// one of the customer portal on which the change is confirmed, with its price for the rest of the period.
///
/// # Errors
/// SUB003; REQ001 when the user has what is asked for, or more; USER001; GW001 or GW002 when the database or Stripe is
/// away; GW003 when another page is being made for the user.
pub async fn checkout(service: &Service, request: CreateCheckoutRequest) -> Outcome<CreateCheckoutResponse> {
    let billing = service.billing()?;
    let plan = wanted(&request.tier, &request.interval)?;
    // A customer who was deleted at Stripe is found out on the way, and another one made.
    for _ in 0..2 {
        if let Some(page) = page_for(service, billing, &request, plan).await? {
            return Ok(page);
        }
    }
    Err(busy())
}

/// None when the customer was deleted at Stripe, and is forgotten.
async fn page_for(
    service: &Service,
    billing: &Billing,
    request: &CreateCheckoutRequest,
    plan: Plan,
) -> Outcome<Option<CreateCheckoutResponse>> {
    let customer = customers::made(service, billing, &request.user_id, &request.email).await?;
    // From here on nobody can pay on the former page. Whoever just did shows in what follows.
    if let Some(former) = &customer.checkout_id {
        expire(billing, former).await?;
    }
    let Some(customer) = customers::again(&service.pool, customer).await? else { return Ok(None) };
    let Seen { subscription, standing, is_gone } = look(service, billing, &customer, None).await?;
    if is_gone {
        return Ok(None);
    }
    if let Some(standing) = standing {
        return change(billing, &customer, &standing, plan).await.map(Some);
    }
    if subscription.stripe_subscription_id.is_some() {
        return Err(busy());
    }
    if subscription.effective_tier(now()) >= plan.tier {
        return Err(Failure::field("tier", "is what you have, or less"));
    }
    let Some(page) = new_page(service, billing, &customer, plan).await? else { return Ok(None) };
    if customers::swap_checkout(&service.pool, &customer, &page.id).await? {
        return Ok(Some(answer(page)));
    }
    expire(billing, &page.id).await?;
    Err(busy())
}

fn busy() -> Failure {
    let failure = Failure::new(ErrorCode::Overloaded).saying("Another payment of yours is being worked on");
    failure.retry_after(Duration::from_secs(1))
}

fn wanted(tier: &str, interval: &str) -> Outcome<Plan> {
    let interval: Interval = interval.parse().map_err(|fault| Failure::field("interval", fault))?;
    match tier.parse() {
        Ok(Tier::Free) | Err(_) => Err(Failure::field("tier", "must be one of basic, premium, enterprise")),
        Ok(tier) => Ok(Plan { tier, interval }),
    }
}

/// None when the customer was deleted at Stripe, where it has nothing then, and is forgotten.
async fn new_page(
    service: &Service,
    billing: &Billing,
    customer: &Customer,
    plan: Plan,
) -> Outcome<Option<Page>> {
    let user_id = customer.user_id.as_deref().unwrap_or_default();
    let price = prices::of(billing, plan).await?;
    let form = Form::default()
        .with("mode", "subscription")
        .with("customer", &customer.id)
        .with("client_reference_id", user_id)
        .with("line_items[0][price]", &price.id)
        .with("line_items[0][quantity]", "1")
        .with("subscription_data[metadata][user_id]", user_id)
        .with("success_url", &billing.success_url)
        .with("cancel_url", &billing.cancel_url);
    match billing.stripe.post("make a checkout", "/v1/checkout/sessions", form).await {
        Err(fault) if fault.misses("customer") => {
            if !customers::is_deleted(billing, &customer.id).await? {
                return Err(fault.into());
            }
            customers::forget(&service.pool, &customer.id).await?;
            Ok(None)
        }
        made => Ok(Some(made?)),
    }
}

/// Closes a page. Whatever Stripe says to that, nobody can pay on it after this has succeeded.
///
/// # Errors
/// GW003 when it stays open, as while a payment on it is being worked on; GW001 or GW002 when Stripe is away.
async fn expire(billing: &Billing, id: &str) -> Outcome<()> {
    let path = format!("/v1/checkout/sessions/{id}");
    let end = format!("{path}/expire");
    match billing.stripe.post::<IgnoredAny>("expire a checkout", &end, Form::default()).await {
        Ok(_) => return Ok(()),
        Err(Fault::Away(failure)) => return Err(failure),
        Err(Fault::Refused { .. }) => {}
    }
    // One on which was paid, or whose time is over, is closed already, and one that is not there was never open.
    match billing.stripe.get::<Checkout>("read a checkout", &path, Form::default()).await {
        Ok(page) if page.is_closed() => Ok(()),
        Err(Fault::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
        Ok(_) => Err(busy()),
        Err(fault) => Err(fault.into()),
    }
}

/// With a payment that is late or a cancellation that is pending there is more to settle than the tier: the portal
/// shows all of it.
async fn change(
    billing: &Billing,
    customer: &Customer,
    standing: &Standing,
    plan: Plan,
) -> Outcome<CreateCheckoutResponse> {
    let mut form = Form::default().with("customer", &customer.id).with("return_url", &billing.cancel_url);
    if !standing.is_late() && !standing.is_cancelled() {
        if standing.plan == plan {
            return Err(Failure::field("tier", "is what you have"));
        }
        let price = prices::of(billing, plan).await?;
        let field = |rest: &str| format!("flow_data[subscription_update_confirm]{rest}");
        form = form
            .with("flow_data[type]", "subscription_update_confirm")
            .with(&field("[subscription]"), &standing.subscription_id)
            .with(&field("[items][0][id]"), &standing.item_id)
            .with(&field("[items][0][price]"), &price.id)
            .with(&field("[items][0][quantity]"), "1")
            .with("flow_data[after_completion][type]", "redirect")
            .with("flow_data[after_completion][redirect][return_url]", &billing.success_url);
    }
    let page = billing.stripe.post("open the portal", "/v1/billing_portal/sessions", form).await?;
    Ok(answer(page))
}

fn answer(page: Page) -> CreateCheckoutResponse {
    let time = |seconds: i64| DateTime::<Utc>::from_timestamp(seconds, 0);
    let created = page.created.and_then(time).unwrap_or_else(now);
    let expires_at = page.expires_at.and_then(time).unwrap_or(created + PORTAL_LIFE);
    CreateCheckoutResponse { id: page.id, url: page.url, expires_at: Some(to_timestamp(expires_at)) }
}
