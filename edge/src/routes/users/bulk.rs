//! One operation on many accounts.

use std::collections::HashSet;

use axum::Extension;
use axum::extract::State;
use contract::identity::{ChangeUsersRequest, RefusedUser};
use contract::{ErrorCode, Failure, Outcome, Tier};
use futures_util::StreamExt;
use futures_util::stream;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tier::{self, failure_of};
use crate::answer::Answer;
use crate::claims::{Admin, Caller};
use crate::front::RequestContext;
use crate::json::{Id, Json};
use crate::openapi::kinds;
use crate::routes::device;
use crate::services::{Services, from_identity};

const MOST: usize = 1000;
const MAX_REASON: usize = 500;
/// Accounts of one call, so that it ends well before its deadline.
const CHUNK: usize = 25;
/// Tiers that are changed at once.
const TIERS_AT_ONCE: usize = 4;

#[derive(Deserialize, ToSchema)]
pub struct Bulk {
    #[schema(value_type = Vec<kinds::Id>, min_items = 1, max_items = 1000)]
    user_ids: Vec<Id>,
    #[schema(pattern = "^(activate|deactivate|delete|upgrade_tier)$", example = "deactivate")]
    operation: String,
    /// What `upgrade_tier` needs.
    #[serde(default)]
    params: Option<Params>,
    /// For the audit log.
    #[serde(default)]
    #[schema(value_type = Option<kinds::Line500>)]
    reason: Option<String>,
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = BulkParams)]
struct Params {
    #[schema(value_type = Option<kinds::Tier>)]
    tier: Option<String>,
}

enum Operation {
    /// What identity-svc does, under its name.
    Change(String),
    UpgradeTier(Tier),
}

impl Bulk {
    fn check(&self) -> Outcome<Operation> {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        if !(1..=MOST).contains(&self.user_ids.len()) {
            failure.add_field("user_ids", format!("must have 1 to {MOST} ids"));
        }
        if self.reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
            failure.add_field("reason", format!("must have at most {MAX_REASON} characters"));
        }
        let tier = self.params.as_ref().and_then(|params| params.tier.as_deref());
        let tier = tier.map(str::parse::<Tier>);
        if let Some(Err(fault)) = &tier {
            failure.add_field("params.tier", fault);
        }
        let operation = match (self.operation.as_str(), tier) {
            (name @ ("activate" | "deactivate" | "delete"), _) => Some(Operation::Change(name.to_owned())),
            ("upgrade_tier", Some(Ok(tier))) => Some(Operation::UpgradeTier(tier)),
            ("upgrade_tier", Some(Err(_))) => None,
            ("upgrade_tier", None) => {
                failure.add_field("params.tier", "is required");
                None
            }
            _ => {
                failure.add_field("operation", "must be one of activate, deactivate, delete, upgrade_tier");
                None
            }
        };
        operation.filter(|_| failure.fields().is_empty()).ok_or(failure)
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = BulkError)]
struct ErrorBody {
    #[schema(value_type = kinds::ErrorCode)]
    code: &'static str,
    #[schema(example = "User not found")]
    message: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BulkFailure)]
struct Failed {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    error: ErrorBody,
}

impl Failed {
    fn new(user_id: String, failure: &Failure) -> Self {
        let error = ErrorBody { code: failure.code().name(), message: failure.message().to_owned() };
        Failed { user_id, error }
    }
}

#[derive(Default, Serialize, ToSchema)]
#[schema(as = BulkResults)]
pub struct Results {
    #[schema(value_type = Vec<kinds::Id>)]
    succeeded: Vec<String>,
    failed: Vec<Failed>,
}

impl Results {
    fn refuse(&mut self, refused: Vec<RefusedUser>) {
        let failed = refused.into_iter().map(|refused| {
            let user_id = refused.user_id.clone();
            Failed::new(user_id, &failure_of(refused))
        });
        self.failed.extend(failed);
    }
}

struct Work {
    services: Services,
    context: RequestContext,
    headers: HeaderMap,
    caller: Caller,
    operation: Operation,
    reason: String,
}

/// Changes accounts one by one. When a service goes away in between, the accounts that are left are named as failed.
#[utoipa::path(
    post,
    path = "/bulk",
    operation_id = "change_users",
    summary = "Do one thing to many accounts",
    description = "One by one: what fails for one account does not keep the others from it. An API key may not change its \
                   own account.",
    request_body = Bulk,
    responses((status = 200, body = Results)),
)]
pub async fn change(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(body): Json<Bulk>,
) -> Answer<axum::Json<Results>> {
    let operation = body.check()?;
    let work =
        Work { services, context, headers, caller, operation, reason: body.reason.unwrap_or_default() };
    let (user_ids, mut results) = work.admit(body.user_ids);
    let mut broken: Option<Failure> = None;
    for chunk in user_ids.chunks(CHUNK) {
        if broken.is_none() {
            match work.run(chunk, &mut results).await {
                Ok(()) => continue,
                Err(failure) if results.succeeded.is_empty() && results.failed.is_empty() => {
                    return Err(failure.into());
                }
                Err(failure) => broken = Some(failure),
            }
        }
        if let Some(failure) = &broken {
            results.failed.extend(chunk.iter().map(|id| Failed::new(id.clone(), failure)));
        }
    }
    Ok(axum::Json(results))
}

impl Work {
    /// Each account once, without those that the caller may not change.
    fn admit(&self, ids: Vec<Id>) -> (Vec<String>, Results) {
        let (mut seen, mut results) = (HashSet::new(), Results::default());
        let mut user_ids: Vec<String> = ids.into_iter().map(|id| id.0).collect();
        user_ids.retain(|id| seen.insert(id.clone()));
        user_ids.retain(|id| match self.caller.must_not_be_key_of(id) {
            Ok(()) => true,
            Err(failure) => {
                results.failed.push(Failed::new(id.clone(), &failure));
                false
            }
        });
        (user_ids, results)
    }

    async fn run(&self, chunk: &[String], results: &mut Results) -> Outcome<()> {
        let device = device(&self.context, &self.headers);
        match &self.operation {
            Operation::Change(name) => {
                let request = ChangeUsersRequest {
                    actor_id: self.caller.user_id().to_owned(),
                    device: Some(device),
                    user_ids: chunk.to_vec(),
                    operation: name.clone(),
                    reason: self.reason.clone(),
                };
                let answer =
                    from_identity(self.services.admin().change_users(self.context.call(request)).await)?;
                results.succeeded.extend(answer.succeeded);
                results.refuse(answer.refused);
            }
            Operation::UpgradeTier(tier) => {
                let change = tier::Change {
                    services: &self.services,
                    context: &self.context,
                    caller: &self.caller,
                    tier: *tier,
                };
                let answer = change.approve(chunk.to_vec(), device, true, self.reason.clone()).await?;
                results.refuse(answer.refused);
                let change = &change;
                let made = stream::iter(answer.approved)
                    .map(|user_id| async move { (change.make(&user_id).await, user_id) });
                let mut made = std::pin::pin!(made.buffered(TIERS_AT_ONCE));
                while let Some((made, user_id)) = made.next().await {
                    match made {
                        Ok(()) => results.succeeded.push(user_id),
                        Err(failure) => results.failed.push(Failed::new(user_id, &failure)),
                    }
                }
            }
        }
        Ok(())
    }
}
