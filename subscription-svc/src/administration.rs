//! Changes to subscriptions by administrators.

use chrono::Duration;
use contract::identity::user_service_client::UserServiceClient;
use contract::identity::{ApproveSubscriptionChangeRequest, Device, GetUserRequest, SubscriptionChange};
use contract::subscription::{Actor, CreateSubscriptionRequest, UpdateSubscriptionRequest};
use contract::{
    ADMINISTER_SUBSCRIPTIONS, ANY_PERMISSION, ErrorCode, Failure, Outcome, Tier, is_canonical_id,
};

use crate::billing;
use crate::service::{IDENTITY, Service};
use crate::subscriptions::{Status, Subscription, change};

const MAX_TRIAL_DAYS: i32 = 365;
/// What the column holds, in characters.
const MAX_PAYMENT_METHOD: usize = 100;

/// Checks that an actor may administer subscriptions at this moment, as identity-svc knows the account. The edge has
/// asked as well; it is not the only caller.
///
/// # Errors
/// AUTH004; GW001 when identity-svc is away.
pub async fn must_administer(service: &Service, actor: Option<&Actor>) -> Outcome<()> {
    let user_id = known_actor(actor)?.user_id.clone();
    let answer = UserServiceClient::new(service.identity.clone()).get_user(GetUserRequest { user_id }).await;
    let user = match answer.map_err(|status| Failure::from_status(status, IDENTITY)) {
        Ok(answer) => answer.into_inner().user,
        Err(failure) if failure.code() == ErrorCode::UserNotFound => None,
        Err(failure) => return Err(failure),
    };
    let holds = |held: &String| held == ADMINISTER_SUBSCRIPTIONS || held == ANY_PERMISSION;
    let may = user.is_some_and(|user| user.is_active && user.permissions.iter().any(holds));
    if may { Ok(()) } else { Err(Failure::new(ErrorCode::Forbidden)) }
}

fn known_actor(actor: Option<&Actor>) -> Outcome<&Actor> {
    let known = actor.filter(|actor| is_canonical_id(&actor.user_id));
    known.ok_or_else(|| Failure::new(ErrorCode::Forbidden))
}

/// Has identity-svc look at whether an actor may make these changes, and keep them in the audit log, before they are
/// made. What is absent does not change.
///
/// # Errors
/// AUTH004; USER001; GW001 when identity-svc is away: nothing is changed that is not in the log.
async fn approve(
    service: &Service,
    actor: Option<&Actor>,
    user_id: &str,
    changes: [(&str, Option<String>); 4],
) -> Outcome<()> {
    let Actor { user_id: actor_id, ip_address, request_id } = known_actor(actor)?.clone();
    let changes = changes
        .into_iter()
        .filter_map(|(field, value)| Some(SubscriptionChange { field: field.to_owned(), value: value? }));
    let request = ApproveSubscriptionChangeRequest {
        actor_id,
        device: Some(Device { ip_address, request_id, user_agent: String::new() }),
        user_id: user_id.to_owned(),
        changes: changes.collect(),
    };
    let answer = UserServiceClient::new(service.identity.clone()).approve_subscription_change(request).await;
    answer.map(drop).map_err(|status| Failure::from_status(status, IDENTITY))
}

/// Puts a user on a tier, in place of the free subscription that everybody has.
///
/// # Errors
/// AUTH004, REQ001, USER001.
pub async fn create(service: &Service, request: CreateSubscriptionRequest) -> Outcome<Subscription> {
    let tier: Tier = request.tier.parse().map_err(|fault| Failure::field("tier", fault))?;
    let trial_days = request.trial_days.unwrap_or(0);
    if !(0..=MAX_TRIAL_DAYS).contains(&trial_days) {
        return Err(Failure::field("trial_days", format!("must be 0 to {MAX_TRIAL_DAYS}")));
    }
    let payment_method = checked_payment_method(request.payment_method_id)?;
    let changes = [
        ("tier", Some(tier.name().to_owned())),
        ("status", Some(if trial_days > 0 { Status::Trialing } else { Status::Active }.name().to_owned())),
        ("trial_days", request.trial_days.map(|days| days.to_string())),
        ("payment_method_id", payment_method.clone()),
    ];
    approve(service, request.actor.as_ref(), &request.user_id, changes).await?;
    change(service, "create_subscription", &request.user_id, move |subscription, now| {
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
    let tier = request.tier.as_deref().map(str::parse::<Tier>).transpose();
    let tier = tier.map_err(|fault| Failure::field("tier", fault))?;
    let status = request.status.as_deref().map(str::parse::<Status>).transpose();
    let status = status.map_err(|fault| Failure::field("status", fault))?;
    let payment_method = checked_payment_method(request.payment_method_id)?;
    let changes = [
        ("tier", tier.map(|tier| tier.name().to_owned())),
        ("status", status.map(|status| status.name().to_owned())),
        ("trial_days", None),
        ("payment_method_id", payment_method.clone()),
    ];
    let no_subscription = |failure: Failure| match failure.code() {
        ErrorCode::UserNotFound => Failure::new(ErrorCode::SubscriptionNotFound),
        _ => failure,
    };
    approve(service, request.actor.as_ref(), &request.user_id, changes).await.map_err(no_subscription)?;
    let grace = service.grace;
    if matches!(status, Some(Status::Canceled | Status::Expired)) {
        // Nobody pays on for what an administrator has ended.
        match billing::end(service, &request.user_id).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => {}
            ended => ended?,
        }
    }
    change(service, "update_subscription", &request.user_id, move |subscription, now| {
        if let Some(tier) = tier {
            subscription.tier = tier;
        }
        if let Some(status) = status {
            subscription.set_status(status, now, grace);
        }
        if let Some(method) = &payment_method {
            subscription.payment_method = Some(method.clone());
        }
    })
    .await
    .map_err(no_subscription)
}

fn checked_payment_method(given: Option<String>) -> Outcome<Option<String>> {
    let Some(method) = &given else { return Ok(None) };
    if method.chars().count() > MAX_PAYMENT_METHOD || method.chars().any(char::is_control) {
        let fault =
            format!("must have at most {MAX_PAYMENT_METHOD} characters, none of them a control character");
        return Err(Failure::field("payment_method_id", fault));
    }
    Ok(given)
}
