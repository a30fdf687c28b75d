//! `/api/v1/subscription`: the caller's own subscription and usage, and the tiers on offer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use contract::subscription::{
    CancelSubscriptionRequest, CheckQuotaRequest, GetSubscriptionRequest, GetUsageRequest, ListTiersRequest,
    Subscription, Tier,
};
use contract::{Failure, Outcome};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, billing, time};
use crate::answer::Answer;
use crate::claims::{Caller, Person};
use crate::front::RequestContext;
use crate::json::Parameters;
use crate::openapi::kinds;
use crate::services::{Services, from_subscription, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default()
        .routes(routes!(current))
        .routes(routes!(usage))
        .routes(routes!(check_quota))
        .routes(routes!(tiers))
        .routes(routes!(cancel))
        .routes(routes!(billing::checkout))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::Id)]
    user_id: String,
    #[schema(value_type = kinds::Tier)]
    tier: String,
    #[schema(value_type = kinds::SubscriptionStatus)]
    status: String,
    #[schema(value_type = kinds::Time)]
    start_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Time, required = false)]
    end_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Time, required = false)]
    trial_ends_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Time, required = false)]
    cancelled_at: Option<String>,
    #[schema(required, example = "pm_card_visa")]
    payment_method: Option<String>,
    #[schema(value_type = kinds::Time)]
    created_at: Option<String>,
    #[schema(value_type = kinds::Time)]
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

#[utoipa::path(
    get,
    path = "",
    operation_id = "get_subscription",
    summary = "Look at the own subscription",
    responses((status = 200, body = SubscriptionBody)),
    extensions(("x-errors" = json!(["SUB001", "USER001"]))),
)]
async fn current(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<SubscriptionBody>> {
    let request = GetSubscriptionRequest { user_id: caller.user_id().to_owned() };
    let answer = from_subscription(services.subscriptions().get_subscription(context.call(request)).await)?;
    Ok(subscription_body(answer.subscription)?)
}

/// What a user has used.
#[derive(Serialize, ToSchema)]
struct Usage {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    #[schema(value_type = kinds::Count)]
    personas_count: i64,
    #[schema(value_type = kinds::Count)]
    projects_count: i64,
    #[schema(value_type = kinds::Count)]
    content_count: i64,
    #[schema(value_type = kinds::Time)]
    last_updated: Option<String>,
}

#[utoipa::path(
    get,
    path = "/usage",
    operation_id = "get_usage",
    summary = "Look at what one has used",
    responses((status = 200, body = Usage)),
    extensions(("x-errors" = json!(["SUB001", "USER001"]))),
)]
async fn usage(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<Usage>> {
    let request = GetUsageRequest { user_id: caller.user_id().to_owned() };
    let usage = from_subscription(services.usage().get_usage(context.call(request)).await)?;
    Ok(axum::Json(Usage {
        user_id: usage.user_id,
        personas_count: usage.personas_count,
        projects_count: usage.projects_count,
        content_count: usage.content_count,
        last_updated: time(usage.last_updated),
    }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    #[param(value_type = kinds::Resource)]
    resource: String,
}

/// How a quota stands; −1 is unlimited.
#[derive(Serialize, ToSchema)]
struct Quota {
    has_quota: bool,
    #[schema(value_type = kinds::Resource)]
    resource: String,
    #[schema(value_type = kinds::Limit)]
    limit: i64,
    #[schema(value_type = kinds::Count)]
    used: i64,
    #[schema(value_type = kinds::Limit)]
    remaining: i64,
}

#[utoipa::path(
    get,
    path = "/check-quota",
    operation_id = "check_quota",
    summary = "Ask whether there is room for one more",
    params(Asked),
    responses((status = 200, body = Quota)),
    extensions(("x-errors" = json!(["SUB001", "USER001"]))),
)]
async fn check_quota(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Parameters(Asked { resource }): Parameters<Asked>,
) -> Answer<axum::Json<Quota>> {
    let request = CheckQuotaRequest { user_id: caller.user_id().to_owned(), resource };
    let quota = from_subscription(services.usage().check_quota(context.call(request)).await)?;
    Ok(axum::Json(Quota {
        has_quota: quota.has_quota,
        resource: quota.resource,
        limit: quota.limit,
        used: quota.used,
        remaining: quota.remaining,
    }))
}

/// What can be had for which price.
#[derive(Serialize, ToSchema)]
#[schema(as = TierOnOffer)]
struct TierBody {
    #[schema(example = "premium")]
    id: String,
    #[schema(value_type = kinds::Tier)]
    name: String,
    #[schema(example = "Premium")]
    display_name: String,
    #[schema(example = "For teams")]
    description: String,
    #[schema(example = 29.99, minimum = 0)]
    price_monthly: f64,
    #[schema(example = 299.99, minimum = 0)]
    price_yearly: f64,
    #[schema(value_type = kinds::Limit)]
    max_personas: i64,
    #[schema(value_type = kinds::Limit)]
    max_projects: i64,
    #[schema(value_type = kinds::Limit)]
    max_content_items: i64,
    features: Vec<String>,
    #[schema(example = true)]
    is_active: bool,
}

impl From<Tier> for TierBody {
    fn from(tier: Tier) -> Self {
        TierBody {
            id: tier.id,
            name: tier.name,
            display_name: tier.display_name,
            description: tier.description,
            price_monthly: tier.price_monthly_cents as f64 / 100.0,
            price_yearly: tier.price_yearly_cents as f64 / 100.0,
            max_personas: tier.max_personas,
            max_projects: tier.max_projects,
            max_content_items: tier.max_content_items,
            features: tier.features,
            is_active: tier.is_active,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct Tiers {
    tiers: Vec<TierBody>,
}

#[utoipa::path(
    get,
    path = "/tiers",
    operation_id = "list_tiers",
    summary = "List the tiers on offer",
    responses((status = 200, body = Tiers)),
    security(()),
)]
async fn tiers(
    State(services): State<Services>,
    State(offer): State<Arc<Offer>>,
    Extension(context): Extension<RequestContext>,
) -> Answer<impl IntoResponse> {
    let body = offer.body(&services, &context).await?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body))
}

