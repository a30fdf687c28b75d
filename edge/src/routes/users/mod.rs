//! `/api/v1/admin/users`: everybody's accounts, for administrators.

mod audit;
mod bulk;
mod cells;
mod export;
mod import;
mod list;
mod permissions;
mod rows;
mod sessions;
mod tier;
mod usage;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use contract::identity::{GetUserDetailsRequest, RemoveUserRequest, SetPasswordRequest, UpdateUserRequest};
use contract::subscription::GetUsageRequest;
use contract::{ErrorCode, Failure, Outcome, Role, Tier};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::user::{UserBody, user_body};
use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::services::{Services, from_identity, from_subscription, present};

pub use import::Imports;

/// Beside the file, an import has a few short parts.
const PARTS: usize = 64 * 1024;

pub fn routes(imports: &Imports) -> Router<Edge> {
    let file = DefaultBodyLimit::max(imports.limit() + PARTS);
    Router::new()
        .route("/", get(list::list))
        .route("/bulk", post(bulk::change))
        .route("/export", post(export::export))
        .route("/import", post(import::import).layer(file))
        .route("/{user_id}", get(one).put(update).delete(remove))
        .route("/{user_id}/permissions", post(permissions::grant))
        .route("/{user_id}/permissions/{name}", delete(permissions::revoke))
        .route("/{user_id}/sessions", get(sessions::list).delete(sessions::end_all))
        .route("/{user_id}/password", post(set_password))
        .route("/{user_id}/audit", get(audit::list))
        .route("/{user_id}/usage", get(usage::days))
}

#[derive(Serialize)]
struct Details {
    user: UserBody,
    stats: Value,
}

/// What subscription-svc counts is null while it is away: an account must be seen, and stopped, all the same.
async fn one(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<axum::Json<Details>> {
    let usage = context.call(GetUsageRequest { user_id: user_id.clone() });
    let actor_id = caller.user_id().to_owned();
    let request = GetUserDetailsRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    let answer = from_identity(services.admin().get_user_details(context.call(request)).await)?;
    let usage = from_subscription(services.usage().get_usage(usage).await).ok();
    let user = present(answer.user)?;
    let stats = json!({
        "projects_count": answer.projects_count,
        "personas_count": usage.as_ref().map(|usage| usage.personas_count),
        "content_count": usage.as_ref().map(|usage| usage.content_count),
        "active_sessions": answer.active_sessions,
        "last_login_at": time(user.last_login_at),
        "failed_sign_ins": answer.failed_sign_ins,
    });
    Ok(axum::Json(Details { user: user.try_into()?, stats }))
}

#[derive(Deserialize)]
struct Update {
    role: Option<String>,
    subscription_tier: Option<String>,
    is_active: Option<bool>,
    email_verified: Option<bool>,
}

impl Update {
    /// The tier that is wanted, after all names have been looked at.
    fn check(&self) -> Outcome<Option<Tier>> {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        if let Some(Err(fault)) = self.role.as_deref().map(str::parse::<Role>) {
            failure.add_field("role", fault);
        }
        match self.subscription_tier.as_deref().map(str::parse).transpose() {
            Ok(tier) if failure.fields().is_empty() => return Ok(tier),
            Ok(_) => {}
            Err(fault) => failure.add_field("subscription_tier", fault),
        }
        Err(failure)
    }
}

/// What identity-svc owns first, since it is what may be refused; then the tier, which subscription-svc owns. Doing it
/// again does no harm.
async fn update(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Json(body): Json<Update>,
) -> Answer<axum::Json<UserBody>> {
    let tier = body.check()?;
    let request = UpdateUserRequest {
        actor_id: caller.user_id().to_owned(),
        device: Some(device(&context, &headers)),
        user_id: user_id.clone(),
        role: body.role,
        is_active: body.is_active,
        email_verified: body.email_verified,
    };
    let answer = from_identity(services.admin().update_user(context.call(request)).await)?;
    let mut user = present(answer.user)?;
    if let Some(tier) = tier {
        let change = tier::Change { services: &services, context: &context, caller: &caller, tier };
        change.approve_one(&user_id, device(&context, &headers)).await?;
        change.make(&user_id).await?;
        // identity-svc learns of it within a second.
        tier.name().clone_into(&mut user.subscription_tier);
    }
    Ok(user_body(Some(user))?)
}

async fn remove(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<StatusCode> {
    let actor_id = caller.user_id().to_owned();
    let request = RemoveUserRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    from_identity(services.admin().remove_user(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct SetPassword {
    new_password: String,
}

async fn set_password(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Json(SetPassword { new_password }): Json<SetPassword>,
) -> Answer<axum::Json<Value>> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = SetPasswordRequest { actor_id, device, user_id, new_password };
    from_identity(services.admin().set_password(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "Password set; all sessions have ended" })))
}
