//! `/api/v1/subscription`: the caller's own subscription and usage, and the tiers on offer.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use contract::Outcome;
use contract::subscription::{
    CancelSubscriptionRequest, CheckQuotaRequest, GetSubscriptionRequest, GetUsageRequest, ListTiersRequest,
    Subscription, Tier,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Edge, billing, time};
use crate::answer::Answer;
use crate::claims::{Caller, Person};
use crate::front::RequestContext;
use crate::json::Parameters;
use crate::services::{Services, from_subscription, present};

pub fn routes() -> Router<Edge> {
    Router::new()
        .route("/", get(current))
        .route("/usage", get(usage))
        .route("/check-quota", get(check_quota))
        .route("/tiers", get(tiers))
        .route("/cancel", post(cancel))
        .route("/checkout", post(billing::checkout))
}

#[derive(Serialize)]
pub struct SubscriptionBody {
    id: String,
    user_id: String,
    tier: String,
    status: String,
    start_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trial_ends_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<String>,
    payment_method: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

impl From<Subscription> for SubscriptionBody {
    fn from(subscription: Subscription) -> Self {
        SubscriptionBody {
            id: subscription.id,
            user_id: subscription.user_id,
            tier: subscription.tier,
            status: subscription.status,
            start_date: time(subscription.start_date),
            end_date: time(subscription.end_date),
            trial_ends_at: time(subscription.trial_ends_at),
            cancelled_at: time(subscription.cancelled_at),
            payment_method: subscription.payment_method,
            created_at: time(subscription.created_at),
            updated_at: time(subscription.updated_at),
        }
    }
}

/// The body for one subscription.
pub fn subscription_body(subscription: Option<Subscription>) -> Outcome<axum::Json<SubscriptionBody>> {
    Ok(axum::Json(present(subscription)?.into()))
}

async fn current(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<SubscriptionBody>> {
    let request = GetSubscriptionRequest { user_id: caller.user_id().to_owned() };
    let answer = from_subscription(services.subscriptions().get_subscription(context.call(request)).await)?;
    Ok(subscription_body(answer.subscription)?)
}

async fn usage(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<Value>> {
    let request = GetUsageRequest { user_id: caller.user_id().to_owned() };
    let usage = from_subscription(services.usage().get_usage(context.call(request)).await)?;
    Ok(axum::Json(json!({
        "user_id": usage.user_id,
        "personas_count": usage.personas_count,
        "projects_count": usage.projects_count,
        "content_count": usage.content_count,
        "last_updated": time(usage.last_updated),
    })))
}

#[derive(Deserialize)]
struct Quota {
    resource: String,
}

async fn check_quota(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Parameters(Quota { resource }): Parameters<Quota>,
) -> Answer<axum::Json<Value>> {
    let request = CheckQuotaRequest { user_id: caller.user_id().to_owned(), resource };
    let quota = from_subscription(services.usage().check_quota(context.call(request)).await)?;
    Ok(axum::Json(json!({
        "has_quota": quota.has_quota,
        "resource": quota.resource,
        "limit": quota.limit,
        "used": quota.used,
        "remaining": quota.remaining,
    })))
}

fn tier_body(tier: Tier) -> Value {
    json!({
        "id": tier.id,
        "name": tier.name,
        "display_name": tier.display_name,
        "description": tier.description,
        "price_monthly": tier.price_monthly_cents as f64 / 100.0,
        "price_yearly": tier.price_yearly_cents as f64 / 100.0,
        "max_personas": tier.max_personas,
        "max_projects": tier.max_projects,
        "max_content_items": tier.max_content_items,
        "features": tier.features,
        "is_active": tier.is_active,
    })
}

async fn tiers(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<Value>> {
    let answer =
        from_subscription(services.subscriptions().list_tiers(context.call(ListTiersRequest {})).await)?;
    let tiers: Vec<Value> = answer.tiers.into_iter().map(tier_body).collect();
    Ok(axum::Json(json!({ "tiers": tiers })))
}

async fn cancel(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<SubscriptionBody>> {
    let request = CancelSubscriptionRequest { user_id: caller.user_id().to_owned() };
    let answer = from_subscription(services.subscriptions().cancel_subscription(context.call(request)).await);
    let answer = answer.map_err(billing::away_is_stripe)?;
    Ok(subscription_body(answer.subscription)?)
}
