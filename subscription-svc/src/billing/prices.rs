//! Which prices at Stripe stand for which tiers: those with a lookup key such as `basic_month`, and those that once had
//! one. When a price rises its key goes to the new one, and whoever pays the old one keeps the tier.

use std::collections::HashMap;

use chassis::mysql::{failed, write};
use contract::{ErrorCode, Failure, Outcome};
use sqlx::MySqlPool;

use super::Billing;
use super::objects::{List, Plan, Price, Subscription};
use super::stripe::Form;

/// The price that a plan is sold for.
///
/// # Errors
/// SUB003 when the plan is not for sale; GW001 or GW002 when Stripe is away.
pub async fn of(billing: &Billing, plan: Plan) -> Outcome<Price> {
    let query =
        Form::default().with("lookup_keys[]", &plan.to_string()).with("active", "true").with("limit", "1");
    let found: List<Price> = billing.stripe.get("find a price", "/v1/prices", query).await?;
    found.data.into_iter().next().ok_or_else(|| {
        tracing::error!(%plan, "no price at Stripe has this lookup key");
        Failure::new(ErrorCode::BillingNotConfigured).saying("This tier cannot be bought at the moment")
    })
}

/// What the prices of some subscriptions stand for, by their ids.
///
/// # Errors
/// GW001 when the database is away.
pub async fn plans(pool: &MySqlPool, subscriptions: &[Subscription]) -> Outcome<HashMap<String, Plan>> {
    let mut plans = HashMap::new();
    for price in subscriptions.iter().flat_map(|one| &one.items.data).map(|item| &item.price) {
        if let Some(plan) = plan(pool, price).await? {
            plans.insert(price.id.clone(), plan);
        }
    }
    Ok(plans)
}

async fn plan(pool: &MySqlPool, price: &Price) -> Outcome<Option<Plan>> {
    let known = sqlx::query_scalar!("SELECT lookup_key FROM stripe_prices WHERE id = ?", price.id)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    let known = known.and_then(|key| key.parse().ok());
    let said: Option<Plan> = price.lookup_key.as_deref().and_then(|key| key.parse().ok());
    let Some(plan) = said.filter(|said| known != Some(*said)) else {
        return Ok(known);
    };
    write(
        pool,
        sqlx::query!(
            "INSERT INTO stripe_prices (id, lookup_key) VALUES (?, ?)
         ON DUPLICATE KEY UPDATE lookup_key = VALUES(lookup_key)",
            price.id,
            plan.to_string()
        ),
    )
    .await?;
    Ok(Some(plan))
}
