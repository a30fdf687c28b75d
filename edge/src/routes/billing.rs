//! Payments: `/api/v1/subscription/checkout`, and the webhook of Stripe, `/webhooks/stripe`.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use contract::subscription::{CreateCheckoutRequest, HandleStripeEventRequest};
use contract::{ErrorCode, Failure};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::time;
use crate::answer::Answer;
use crate::claims::Person;
use crate::front::RequestContext;
use crate::json::{Json, read};
use crate::services::{Services, from_subscription};

/// The largest event that is taken in, in bytes; Stripe's are well below.
const MAX_EVENT: usize = 512 * 1024;

#[derive(Deserialize)]
pub struct Wanted {
    tier: String,
    interval: String,
}

#[derive(Serialize)]
pub struct Checkout {
    id: String,
    url: String,
    expires_at: Option<String>,
}

/// POST `/api/v1/subscription/checkout`
pub async fn checkout(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Json(Wanted { tier, interval }): Json<Wanted>,
) -> Answer<axum::Json<Checkout>> {
    let (user_id, email) = (caller.user_id().to_owned(), caller.claims().email.clone());
    let request = CreateCheckoutRequest { user_id, email, tier, interval };
    let answer = from_subscription(services.billing().create_checkout(context.call(request)).await);
    let page = answer.map_err(away_is_stripe)?;
    Ok(axum::Json(Checkout { id: page.id, url: page.url, expires_at: time(page.expires_at) }))
}

/// Stripe is no service of ours: when it is away, that is 502.
pub fn away_is_stripe(failure: Failure) -> Failure {
    let is_stripe = failure.facts().get("service").is_some_and(|service| service == "stripe");
    if failure.code() == ErrorCode::Unavailable && is_stripe {
        failure.with_http(StatusCode::BAD_GATEWAY)
    } else {
        failure
    }
}

/// POST `/webhooks/stripe`. The bytes go on as they came: the signature is over them.
pub async fn stripe_event(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Answer<axum::Json<Value>> {
    // Of two signatures either could be the one that another reader takes.
    let mut signatures = headers.get_all("stripe-signature").into_iter();
    let signature = match (signatures.next().map(|value| value.to_str()), signatures.next()) {
        (Some(Ok(signature)), None) => signature.to_owned(),
        _ => return Err(Failure::field("Stripe-Signature", "is missing or malformed").into()),
    };
    let payload = read(body, MAX_EVENT).await?.to_vec();
    let request = HandleStripeEventRequest { payload, signature };
    from_subscription(services.billing().handle_stripe_event(context.call(request)).await)?;
    Ok(axum::Json(json!({ "received": true })))
}
