//! Subscriptions: one for each user, free until something else is bought.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use contract::{Tier, to_timestamp};

mod change;
#[cfg(test)]
mod lifecycle;
mod table;

pub use change::{change, change_locked, lapse};
pub use table::{find, hold, lapsed_users, list, lock, welcome, write};

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    Trialing,
    PastDue,
    Canceled,
    Expired,
}

impl Status {
    const ALL: [Status; 5] =
        [Status::Active, Status::Trialing, Status::PastDue, Status::Canceled, Status::Expired];

    /// The name that clients and tables use.
    pub fn name(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Trialing => "trialing",
            Status::PastDue => "past_due",
            Status::Canceled => "canceled",
            Status::Expired => "expired",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no status.
#[derive(Debug, thiserror::Error)]
#[error("must be one of active, trialing, past_due, canceled, expired")]
pub struct NotAStatus;

impl FromStr for Status {
    type Err = NotAStatus;

    fn from_str(name: &str) -> Result<Self, NotAStatus> {
        Status::ALL.into_iter().find(|status| status.name() == name).ok_or(NotAStatus)
    }
}

/// How long a trial that Stripe is to end goes on without a word from it: until the first payment has been tried.
const TRIAL_SLACK: TimeDelta = TimeDelta::hours(1);

/// A row of `subscriptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    pub user_id: String,
    pub tier: Tier,
    pub status: Status,
    pub start_date: DateTime<Utc>,
    pub end_date: Option<DateTime<Utc>>,
    pub trial_ends_at: Option<DateTime<Utc>>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub payment_method: Option<String>,
    /// The last one that was made; stays also when it was deleted at Stripe.
    pub stripe_customer_id: Option<String>,
    /// What is paid for at Stripe; none when nothing is, or not any more.
    pub stripe_subscription_id: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// The tier that counts at `now`: what was bought, as long as it lasts, and free after that.
    pub fn effective_tier(&self, now: DateTime<Utc>) -> Tier {
        let runs = self.end_date.is_some_and(|end| end > now);
        let lasts = match self.status {
            Status::Active => self.cancelled_at.is_none() || runs,
            Status::PastDue => self.end_date.is_none() || runs,
            Status::Trialing => !self.trial_is_over(now),
            Status::Canceled | Status::Expired => runs,
        };
        if lasts { self.tier } else { Tier::Free }
    }

    fn trial_is_over(&self, now: DateTime<Utc>) -> bool {
        let paid_next = self.stripe_subscription_id.is_some() && self.cancelled_at.is_none();
        let slack = if paid_next { TRIAL_SLACK } else { TimeDelta::zero() };
        self.trial_ends_at.is_some_and(|end| end + slack <= now)
    }

    /// Cancels at `now`: at the end of what has been paid, or at once when nothing has been or is late. A free subscription has nothing to cancel and
    /// stays active; what is cancelled or over stays as it is.
    pub fn cancel(&mut self, now: DateTime<Utc>) {
        let over = matches!(self.status, Status::Canceled | Status::Expired);
        if self.tier == Tier::Free || self.cancelled_at.is_some() || over {
            return;
        }
        self.cancelled_at = Some(now);
        if self.status == Status::Trialing {
            // A trial of which nobody said when it is over would last for ever.
            self.trial_ends_at = self.trial_ends_at.or(self.end_date);
        }
        if self.status == Status::PastDue || self.end_date.is_none_or(|end| end <= now) {
            self.status = Status::Canceled;
            self.end_date = Some(now);
        }
    }

    /// Writes into the status that a trial, a cancelled period or the grace of a late payment is over at `now`.
    pub fn lapse(&mut self, now: DateTime<Utc>) {
        let ended = self.end_date.is_some_and(|end| end <= now);
        match self.status {
            Status::Trialing if self.trial_is_over(now) => {
                self.status = Status::Expired;
                self.end_date = self.trial_ends_at;
            }
            Status::Active | Status::PastDue if ended && self.cancelled_at.is_some() => {
                self.status = Status::Canceled;
            }
            Status::PastDue if ended => self.status = Status::Expired,
            _ => {}
        }
    }

    /// A status that an administrator sets at `now` brings with it what it means: a running subscription is not
    /// cancelled, one that is over ended now, or earlier, and one whose payment is late ends after a grace.
    pub fn set_status(&mut self, status: Status, now: DateTime<Utc>, grace: TimeDelta) {
        self.status = status;
        match status {
            Status::Active | Status::PastDue | Status::Trialing => {
                self.cancelled_at = None;
                self.end_date = self.end_date.filter(|end| *end > now);
                if status == Status::PastDue {
                    self.end_date = self.end_date.or(Some(now + grace));
                }
            }
            Status::Canceled | Status::Expired => {
                self.cancelled_at = self.cancelled_at.or(Some(now));
                self.end_date = self.end_date.filter(|end| *end <= now).or(Some(now));
            }
        }
    }
}

impl From<Subscription> for contract::subscription::Subscription {
    fn from(subscription: Subscription) -> Self {
        contract::subscription::Subscription {
            id: subscription.id,
            user_id: subscription.user_id,
            tier: subscription.tier.name().to_owned(),
            status: subscription.status.name().to_owned(),
            start_date: Some(to_timestamp(subscription.start_date)),
            end_date: subscription.end_date.map(to_timestamp),
            trial_ends_at: subscription.trial_ends_at.map(to_timestamp),
            cancelled_at: subscription.cancelled_at.map(to_timestamp),
            payment_method: subscription.payment_method,
            created_at: Some(to_timestamp(subscription.created_at)),
            updated_at: Some(to_timestamp(subscription.updated_at)),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use chrono::Duration;

    use super::*;
    use chassis::clock::now;

    /// Premium, and nothing more to say of it.
    pub fn bought(now: DateTime<Utc>) -> Subscription {
        Subscription {
            id: "s".to_owned(),
            user_id: "u".to_owned(),
            tier: Tier::Premium,
            status: Status::Active,
            start_date: now,
            end_date: None,
            trial_ends_at: None,
            cancelled_at: None,
            payment_method: None,
            stripe_customer_id: None,
            stripe_subscription_id: None,
            created_at: now,
            updated_at: now,
        }
    }

    fn standing(status: Status) -> Subscription {
        Subscription { status, ..bought(now()) }
    }

    #[test]
    fn a_tier_counts_as_long_as_it_lasts() {
        let now = now();
        let (before, after) = (Some(now - Duration::days(1)), Some(now + Duration::days(1)));
        assert_eq!(standing(Status::Active).effective_tier(now), Tier::Premium);
        assert_eq!(standing(Status::PastDue).effective_tier(now), Tier::Premium);
        assert_eq!(standing(Status::Expired).effective_tier(now), Tier::Free);
        let ends =
            |status, end_date, cancelled_at| Subscription { end_date, cancelled_at, ..standing(status) };
        assert_eq!(ends(Status::Canceled, after, before).effective_tier(now), Tier::Premium);
        assert_eq!(ends(Status::Canceled, before, before).effective_tier(now), Tier::Free);
        assert_eq!(ends(Status::Active, before, before).effective_tier(now), Tier::Free);
        assert_eq!(ends(Status::Active, before, None).effective_tier(now), Tier::Premium, "it renews");
        assert_eq!(ends(Status::PastDue, after, None).effective_tier(now), Tier::Premium);
        assert_eq!(ends(Status::PastDue, before, None).effective_tier(now), Tier::Free);
        let trial = Subscription { trial_ends_at: before, ..standing(Status::Trialing) };
        assert_eq!(trial.effective_tier(now), Tier::Free);
        let just = Some(now - Duration::minutes(1));
        let paid_next = Subscription {
            trial_ends_at: just,
            stripe_subscription_id: Some("sub_1".to_owned()),
            ..standing(Status::Trialing)
        };
        assert_eq!(paid_next.effective_tier(now), Tier::Premium, "its first payment is being made");
        let cancelled = Subscription { cancelled_at: before, ..paid_next };
        assert_eq!(cancelled.effective_tier(now), Tier::Free);
    }

    #[test]
    fn what_is_paid_for_lasts_to_its_end_and_the_rest_ends_at_once() {
        let now = now();
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..standing(Status::Active) };
        paid.cancel(now);
        assert_eq!((paid.status, paid.cancelled_at), (Status::Active, Some(now)));
        let mut open = standing(Status::Active);
        open.cancel(now);
        assert_eq!((open.status, open.effective_tier(now)), (Status::Canceled, Tier::Free));
        let mut late = Subscription { end_date: Some(now + Duration::days(3)), ..standing(Status::PastDue) };
        late.cancel(now);
        assert_eq!((late.status, late.effective_tier(now)), (Status::Canceled, Tier::Free));
        let mut free = Subscription { tier: Tier::Free, ..standing(Status::Active) };
        free.cancel(now);
        assert_eq!((free.status, free.cancelled_at), (Status::Active, None));
    }

    #[test]
    fn cancelling_twice_changes_nothing() {
        let now = now();
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..standing(Status::Active) };
        paid.cancel(now);
        let once = paid.clone();
        paid.cancel(now + Duration::days(1));
        assert_eq!(paid, once);
    }

