//! Payments: `/api/v1/subscription/checkout`, and the webhook of Stripe, `/webhooks/stripe`.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use contract::subscription::{CreateCheckoutRequest, HandleStripeEventRequest};
use contract::{ErrorCode, Failure};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;
use crate::answer::Answer;
use crate::body::Room;
use crate::claims::{Person, now};
use crate::front::RequestContext;
use crate::json::Json;
use crate::openapi::kinds;
use crate::services::{Services, from_subscription};

/// The largest event that is taken in, in bytes; Stripe's are well below.
const MAX_EVENT: usize = 512 * 1024;
/// How far the time of a signature may be from ours, in seconds. subscription-svc looks closer: an edge whose clock is
/// wrong must not refuse what is good.
const TOLERANCE: u64 = 3600;
/// The length of a signature, in hexadecimal digits.
const TAG: usize = 64;

#[derive(Deserialize, ToSchema)]
#[schema(as = CheckoutWanted)]
pub struct Wanted {
    /// One that costs something.
    #[schema(pattern = "^(basic|premium|enterprise)$", example = "premium")]
    tier: String,
    #[schema(pattern = "^(month|year)$", example = "month")]
    interval: String,
}

#[derive(Serialize, ToSchema)]
pub struct Checkout {
    #[schema(example = "cs_test_a1")]
    id: String,
    /// Where the customer pays.
    #[schema(example = "https://checkout.stripe.com/c/pay/cs_test_a1")]
    url: String,
    #[schema(value_type = kinds::Time)]
    expires_at: Option<String>,
}

/// POST `/api/v1/subscription/checkout`
#[utoipa::path(
    post,
    path = "/checkout",
    operation_id = "create_checkout",
    summary = "Open a page on which a tier is paid for",
    request_body = Wanted,
    responses((status = 200, body = Checkout)),
    extensions(("x-errors" = json!(["SUB001", "SUB003", "USER001", "GW003", "502 GW001"])), ("x-people-only" = json!(true))),
)]
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

/// An event has been taken in.
#[derive(Serialize, ToSchema)]
pub struct Received {
    #[schema(example = true)]
    received: bool,
}

/// POST `/webhooks/stripe`. The bytes go on as they came: the signature is over them.
#[utoipa::path(
    post,
    path = "/webhooks/stripe",
    operation_id = "stripe_event",
    summary = "Take in an event of Stripe",
    description = "For Stripe alone: the signature is over the body as it is.",
    params(
        ("Stripe-Signature" = String, Header, description = "The signature of the body", example = "t=1769860800,v1=5257a869")
    ),
    request_body(content = serde_json::Map<String, serde_json::Value>, content_type = "application/json", example = json!({ "id": "evt_1", "type": "invoice.paid" })),
    responses((status = 200, body = Received)),
    security(()),
    extensions(("x-errors" = json!(["SUB003", "502 GW001"]))),
)]
pub async fn stripe_event(
    State(services): State<Services>,
    State(room): State<Room>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Answer<axum::Json<Received>> {
    // Of two signatures either could be the one that another reader takes.
    let mut signatures = headers.get_all("stripe-signature").into_iter();
    let signature = match (signatures.next().map(|value| value.to_str()), signatures.next()) {
        (Some(Ok(signature)), None) if may_be_stripes(signature, now()) => signature.to_owned(),
        _ => return Err(Failure::field("Stripe-Signature", "is missing, malformed or too old").into()),
    };
    let payload = room.take_in(body, MAX_EVENT, context.client()).await?.to_vec();
    let request = HandleStripeEventRequest { payload, signature };
    from_subscription(services.billing().handle_stripe_event(context.call(request)).await)?;
    Ok(axum::Json(Received { received: true }))
}

/// Whether a header can be a signature of about `now`, in seconds since 1970: what cannot is refused before any of the
/// body is taken in.
fn may_be_stripes(signature: &str, now: i64) -> bool {
    let pairs = || signature.split(',').filter_map(|pair| pair.trim().split_once('='));
    let time = pairs().find(|(name, _)| *name == "t").and_then(|(_, time)| time.parse::<i64>().ok());
    let is_hexadecimal = |tag: &str| tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_tag = |(name, tag): (&str, &str)| name == "v1" && tag.len() == TAG && is_hexadecimal(tag);
    time.is_some_and(|time| time.abs_diff(now) <= TOLERANCE) && pairs().any(is_tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_signature_of_about_now_is_looked_at() {
        let tag = "0a".repeat(32);
        for good in [format!("t=10000,v1={tag}"), format!("t=13600, v0=x, v1=zz, v1={tag}")] {
            assert!(may_be_stripes(&good, 10_000), "{good}");
        }
        let old = [format!("t=13601,v1={tag}"), format!("t=6399,v1={tag}"), format!("t=x,v1={tag}")];
        let bare = ["", "t=10000", "v1=", "t=10000,v1=0a"].map(str::to_owned);
        for bad in old.into_iter().chain(bare).chain([format!("t=10000,v0={tag}"), format!("v1={tag}")]) {
            assert!(!may_be_stripes(&bad, 10_000), "{bad}");
        }
    }
}
