//! Changes to subscriptions by administrators.

use chrono::Duration;
use contract::subscription::{Actor, CreateSubscriptionRequest, UpdateSubscriptionRequest};
use contract::{ANY_PERMISSION, ErrorCode, Failure, Outcome, Role, Tier};

use crate::billing;
use crate::service::Service;
use crate::subscriptions::{Status, Subscription, change};
use chassis::clock::now;

/// The permission to see and change everybody's subscriptions.
const PERMISSION: &str = "admin.subscriptions";
const MAX_TRIAL_DAYS: i32 = 365;
/// What the column holds, in characters.
const MAX_PAYMENT_METHOD: usize = 100;

/// Whether an actor may administer subscriptions. The edge has asked as well; it is not the only caller.
///
/// # Errors
/// AUTH004.
pub fn must_administer(actor: Option<&Actor>) -> Outcome<()> {
    let may = actor.is_some_and(|actor| {
        actor.role == Role::Admin.name()
            || actor.permissions.iter().any(|held| held == PERMISSION || held == ANY_PERMISSION)
    });
    if may { Ok(()) } else { Err(Failure::new(ErrorCode::Forbidden)) }
}

/// Puts a user on a tier, in place of the free subscription that everybody has.
///
/// # Errors
/// AUTH004, REQ001, USER001.
pub async fn create(service: &Service, request: CreateSubscriptionRequest) -> Outcome<Subscription> {
    must_administer(request.actor.as_ref())?;
    let tier: Tier = request.tier.parse().map_err(|fault| Failure::field("tier", fault))?;
    let trial_days = request.trial_days.unwrap_or(0);
    if !(0..=MAX_TRIAL_DAYS).contains(&trial_days) {
        return Err(Failure::field("trial_days", format!("must be 0 to {MAX_TRIAL_DAYS}")));
    }
    let payment_method = checked_payment_method(request.payment_method_id)?;
    change(service, "create_subscription", &request.user_id, move |subscription| {
        let now = now();
        let trial_ends_at = (trial_days > 0).then(|| now + Duration::days(i64::from(trial_days)));
        subscription.tier = tier;
        subscription.status = if trial_ends_at.is_some() { Status::Trialing } else { Status::Active };
        subscription.start_date = now;
        subscription.end_date = None;
        subscription.trial_ends_at = trial_ends_at;
        subscription.cancelled_at = None;
        subscription.payment_method.clone_from(&payment_method);
    })
    .await
}

/// Changes what is given.
///
/// # Errors
/// AUTH004, REQ001; SUB001 when there is no such user, and so no subscription.
pub async fn update(service: &Service, request: UpdateSubscriptionRequest) -> Outcome<Subscription> {
    must_administer(request.actor.as_ref())?;
    let tier = request.tier.as_deref().map(str::parse::<Tier>).transpose();
    let tier = tier.map_err(|fault| Failure::field("tier", fault))?;
    let status = request.status.as_deref().map(str::parse::<Status>).transpose();
    let status = status.map_err(|fault| Failure::field("status", fault))?;
    let payment_method = checked_payment_method(request.payment_method_id)?;
    let grace = service.grace;
    if matches!(status, Some(Status::Canceled | Status::Expired)) {
        // Nobody pays on for what an administrator has ended.
        match billing::end(service, &request.user_id).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
            ended => ended?,
        }
    }
    change(service, "update_subscription", &request.user_id, move |subscription| {
        if let Some(tier) = tier {
            subscription.tier = tier;
        }
        if let Some(status) = status {
            subscription.set_status(status, now(), grace);
        }
        if let Some(method) = &payment_method {
            subscription.payment_method = Some(method.clone());
        }
    })
    .await
    .map_err(|failure| match failure.code() {
        ErrorCode::UserNotFound => Failure::new(ErrorCode::SubscriptionNotFound),
        _ => failure,
    })
}

fn checked_payment_method(given: Option<String>) -> Outcome<Option<String>> {
    let too_long = given.as_ref().is_some_and(|method| method.chars().count() > MAX_PAYMENT_METHOD);
    if too_long {
        return Err(Failure::field(
            "payment_method_id",
            format!("must have at most {MAX_PAYMENT_METHOD} characters"),
        ));
    }
    Ok(given)
}