    #[test]
    fn what_is_over_says_so() {
        let now = now();
        let mut trial = Subscription { trial_ends_at: Some(now), ..standing(Status::Trialing) };
        trial.lapse(now - Duration::seconds(1));
        assert_eq!(trial.status, Status::Trialing);
        trial.lapse(now);
        assert_eq!((trial.status, trial.end_date), (Status::Expired, Some(now)));
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..standing(Status::Active) };
        paid.lapse(now + Duration::days(4));
        assert_eq!(paid.status, Status::Active, "a renewal that is late does not end it");
        paid.cancel(now);
        paid.lapse(now + Duration::days(4));
        assert_eq!(paid.status, Status::Canceled);
    }

    #[test]
    fn a_late_payment_has_a_grace_and_then_the_tier_is_gone() {
        let (now, grace) = (now(), Duration::days(7));
        let mut late = standing(Status::Active);
        late.set_status(Status::PastDue, now, grace);
        assert_eq!((late.status, late.end_date), (Status::PastDue, Some(now + grace)));
        late.lapse(now + grace - Duration::seconds(1));
        assert_eq!((late.status, late.effective_tier(now)), (Status::PastDue, Tier::Premium));
        late.lapse(now + grace);
        assert_eq!((late.status, late.effective_tier(now + grace)), (Status::Expired, Tier::Free));
    }
}
