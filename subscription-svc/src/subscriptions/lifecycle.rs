//! What holds of a subscription whatever happened to it before.

use chrono::{DateTime, Duration, Utc};
use contract::Tier;
use proptest::prelude::*;

use super::tests::bought;
use super::{Status, Subscription};

/// Something that happens to a subscription.
#[derive(Clone, Copy, Debug)]
enum Step {
    Cancels,
    Lapses,
    IsSet(Status),
    /// A month is paid for at Stripe.
    IsPaid,
    PaymentIsLate,
    BeginsTrial(i64),
    Waits(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let hours = prop_oneof![Just(0), Just(1), Just(24), 0..1500_i64];
    prop_oneof![
        2 => Just(Step::Cancels),
        2 => Just(Step::Lapses),
        2 => prop::sample::select(&Status::ALL[..]).prop_map(Step::IsSet),
        1 => Just(Step::IsPaid),
        1 => Just(Step::PaymentIsLate),
        1 => (0..30_i64).prop_map(Step::BeginsTrial),
        3 => hours.prop_map(Step::Waits),
    ]
}

const GRACE: Duration = Duration::days(7);

fn take(subscription: &mut Subscription, step: Step, now: DateTime<Utc>) {
    match step {
        Step::Cancels => subscription.cancel(now),
        Step::Lapses => subscription.lapse(now),
        Step::IsSet(status) => subscription.set_status(status, now, GRACE),
        Step::IsPaid => {
            subscription.stripe_subscription_id = Some("sub".to_owned());
            (subscription.status, subscription.cancelled_at) = (Status::Active, None);
            subscription.end_date = Some(now + Duration::days(30));
        }
        Step::PaymentIsLate => {
            (subscription.status, subscription.end_date) = (Status::PastDue, Some(now + GRACE));
        }
        Step::BeginsTrial(days) => {
            (subscription.status, subscription.cancelled_at) = (Status::Trialing, None);
            (subscription.end_date, subscription.trial_ends_at) = (None, Some(now + Duration::days(days)));
        }
        Step::Waits(_) => {}
    }
}

/// Times that matter to a subscription, and some far away.
fn times(subscription: &Subscription, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let turns = [subscription.end_date, subscription.trial_ends_at, Some(now)].into_iter().flatten();
    let around = turns.flat_map(|at| [-1, 0, 1, 3600, 3601].map(|seconds| at + Duration::seconds(seconds)));
    around.chain([now + Duration::days(4000)]).filter(|at| *at >= now).collect()
}

fn tiers(subscription: &Subscription, times: &[DateTime<Utc>]) -> Vec<Tier> {
    times.iter().map(|at| subscription.effective_tier(*at)).collect()
}

proptest! {
    #[test]
    fn whatever_happened_a_subscription_ends_when_it_says_and_no_sooner(
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        let mut now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let mut subscription = bought(now);
        for step in steps {
            if let Step::Waits(hours) = step {
                now += Duration::hours(hours);
            }
            let before = subscription.clone();
            take(&mut subscription, step, now);
            let times = times(&before, now);

            // To write down that it is over makes no difference, and is done once.
            let mut lapsed = subscription.clone();
            lapsed.lapse(now);
            prop_assert_eq!(tiers(&subscription, &times), tiers(&lapsed, &times), "{:?} lapsed", subscription);
            let once = lapsed.clone();
            lapsed.lapse(now);
            prop_assert_eq!(&lapsed, &once);

            // Whoever cancels keeps what is paid for, and nothing for ever.
            let mut cancelled = subscription.clone();
            cancelled.cancel(now);
            let paid = subscription.end_date.filter(|end| subscription.status == Status::Active && *end > now);
            for at in times.iter().filter(|at| paid.is_some_and(|end| **at < end)) {
                prop_assert_eq!(cancelled.effective_tier(*at), subscription.effective_tier(*at));
            }
            let for_ever = now + Duration::days(4000);
            prop_assert_eq!(cancelled.effective_tier(for_ever), Tier::Free, "{:?} cancelled", subscription);
            let once = cancelled.clone();
            cancelled.cancel(now + Duration::hours(1));
            prop_assert_eq!(&cancelled, &once);

            // What is over has an end.
            if matches!(subscription.status, Status::Canceled | Status::Expired) {
                prop_assert!(subscription.end_date.is_some(), "{:?}", subscription);
                prop_assert_eq!(subscription.effective_tier(for_ever), Tier::Free);
            }
        }
    }
}
