//! What a customer has at Stripe, and what it makes of the user's subscription.

use std::cmp::Reverse;

use chrono::{DateTime, TimeDelta, Utc};

use super::objects::{self, Item, Plan};
use crate::subscriptions::{Status, Subscription};

/// How Stripe's side of a subscription stands, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Not paid for any more, and not ended either: a payment can bring it back.
    Stopped,
    /// A payment failed and is tried again.
    Late,
    Running,
    Trial,
}

impl State {
    /// None for a subscription that has not begun or is over.
    fn of(status: &str) -> Option<State> {
        match status {
            "active" => Some(State::Running),
            "trialing" => Some(State::Trial),
            "past_due" => Some(State::Late),
            "unpaid" | "paused" => Some(State::Stopped),
            _ => None,
        }
    }
}

/// A subscription of a customer. The best one counts.
#[derive(Clone, Debug)]
pub struct Standing {
    pub subscription_id: String,
    pub item_id: String,
    pub plan: Plan,
    state: State,
    created: i64,
    started: DateTime<Utc>,
    /// Until when it is paid.
    paid_until: Option<DateTime<Utc>>,
    trial_end: Option<DateTime<Utc>>,
    /// When it was cancelled, and when it ends.
    cancelled: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whether another one of the customer's goes on when this one has ended.
    another_renews: bool,
    payment_method: Option<String>,
}

impl Standing {
    /// Those of the subscriptions of one customer that run, the best first; `plan` says what a price stands for.
    pub fn all(
        all: Vec<objects::Subscription>,
        plan: impl Fn(&Item) -> Option<Plan>,
        now: DateTime<Utc>,
    ) -> Vec<Standing> {
        let mut all: Vec<_> = all.into_iter().filter_map(|one| Standing::of(one, &plan, now)).collect();
        if all.len() > 1 {
            let ids: Vec<_> = all.iter().map(|one| &one.subscription_id).collect();
            tracing::warn!(subscriptions = ?ids, "a customer pays for several subscriptions, of which one counts");
        }
        all.sort_by_key(|one| Reverse((one.state.min(State::Running), one.plan.tier, one.created)));
        let renewing = all.iter().filter(|one| !one.is_cancelled()).count();
        for one in &mut all {
            one.another_renews = renewing > usize::from(!one.is_cancelled());
        }
        all
    }

    fn of(
        subscription: objects::Subscription,
        plan: &impl Fn(&Item) -> Option<Plan>,
        now: DateTime<Utc>,
    ) -> Option<Standing> {
        let state = State::of(&subscription.status)?;
        let sold = subscription.items.data.iter().find_map(|item| Some((item, plan(item)?)));
        let Some((item, plan)) = sold else {
            tracing::warn!(
                subscription = subscription.id,
                "a subscription at Stripe is for none of our prices"
            );
            return None;
        };
        let paid_until = item.current_period_end.and_then(time);
        let ends = subscription.cancel_at.and_then(time);
        let ends = ends.or(paid_until.filter(|_| subscription.cancel_at_period_end));
        let cancelled_at = subscription.canceled_at.and_then(time).unwrap_or(now);
        let payment_method = subscription.default_payment_method.as_ref().and_then(|method| method.as_str());
        Some(Standing {
            item_id: item.id.clone(),
            plan,
            state,
            created: subscription.created,
            started: time(subscription.start_date).unwrap_or(now),
            paid_until,
            trial_end: subscription.trial_end.and_then(time),
            cancelled: ends.map(|ends| (cancelled_at, ends)),
            another_renews: false,
            payment_method: payment_method.map(str::to_owned),
            subscription_id: subscription.id,
        })
    }

    /// Whether a payment has failed and is tried again, or not any more.
    pub fn is_late(&self) -> bool {
        matches!(self.state, State::Late | State::Stopped)
    }

    /// Whether it will end by itself.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_some()
    }

    /// Makes the user's subscription what is paid for. A late payment is forgiven until `grace_ends`.
    pub fn apply(&self, subscription: &mut Subscription, grace_ends: DateTime<Utc>, now: DateTime<Utc>) {
        if subscription.stripe_subscription_id.as_ref() != Some(&self.subscription_id) {
            subscription.stripe_subscription_id = Some(self.subscription_id.clone());
            subscription.start_date = self.started;
        }
        let (cancelled_at, ends) = self.cancelled.unzip();
        subscription.tier = self.plan.tier;
        subscription.trial_ends_at = self.trial_end;
        // Who goes on paying has not cancelled.
        subscription.cancelled_at = cancelled_at.filter(|_| !self.another_renews);
        subscription.payment_method =
            Some(self.payment_method.clone().unwrap_or_else(|| "stripe".to_owned()));
        (subscription.status, subscription.end_date) = match self.state {
            State::Running => (Status::Active, ends.or(self.paid_until)),
            State::Trial => (Status::Trialing, ends),
            State::Late => {
                let end = ends.map_or(grace_ends, |ends| ends.min(grace_ends));
                (if end > now { Status::PastDue } else { Status::Expired }, Some(end))
            }
            State::Stopped => {
                let ended = subscription.end_date.filter(|end| *end <= now);
                (Status::Expired, Some(ended.unwrap_or(now)))
            }
        };
    }
}

