//! How many requests a minute a user may send, by the tier that counts at this moment. What counts: every request to
//! the public listener whose bearer token is good, a socket's handshake included; messages on a socket do not, they
//! have a limit of their own. Signing out is always possible, and so are a few requests of each session for the own
//! account, whatever others do in its name.
//!
//! A token bucket for each user, kept as GCRA keeps it: the time at which the bucket will be full again. A bucket
//! holds one minute's worth of requests. Each edge counts by itself ([`Buckets`]); with Redis all count together
//! ([`Shared`]).

mod buckets;
mod limits;
mod shared;

use std::fmt::Write;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::{ErrorCode, Failure, Outcome, Tier};
use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus::{IntCounterVec, IntGauge};

use crate::claims::Caller;
use crate::front::RequestContext;

pub use limits::Limits;
pub use shared::{Shared, SharedUrl};

use buckets::Buckets;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The window that limits are named for, and the time in which an empty bucket fills.
const MINUTE: Duration = Duration::from_secs(60);

/// Requests a minute for the own account that each session may send when the account's are used up.
const OF_SESSION: u32 = 10;

/// Counts requests. Cheap to clone.
#[derive(Clone)]
pub struct RateLimiter(Arc<Known>);

struct Known {
    limits: Limits,
    /// What `RateLimit-Policy` says for each tier.
    policies: Vec<(Tier, HeaderValue)>,
    buckets: Buckets,
    shared: Option<Shared>,
}

impl RateLimiter {
    /// Limits in this process alone, or with others through Redis.
    pub fn new(limits: Limits, shared: Option<Shared>) -> Self {
        let policies =
            Tier::ALL.iter().filter_map(|tier| Some((*tier, policy(*tier, limits.of(*tier)?)))).collect();
        RateLimiter(Arc::new(Known { limits, policies, buckets: Buckets::new(), shared }))
    }

    /// Counts a request of the caller, once however often it is asked.
    ///
    /// # Errors
    /// RATE001 with the time after which the next one is admitted.
    pub async fn count(&self, caller: &Caller, context: &RequestContext) -> Outcome<()> {
        self.count_unless(caller, context, None).await
    }

    /// As [`RateLimiter::count`], for what a person does for the own account: whoever has stolen a key or a token of it
    /// cannot keep the owner from ending them by sending too much.
    ///
    /// # Errors
    /// As there.
    pub async fn count_for_account(&self, caller: &Caller, context: &RequestContext) -> Outcome<()> {
        let session = (!caller.is_key()).then(|| caller.session_id());
        self.count_unless(caller, context, session).await
    }

    async fn count_unless(
        &self,
        caller: &Caller,
        context: &RequestContext,
        spares: Option<&str>,
    ) -> Outcome<()> {
        let tier = caller.claims().tier;
        let Some(per_minute) = self.0.limits.of(tier) else { return Ok(()) };
        if context.standing().is_some() {
            return Ok(());
        }
        let taken = self.take(caller.user_id(), per_minute).await;
        context.note(Standing { tier, per_minute, taken });
        if taken.admitted || spares.is_some_and(|session| self.spares(session)) {
            return Ok(());
        }
        REFUSED.with_label_values(&[tier.name()]).inc();
        Err(Failure::new(ErrorCode::RateLimited)
            .with_fact("tier", tier)
            .with_fact("limit", per_minute)
            .retry_after(whole_seconds(taken.next_in(per_minute))))
    }

    /// By this edge alone: it is little, and for when much is going on.
    fn spares(&self, session_id: &str) -> bool {
        self.0.buckets.take(session_id, OF_SESSION).admitted
    }

    /// Here first: what this edge alone has admitted is the least that all have, so that a user whose bucket is empty
    /// costs no call. What Redis says is laid over it, and without Redis the count of this edge goes on from there.
    async fn take(&self, user_id: &str, per_minute: u32) -> Taken {
        let here = self.0.buckets.take(user_id, per_minute);
        let Some(shared) = self.0.shared.as_ref().filter(|_| here.admitted) else { return here };
        let Some(all) = shared.take(user_id, per_minute).await else { return here };
        self.0.buckets.raise(user_id, all.owed);
        all
    }

    /// Says on an answer how the caller stands, if the request was counted.
    pub fn tell(&self, context: &RequestContext, headers: &mut HeaderMap) {
        let Some(standing) = context.standing() else { return };
        let policy = self.0.policies.iter().find(|(tier, _)| *tier == standing.tier);
        if let (Some((_, policy)), Some(limit)) = (policy, standing.header()) {
            headers.insert(POLICY, policy.clone());
            headers.insert(LIMIT, limit);
        }
    }

    /// Drops the buckets that are full: they are as good as none.
    pub fn forget(&self) {
        self.0.buckets.forget();
        ENTRIES.set(self.0.buckets.len() as i64);
    }
}

/// What came of asking for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    admitted: bool,
    /// The time until the bucket is full again.
    owed: Duration,
}

impl Taken {
    /// How many more requests are admitted at once.
    fn left(self, per_minute: u32) -> u32 {
        (MINUTE.saturating_sub(self.owed).as_nanos() / interval(per_minute).as_nanos()) as u32
    }

    /// The time until one more is admitted than are now.
    fn next_in(self, per_minute: u32) -> Duration {
        (self.owed + interval(per_minute) * (self.left(per_minute) + 1)).saturating_sub(MINUTE)
    }
}

/// How a caller stands after a request.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    tier: Tier,
    per_minute: u32,
    taken: Taken,
}

impl Standing {
    /// `RateLimit` as draft-ietf-httpapi-ratelimit-headers has it: how many more at once, and the seconds until there
    /// is another one.
    fn header(self) -> Option<HeaderValue> {
        let (left, next) = (self.taken.left(self.per_minute), self.taken.next_in(self.per_minute));
        let mut text = BytesMut::with_capacity(48);
        write!(text, "\"{}\";r={left};t={}", self.tier.name(), whole_seconds(next).as_secs()).ok()?;
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
    }
}

fn policy(tier: Tier, per_minute: u32) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{tier}\";q={per_minute};w={}", MINUTE.as_secs()))
        .unwrap_or_else(|e| unreachable!("names of tiers are plain: {e}"))
}

/// The time in which a bucket gains one request.
fn interval(per_minute: u32) -> Duration {
    MINUTE / per_minute.max(1)
}

/// Rounded up: who waits for so long is not too early.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_millis().div_ceil(1000) as u64)
}

static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_rate_limited_total",
        "Requests that were refused for the rate limit of their tier",
        &["tier"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static ENTRIES: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "edge_rate_limit_entries",
        "Users, and sessions beyond them, whose rate is being counted"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(owed_ms: u64) -> Taken {
        Taken { admitted: true, owed: Duration::from_millis(owed_ms) }
    }

    #[test]
    fn what_is_left_and_when_there_is_more_agree_with_the_bucket() {
        for (owed, left, next) in
            [(1_000, 59, 1_000), (59_000, 1, 1_000), (59_500, 0, 500), (60_000, 0, 1_000)]
        {
            let taken = taken(owed);
            assert_eq!((taken.left(60), taken.next_in(60)), (left, Duration::from_millis(next)), "{owed}");
        }
    }

    #[test]
    fn headers_have_the_form_of_the_draft() {
        let standing = Standing { tier: Tier::Free, per_minute: 60, taken: taken(59_500) };
        assert_eq!(standing.header().expect("a header"), r#""free";r=0;t=1"#);
        assert_eq!(policy(Tier::Basic, 300), r#""basic";q=300;w=60"#);
    }
}
