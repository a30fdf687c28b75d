//! Changing tiers on behalf of an administrator. subscription-svc owns them; identity-svc keeps in the audit log who
//! had it done.

use contract::identity::{ApproveTierChangeRequest, ApproveTierChangeResponse, Device, RefusedUser};
use contract::subscription::{GetSubscriptionRequest, Subscription, UpdateSubscriptionRequest};
use contract::{ErrorCode, Failure, Outcome, Tier};

use crate::claims::{Caller, now};
use crate::front::RequestContext;
use crate::routes::subscriptions::actor_at;
use crate::services::{Services, from_identity, from_subscription, present};

pub struct Change<'a> {
    pub services: &'a Services,
    pub context: &'a RequestContext,
    pub caller: &'a Caller,
    pub tier: Tier,
}

impl Change<'_> {
    /// Has identity-svc look at the accounts and keep what is about to be done. With `upgrades_only`, those on a higher
    /// tier are refused.
    ///
    /// # Errors
    /// AUTH004; GW001 when identity-svc is away.
    pub async fn approve(
        &self,
        user_ids: Vec<String>,
        device: Device,
        upgrades_only: bool,
        reason: String,
    ) -> Outcome<ApproveTierChangeResponse> {
        let request = ApproveTierChangeRequest {
            actor_id: self.caller.user_id().to_owned(),
            device: Some(device),
            user_ids,
            tier: self.tier.name().to_owned(),
            upgrades_only,
            reason,
        };
        from_identity(self.services.admin().approve_tier_change(self.context.call(request)).await)
    }

    /// As [`approve`](Change::approve), for one account and any tier.
    ///
    /// # Errors
    /// USER001 as well.
    pub async fn approve_one(&self, user_id: &str, device: Device) -> Outcome<()> {
        let answer = self.approve(vec![user_id.to_owned()], device, false, String::new()).await?;
        answer.refused.into_iter().next().map_or(Ok(()), |refused| Err(failure_of(refused)))
    }

    /// Puts an account on the tier.
    ///
    /// # Errors
    /// SUB001; GW001 when subscription-svc is away.
    pub async fn make(&self, user_id: &str) -> Outcome<()> {
        let current = GetSubscriptionRequest { user_id: user_id.to_owned() };
        let mut subscriptions = self.services.subscriptions();
        let current = from_subscription(subscriptions.get_subscription(self.context.call(current)).await)?;
        let change = UpdateSubscriptionRequest {
            actor: actor_at(self.caller, self.context),
            user_id: user_id.to_owned(),
            tier: Some(self.tier.name().to_owned()),
            payment_method_id: None,
            // What is over would count as free whatever its tier.
            status: is_over(&present(current.subscription)?).then(|| "active".to_owned()),
        };
        from_subscription(subscriptions.update_subscription(self.context.call(change)).await)?;
        Ok(())
    }
}

fn is_over(subscription: &Subscription) -> bool {
    let passed = |time: &Option<prost_types::Timestamp>| time.is_some_and(|time| time.seconds <= now());
    matches!(subscription.status.as_str(), "canceled" | "expired")
        || passed(&subscription.end_date)
        || (subscription.status == "trialing" && passed(&subscription.trial_ends_at))
}

/// The failure that a refusal of one account stands for.
pub fn failure_of(refused: RefusedUser) -> Failure {
    let code = refused.code.parse().unwrap_or(ErrorCode::Internal);
    Failure::new(code).saying(refused.message)
}