/// The tiers on offer as they were within the last seconds. Anybody may ask, and as long as they are known nobody else is
/// asked.
#[derive(Default)]
pub struct Offer {
    known: ArcSwapOption<Known>,
    /// Held by whoever asks.
    asking: Mutex<()>,
}

struct Known {
    since: Instant,
    body: Bytes,
}

impl Offer {
    /// For so long they are not asked for again.
    const FRESH: Duration = Duration::from_secs(5);
    /// For so long they are good for those who come while somebody asks again.
    const GOOD: Duration = Duration::from_secs(15);

    async fn body(&self, services: &Services, context: &RequestContext) -> Outcome<Bytes> {
        let known = self.known.load_full();
        let within = |age: Duration| known.as_ref().filter(|known| known.since.elapsed() < age);
        if let Some(known) = within(Self::FRESH) {
            return Ok(known.body.clone());
        }
        let asking = self.asking.try_lock();
        if let (Some(known), Err(_)) = (within(Self::GOOD), &asking) {
            return Ok(known.body.clone());
        }
        let answer = services.subscriptions().list_tiers(context.call(ListTiersRequest {})).await;
        let answer = from_subscription(answer)?;
        let tiers = Tiers { tiers: answer.tiers.into_iter().map(TierBody::from).collect() };
        let body = Bytes::from(serde_json::to_vec(&tiers).map_err(Failure::internal)?);
        self.known.store(Some(Arc::new(Known { since: Instant::now(), body: body.clone() })));
        Ok(body)
    }
}

#[utoipa::path(
    post,
    path = "/cancel",
    operation_id = "cancel_subscription",
    summary = "Cancel the own subscription",
    description = "What has been paid lasts to its end.",
    responses((status = 200, body = SubscriptionBody)),
    extensions(("x-errors" = json!(["SUB001", "USER001", "502 GW001"])), ("x-people-only" = json!(true))),
)]
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
