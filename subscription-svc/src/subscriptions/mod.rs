//! Subscriptions: one for each user, free until something else is bought.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use contract::{Tier, to_timestamp};

mod table;

pub use table::{find, lapsed_users, list, lock, welcome, write};

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

/// A row of `subscriptions`, without what is Stripe's.
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
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// The tier that counts at `now`: what was bought, as long as it lasts, and free after that.
    pub fn effective_tier(&self, now: DateTime<Utc>) -> Tier {
        let runs = self.end_date.is_some_and(|end| end > now);
        let lasts = match self.status {
            Status::Active | Status::PastDue => self.cancelled_at.is_none() || runs,
            Status::Trialing => self.trial_ends_at.is_none_or(|end| end > now),
            Status::Canceled | Status::Expired => runs,
        };
        if lasts { self.tier } else { Tier::Free }
    }

    /// Cancels at `now`: at the end of what has been paid, or at once. A free subscription has nothing to cancel and
    /// stays active; what is cancelled or over stays as it is.
    pub fn cancel(&mut self, now: DateTime<Utc>) {
        let over = matches!(self.status, Status::Canceled | Status::Expired);
        if self.tier == Tier::Free || self.cancelled_at.is_some() || over {
            return;
        }
        self.cancelled_at = Some(now);
        if self.end_date.is_none_or(|end| end <= now) {
            self.status = Status::Canceled;
            self.end_date = Some(now);
        }
    }

    /// Writes into the status that a trial or a cancelled period is over at `now`.
    pub fn lapse(&mut self, now: DateTime<Utc>) {
        match self.status {
            Status::Trialing if self.trial_ends_at.is_some_and(|end| end <= now) => {
                self.status = Status::Expired;
                self.end_date = self.trial_ends_at;
            }
            Status::Active | Status::PastDue
                if self.cancelled_at.is_some() && self.end_date.is_some_and(|end| end <= now) =>
            {
                self.status = Status::Canceled;
            }
            _ => {}
        }
    }

    /// A status that an administrator sets at `now` brings with it what it means: a running subscription is not
    /// cancelled, and one that is over ended now, or earlier.
    pub fn set_status(&mut self, status: Status, now: DateTime<Utc>) {
        self.status = status;
        match status {
            Status::Active | Status::PastDue | Status::Trialing => {
                self.cancelled_at = None;
                self.end_date = self.end_date.filter(|end| *end > now);
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
mod tests {
    use chrono::Duration;

    use super::*;
    use chassis::clock::now;

    fn bought(status: Status) -> Subscription {
        let now = now();
        Subscription {
            id: "s".to_owned(),
            user_id: "u".to_owned(),
            tier: Tier::Premium,
            status,
            start_date: now,
            end_date: None,
            trial_ends_at: None,
            cancelled_at: None,
            payment_method: None,
            created_at: now,
            updated_at: now,
        }
    }

    #[test]
    fn a_tier_counts_as_long_as_it_lasts() {
        let now = now();
        let (before, after) = (Some(now - Duration::days(1)), Some(now + Duration::days(1)));
        assert_eq!(bought(Status::Active).effective_tier(now), Tier::Premium);
        assert_eq!(bought(Status::PastDue).effective_tier(now), Tier::Premium);
        assert_eq!(bought(Status::Expired).effective_tier(now), Tier::Free);
        let ends = |status, end_date, cancelled_at| Subscription { end_date, cancelled_at, ..bought(status) };
        assert_eq!(ends(Status::Canceled, after, before).effective_tier(now), Tier::Premium);
        assert_eq!(ends(Status::Canceled, before, before).effective_tier(now), Tier::Free);
        assert_eq!(ends(Status::Active, before, before).effective_tier(now), Tier::Free);
        let trial = Subscription { trial_ends_at: before, ..bought(Status::Trialing) };
        assert_eq!(trial.effective_tier(now), Tier::Free);
    }

    #[test]
    fn what_is_paid_for_lasts_to_its_end_and_the_rest_ends_at_once() {
        let now = now();
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..bought(Status::Active) };
        paid.cancel(now);
        assert_eq!((paid.status, paid.cancelled_at), (Status::Active, Some(now)));
        let mut open = bought(Status::Active);
        open.cancel(now);
        assert_eq!((open.status, open.effective_tier(now)), (Status::Canceled, Tier::Free));
        let mut free = Subscription { tier: Tier::Free, ..bought(Status::Active) };
        free.cancel(now);
        assert_eq!((free.status, free.cancelled_at), (Status::Active, None));
    }

    #[test]
    fn cancelling_twice_changes_nothing() {
        let now = now();
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..bought(Status::Active) };
        paid.cancel(now);
        let once = paid.clone();
        paid.cancel(now + Duration::days(1));
        assert_eq!(paid, once);
    }

    #[test]
    fn what_is_over_says_so() {
        let now = now();
        let mut trial = Subscription { trial_ends_at: Some(now), ..bought(Status::Trialing) };
        trial.lapse(now - Duration::seconds(1));
        assert_eq!(trial.status, Status::Trialing);
        trial.lapse(now);
        assert_eq!((trial.status, trial.end_date), (Status::Expired, Some(now)));
        let mut paid = Subscription { end_date: Some(now + Duration::days(3)), ..bought(Status::Active) };
        paid.lapse(now + Duration::days(4));
        assert_eq!(paid.status, Status::Active, "a renewal that is late does not end it");
        paid.cancel(now);
        paid.lapse(now + Duration::days(4));
        assert_eq!(paid.status, Status::Canceled);
    }
}
