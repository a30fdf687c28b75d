//! `/api/v1/admin/subscriptions`: everybody's subscriptions, for administrators.

use axum::extract::State;
use axum::routing::{get, put};
use axum::{Extension, Router};
use contract::subscription::{
    Actor, CreateSubscriptionRequest, ListSubscriptionsRequest, UpdateSubscriptionRequest,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::subscription::{SubscriptionBody, subscription_body};
use super::{Edge, billing};
use crate::answer::Answer;
use crate::claims::{Admin, Caller};
use crate::front::RequestContext;
use crate::json::{Json, Parameters, PathId};
use crate::services::{Services, from_subscription};

pub fn routes() -> Router<Edge> {
    Router::new().route("/", get(list).post(create)).route("/{user_id}", put(update))
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

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    page: i32,
    #[serde(default)]
    page_size: i32,
    #[serde(default)]
    tier: String,
    #[serde(default)]
    status: String,
}

#[derive(Serialize)]
struct Subscriptions {
    subscriptions: Vec<SubscriptionBody>,
    total_count: i64,
    page: i32,
    page_size: i32,
    total_pages: i64,
}

/// How many pages there are.
pub fn pages(total: i64, page_size: i32) -> i64 {
    let page_size = i64::from(page_size.max(1));
    (total + page_size - 1) / page_size
}

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

#[derive(Deserialize)]
struct Create {
    user_id: String,
    tier: String,
    payment_method_id: Option<String>,
    trial_days: Option<i32>,
}

async fn create(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Json(Create { user_id, tier, payment_method_id, trial_days }): Json<Create>,
) -> Answer<(StatusCode, axum::Json<SubscriptionBody>)> {
    let actor = actor_at(&caller, &context);
    let request = CreateSubscriptionRequest { actor, user_id, tier, payment_method_id, trial_days };
    let answer =
        from_subscription(services.subscriptions().create_subscription(context.call(request)).await)?;
    Ok((StatusCode::CREATED, subscription_body(answer.subscription)?))
}

#[derive(Deserialize)]
struct Update {
    tier: Option<String>,
    payment_method_id: Option<String>,
    status: Option<String>,
}

async fn update(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(user_id): PathId,
    Json(Update { tier, payment_method_id, status }): Json<Update>,
) -> Answer<axum::Json<SubscriptionBody>> {
    let actor = actor_at(&caller, &context);
    let request = UpdateSubscriptionRequest { actor, user_id, tier, payment_method_id, status };
    let answer = from_subscription(services.subscriptions().update_subscription(context.call(request)).await);
    let answer = answer.map_err(billing::away_is_stripe)?;
    Ok(subscription_body(answer.subscription)?)
}