/// Makes the user's subscription one that is not paid for any more. What was not paid for at Stripe stays.
pub fn end(subscription: &mut Subscription, now: DateTime<Utc>) {
    if subscription.stripe_subscription_id.take().is_some() {
        subscription.status = Status::Canceled;
        subscription.cancelled_at = subscription.cancelled_at.or(Some(now));
        subscription.end_date = subscription.end_date.filter(|end| *end <= now).or(Some(now));
    }
}

/// When Stripe is to be asked again without a word from it: soon after something should have happened, and once a day
/// for the case that a webhook was lost.
pub fn next_look(subscription: &Subscription, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    subscription.stripe_subscription_id.as_ref()?;
    let tomorrow = now + TimeDelta::days(1);
    let turn = match subscription.status {
        Status::Trialing => subscription.trial_ends_at,
        Status::Active => subscription.end_date,
        Status::PastDue | Status::Canceled | Status::Expired => None,
    };
    let soon = turn.map(|turn| (turn + TimeDelta::seconds(5)).max(now + TimeDelta::minutes(1)));
    Some(soon.map_or(tomorrow, |soon| soon.min(tomorrow)))
}

fn time(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use chassis::clock::now;
    use contract::Tier;
    use serde_json::json;

    use super::*;
    use crate::subscriptions::tests::bought;

    fn best(subscriptions: serde_json::Value) -> Option<Standing> {
        let all = serde_json::from_value(subscriptions).expect("subscriptions");
        let plan = |item: &Item| item.price.lookup_key.as_deref().and_then(|key| key.parse().ok());
        Standing::all(all, plan, now()).into_iter().next()
    }

    fn at_stripe(id: &str, status: &str, lookup_key: &str, end: i64) -> serde_json::Value {
        json!({
            "id": id, "status": status, "created": 1, "start_date": 1, "cancel_at": null, "canceled_at": null,
            "trial_end": null, "default_payment_method": null,
            "items": { "data": [{
                "id": "si", "price": { "id": "p", "lookup_key": lookup_key }, "current_period_end": end,
            }] },
        })
    }

    fn free() -> Subscription {
        Subscription { tier: Tier::Free, ..bought(now()) }
    }

    #[test]
    fn of_several_subscriptions_the_one_that_gives_most_counts() {
        let all = json!([
            at_stripe("late", "past_due", "enterprise_month", 2),
            at_stripe("basic", "active", "basic_month", 2),
            at_stripe("premium", "trialing", "premium_year", 2),
            at_stripe("begun", "incomplete", "enterprise_month", 2),
            at_stripe("over", "canceled", "enterprise_month", 2),
            at_stripe("other", "active", "t_shirt", 2),
        ]);
        assert_eq!(best(all).map(|one| one.subscription_id).as_deref(), Some("premium"));
        let none = json!([
            at_stripe("begun", "incomplete_expired", "basic_month", 2),
            at_stripe("new", "a_status_to_come", "basic_month", 2),
        ]);
        assert!(best(none).is_none());
    }

    #[test]
    fn what_ends_at_stripe_ends_nothing_that_was_not_paid_for_there() {
        let now = now();
        let mut granted = Subscription { tier: Tier::Premium, ..free() };
        end(&mut granted, now);
        assert_eq!(granted.effective_tier(now), Tier::Premium);
        let mut paid = free();
        let best = best(json!([at_stripe("sub", "active", "basic_month", now.timestamp() + 60)]));
        let best = best.expect("a standing");
        best.apply(&mut paid, now, now);
        assert_eq!((paid.effective_tier(now), paid.status), (Tier::Basic, Status::Active));
        let once = paid.clone();
        best.apply(&mut paid, now, now);
        assert_eq!(paid, once, "taking the same over again changes nothing");
        end(&mut paid, now);
        assert_eq!((paid.effective_tier(now), paid.status), (Tier::Free, Status::Canceled));
    }

    #[test]
    fn stripe_is_asked_again_when_something_should_have_happened_and_once_a_day() {
        let now = now();
        let end = |seconds| Some(now + TimeDelta::seconds(seconds));
        let look = |status, end_date| {
            let stripe_subscription_id = Some("sub".to_owned());
            let at = next_look(&Subscription { status, end_date, stripe_subscription_id, ..free() }, now);
            at.map(|at| (at - now).num_seconds())
        };
        assert_eq!(next_look(&free(), now), None);
        assert_eq!(look(Status::Active, end(3600)), Some(3605));
        assert_eq!(look(Status::Active, end(-3600)), Some(60), "not all the time");
        assert_eq!(look(Status::Active, end(30 * 24 * 3600)), Some(24 * 3600));
        assert_eq!(look(Status::Expired, end(-3600)), Some(24 * 3600));
    }
}
