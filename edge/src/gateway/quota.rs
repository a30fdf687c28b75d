//! The gateway's part of the quota: asked before something is created, told after it was created or deleted.

use std::time::Duration;

use contract::subscription::{CheckQuotaRequest, RecordUsageRequest};
use contract::{ErrorCode, Failure, Outcome, Resource};
use http::Method;
use uuid::Uuid;

use super::{Route, creates};
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::services::{Services, from_subscription};

/// How often a count is sent before it is given up; the pause doubles from [`FIRST_PAUSE`].
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A request that changes a count when core-manager accepts it.
pub struct Counted {
    resource: Resource,
    delta: i32,
}

/// Whether the caller may create one more, if the request creates something. While subscription-svc is away nothing
/// counted is created; deleting goes on.
///
/// # Errors
/// SUB002 with resource, limit and used; GW001.
pub async fn check(
    route: &Route,
    method: &Method,
    caller: &Caller,
    services: &Services,
    context: &RequestContext,
) -> Outcome<Option<Counted>> {
    let Some(resource) = route.counts() else {
        return Ok(None);
    };
    if method == Method::DELETE {
        return Ok(Some(Counted { resource, delta: -1 }));
    }
    if !creates(method) {
        return Ok(None);
    }
    admit(resource, caller, services, context).await?;
    Ok(Some(Counted { resource, delta: 1 }))
}

/// Refuses a caller who has no more of `resource` left.
///
/// # Errors
/// SUB002 with resource, limit and used; GW001.
pub async fn admit(
    resource: Resource,
    caller: &Caller,
    services: &Services,
    context: &RequestContext,
) -> Outcome<()> {
    let request =
        CheckQuotaRequest { user_id: caller.user_id().to_owned(), resource: resource.name().to_owned() };
    let answer = services.usage().check_quota(context.call(request)).await;
    let quota = from_subscription(answer)?;
    if quota.has_quota {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::QuotaExceeded)
        .with_fact("resource", resource)
        .with_fact("limit", quota.limit)
        .with_fact("used", quota.used))
}

impl Counted {
    /// Counts what has happened, without holding the answer back. The key makes a repeated call count once.
    pub fn record(self, caller: &Caller, services: &Services, context: &RequestContext) {
        record(self.resource, self.delta, caller, services, context);
    }
}

/// Counts one more or one less of `resource` in the background, again until it is counted.
pub fn record(
    resource: Resource,
    delta: i32,
    caller: &Caller,
    services: &Services,
    context: &RequestContext,
) {
    let request = RecordUsageRequest {
        user_id: caller.user_id().to_owned(),
        resource: resource.name().to_owned(),
        delta,
        idempotency_key: Uuid::now_v7().to_string(),
    };
    let (services, context) = (services.clone(), context.clone());
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ATTEMPTS {
            match services.usage().record_usage(context.call(request.clone())).await {
                Ok(_) => return,
                Err(status) => tracing::warn!(request_id = context.id(), %status, "usage not counted yet"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::error!(request_id = context.id(), %resource, delta, "usage was not counted");
    });
}
