//! `/api/v1/admin/subscriptions`: everybody's subscriptions, for administrators.

use axum::Extension;
use axum::extract::State;
use contract::subscription::{
    Actor, CreateSubscriptionRequest, ListSubscriptionsRequest, UpdateSubscriptionRequest,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::subscription::{SubscriptionBody, subscription_body};
use super::{Edge, billing};
use crate::answer::Answer;
use crate::claims::{Admin, Caller};
use crate::front::RequestContext;
use crate::json::{Json, Parameters, PathId};
use crate::openapi::kinds;
use crate::services::{Services, from_subscription};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default().routes(routes!(list, create)).routes(routes!(update))
}

/// The acting administrator, as subscription-svc is told.
pub fn actor(caller: &Caller) -> Option<Actor> {
    Some(Actor { user_id: caller.user_id().to_owned(), ..Actor::default() })
}

/// The acting administrator of a change, with what the audit log keeps.
pub fn actor_at(caller: &Caller, context: &RequestContext) -> Option<Actor> {
    let (ip_address, request_id) = (context.client().address().to_owned(), context.id().to_owned());
    Some(Actor { user_id: caller.user_id().to_owned(), ip_address, request_id })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Which page; the first by default.
    #[serde(default)]
    #[param(minimum = 0, example = 1)]
    page: i32,
    /// Most subscriptions of a page; 20 by default.
    #[serde(default)]
    #[param(minimum = 0, maximum = 100, example = 20)]
    page_size: i32,
    #[serde(default)]
    #[param(value_type = kinds::Tier)]
    tier: String,
    #[serde(default)]
    #[param(value_type = kinds::SubscriptionStatus)]
    status: String,
}

#[derive(Serialize, ToSchema)]
struct Subscriptions {
    subscriptions: Vec<SubscriptionBody>,
    #[schema(value_type = kinds::Count)]
    total_count: i64,
    #[schema(example = 1)]
    page: i32,
    #[schema(example = 20)]
    page_size: i32,
    #[schema(value_type = kinds::Count)]
    total_pages: i64,
}

/// How many pages there are.
pub fn pages(total: i64, page_size: i32) -> i64 {
    let page_size = i64::from(page_size.max(1));
    (total + page_size - 1) / page_size
}

#[utoipa::path(
    get,
    path = "",
    operation_id = "list_subscriptions",
    summary = "List subscriptions, newest first",
    params(Filter),
    responses((status = 200, body = Subscriptions)),
)]
async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Parameters(Filter { page, page_size, tier, status }): Parameters<Filter>,
) -> Answer<axum::Json<Subscriptions>> {
    let request = ListSubscriptionsRequest { actor: actor(&caller), page, page_size, tier, status };
    let answer = from_subscription(services.subscriptions().list_subscriptions(context.call(request)).await)?;
    Ok(axum::Json(Subscriptions {
        subscriptions: answer.subscriptions.into_iter().map(SubscriptionBody::from).collect(),
        total_count: answer.total_count,
        page: answer.page,
        page_size: answer.page_size,
        total_pages: pages(answer.total_count, answer.page_size),
    }))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateSubscription)]
struct Create {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    #[schema(value_type = kinds::Tier)]
    tier: String,
    #[schema(value_type = Option<kinds::Line100>, example = "pm_card_visa")]
    payment_method_id: Option<String>,
    #[schema(minimum = 0, maximum = 365, example = 14)]
    trial_days: Option<i32>,
}

#[utoipa::path(
    post,
    path = "",
    operation_id = "create_subscription",
    summary = "Put a user on a tier",
    description = "An API key may not do so with its own account.",
    request_body = Create,
    responses((status = 201, body = SubscriptionBody)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
async fn create(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Json(Create { user_id, tier, payment_method_id, trial_days }): Json<Create>,
) -> Answer<(StatusCode, axum::Json<SubscriptionBody>)> {
    caller.must_not_be_key_of(&user_id)?;
    let actor = actor_at(&caller, &context);
    let request = CreateSubscriptionRequest { actor, user_id, tier, payment_method_id, trial_days };
    let answer =
        from_subscription(services.subscriptions().create_subscription(context.call(request)).await)?;
    Ok((StatusCode::CREATED, subscription_body(answer.subscription)?))
}

/// What is absent stays.
#[derive(Deserialize, ToSchema)]
#[schema(as = UpdateSubscription)]
struct Update {
    #[schema(value_type = Option<kinds::Tier>)]
    tier: Option<String>,
    #[schema(value_type = Option<kinds::Line100>, example = "pm_card_visa")]
    payment_method_id: Option<String>,
    #[schema(value_type = Option<kinds::SubscriptionStatus>)]
    status: Option<String>,
}

#[utoipa::path(
    put,
    path = "/{user_id}",
    operation_id = "update_subscription",
    summary = "Change the subscription of a user",
    description = "An API key may not change that of its own account.",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    request_body = Update,
    responses((status = 200, body = SubscriptionBody)),
    extensions(("x-errors" = json!(["SUB001", "GW003", "502 GW001"]))),
)]
async fn update(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(user_id): PathId,
    Json(Update { tier, payment_method_id, status }): Json<Update>,
) -> Answer<axum::Json<SubscriptionBody>> {
    caller.must_not_be_key_of(&user_id)?;
    let actor = actor_at(&caller, &context);
    let request = UpdateSubscriptionRequest { actor, user_id, tier, payment_method_id, status };
    let answer = from_subscription(services.subscriptions().update_subscription(context.call(request)).await);
    let answer = answer.map_err(billing::away_is_stripe)?;
    Ok(subscription_body(answer.subscription)?)
}
