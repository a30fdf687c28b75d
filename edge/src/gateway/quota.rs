//! The gateway's part of the quota: a place is reserved before something is made, and committed or released when the
//! outcome is known. A place is renewed while what it is for is being made, and expires when nobody knows the outcome.

use std::convert::Infallible;
use std::time::Duration;

use contract::subscription::{
    CommitRequest, RecordUsageRequest, ReleaseRequest, RenewRequest, ReserveRequest,
};
use contract::{Failure, Outcome, Resource};
use http::Method;
use ring::digest::{SHA256, digest};
use tokio::time::sleep;
use tonic::Status;
use uuid::Uuid;

use super::{Route, creates};
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::services::{Services, from_subscription};

/// How often an outcome is told before it is given up; the pause doubles from [`FIRST_PAUSE`].
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often a place is renewed within its life: two renewals may be lost.
const RENEWALS: u32 = 3;

/// What a request does to a count.
pub enum Counted {
    Makes(Reservation),
    Removes(Removal),
}

/// A place that is taken and not yet used.
pub struct Reservation {
    user_id: String,
    key: String,
    life: Duration,
    services: Services,
    context: RequestContext,
}

/// One less of a resource, once core-manager has agreed.
pub struct Removal {
    request: RecordUsageRequest,
    services: Services,
    context: RequestContext,
}

/// What came of reserving.
pub enum Reserved {
    New(Reservation),
    /// The key was used before: what it stands for exists or is being made.
    Before,
}

/// What the request does to the caller's counts. While subscription-svc is away nothing counted is made; removing goes
/// on.
///
/// # Errors
/// SUB002 with resource, limit and used; GW001.
pub async fn check(
    route: &Route,
    (method, path): (&Method, &str),
    caller: &Caller,
    services: &Services,
    context: &RequestContext,
    life: Duration,
) -> Outcome<Option<Counted>> {
    let Some(resource) = route.counts() else {
        return Ok(None);
    };
    if method == Method::DELETE {
        let request = RecordUsageRequest {
            user_id: caller.user_id().to_owned(),
            resource: resource.name().to_owned(),
            delta: -1,
            idempotency_key: removal_key(path),
        };
        let (services, context) = (services.clone(), context.clone());
        return Ok(Some(Counted::Removes(Removal { request, services, context })));
    }
    if !creates(method) {
        return Ok(None);
    }
    let key = Uuid::now_v7().to_string();
    match reserve(resource, key, caller, services, context, life).await? {
        Reserved::New(reservation) => Ok(Some(Counted::Makes(reservation))),
        Reserved::Before => Err(Failure::internal("a new key was used before")),
    }
}

/// The same for every removal of one thing: a core-manager that answers a second one with success as well frees no second
/// place.
fn removal_key(path: &str) -> String {
    let digest = digest(&SHA256, path.to_ascii_lowercase().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes a place of `resource` for as long as `life`, once for each key.
///
/// # Errors
/// SUB002 with resource, limit and used; GW001.
pub async fn reserve(
    resource: Resource,
    key: String,
    caller: &Caller,
    services: &Services,
    context: &RequestContext,
    life: Duration,
) -> Outcome<Reserved> {
    let user_id = caller.user_id().to_owned();
    let request = ReserveRequest {
        user_id: user_id.clone(),
        resource: resource.name().to_owned(),
        idempotency_key: key.clone(),
        ttl_seconds: seconds(life),
    };
    let answer = from_subscription(services.usage().reserve(context.call(request)).await)?;
    if !answer.repeated.is_empty() {
        return Ok(Reserved::Before);
    }
    let (services, context) = (services.clone(), context.clone());
    Ok(Reserved::New(Reservation { user_id, key, life, services, context }))
}

fn seconds(life: Duration) -> i32 {
    i32::try_from(life.as_secs()).unwrap_or(i32::MAX)
}

impl Reservation {
    /// Waits for what the place is for. The place stays taken meanwhile, however long it takes; should this edge die, it
    /// is free when its time is over.
    pub async fn during<T>(&self, making: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            made = making => made,
            never = self.renew() => match never {},
        }
    }

    /// Renews the place again and again. One that is lost all the same counts when its thing exists.
    async fn renew(&self) -> Infallible {
        loop {
            sleep(self.life / RENEWALS).await;
            let request = RenewRequest {
                user_id: self.user_id.clone(),
                idempotency_key: self.key.clone(),
                ttl_seconds: seconds(self.life),
            };
            if let Err(status) = self.services.usage().renew(self.context.last_call(request)).await {
                tracing::warn!(request_id = self.context.id(), %status, "a place of the quota was not renewed");
            }
        }
    }

    /// The thing exists. Told before the client hears of it, so that usage is true to the last write; again in the
    /// background when that fails.
    pub async fn commit(&self) {
        let request = CommitRequest { user_id: self.user_id.clone(), idempotency_key: self.key.clone() };
        let services = self.services.clone();
        insist(self.context.clone(), "commit", move |context| {
            let (mut usage, request) = (services.usage(), request.clone());
            async move { usage.commit(context.last_call(request)).await.map(drop) }
        })
        .await;
    }

    /// Nothing was made.
    pub async fn release(&self) {
        let request = ReleaseRequest { user_id: self.user_id.clone(), idempotency_key: self.key.clone() };
        let services = self.services.clone();
        insist(self.context.clone(), "release", move |context| {
            let (mut usage, request) = (services.usage(), request.clone());
            async move { usage.release(context.last_call(request)).await.map(drop) }
        })
        .await;
    }
}

impl Removal {
    /// The thing is gone.
    pub async fn record(self) {
        let Removal { request, services, context } = self;
        insist(context, "removal", move |context| {
            let (mut usage, request) = (services.usage(), request.clone());
            async move { usage.record_usage(context.last_call(request)).await.map(drop) }
        })
        .await;
    }
}

/// Tells an outcome once, and goes on in the background when that fails.
async fn insist<F>(
    context: RequestContext,
    what: &'static str,
    tell: impl Fn(RequestContext) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let Err(status) = tell(context.clone()).await else { return };
    tracing::warn!(request_id = context.id(), what, %status, "an outcome could not be told yet");
    tokio::spawn(tell_again(context, what, tell));
}

/// Tells an outcome, again and again when that fails, before it returns: for outcomes that must be told in their order.
pub async fn persist<F>(context: RequestContext, what: &'static str, tell: impl Fn(RequestContext) -> F)
where
    F: Future<Output = Result<(), Status>>,
{
    let Err(status) = tell(context.clone()).await else { return };
    tracing::warn!(request_id = context.id(), what, %status, "an outcome could not be told yet");
    tell_again(context, what, tell).await;
}

async fn tell_again<F>(context: RequestContext, what: &'static str, tell: impl Fn(RequestContext) -> F)
where
    F: Future<Output = Result<(), Status>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 0..ATTEMPTS {
        tokio::time::sleep(pause).await;
        pause *= 2;
        if tell(context.clone()).await.is_ok() {
            return;
        }
    }
    tracing::error!(
        request_id = context.id(),
        what,
        "an outcome was not told; what was taken for it expires"
    );
}
