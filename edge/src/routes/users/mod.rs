//! `/api/v1/admin/users`: everybody's accounts, for administrators.

mod api_keys;
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

use axum::Extension;
use axum::extract::{DefaultBodyLimit, State};
use contract::identity::{GetUserDetailsRequest, RemoveUserRequest, SetPasswordRequest, UpdateUserRequest};
use contract::subscription::GetUsageRequest;
use contract::{ErrorCode, Failure, Outcome, Role, Tier};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::user::{UserBody, user_body};
use super::{Edge, Message, device, time};
use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::openapi::kinds;
use crate::services::{Services, from_identity, from_subscription, present};

pub use import::Imports;

/// Beside the file, an import has a few short parts.
const PARTS: usize = 64 * 1024;

pub fn routes(imports: &Imports) -> OpenApiRouter<Edge> {
    let file = DefaultBodyLimit::max(imports.limit() + PARTS);
    OpenApiRouter::default()
        .routes(routes!(list::list))
        .routes(routes!(bulk::change))
        .routes(routes!(export::export))
        .routes(routes!(import::import).layer(file))
        .routes(routes!(one, update, remove))
        .routes(routes!(permissions::grant))
        .routes(routes!(permissions::revoke))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(api_keys::list))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(set_password))
        .routes(routes!(audit::list))
        .routes(routes!(usage::days))
}

#[derive(Serialize, ToSchema)]
#[schema(as = UserDetails)]
struct Details {
    user: UserBody,
    stats: Stats,
}

/// What is counted of an account; null while subscription-svc is away.
#[derive(Serialize, ToSchema)]
#[schema(as = UserStats)]
struct Stats {
    #[schema(value_type = kinds::Count)]
    projects_count: i64,
    #[schema(value_type = Option<kinds::Count>, required)]
    personas_count: Option<i64>,
    #[schema(value_type = Option<kinds::Count>, required)]
    content_count: Option<i64>,
    #[schema(value_type = kinds::Count)]
    active_sessions: i64,
    #[schema(value_type = Option<kinds::Time>, required)]
    last_login_at: Option<String>,
    #[schema(value_type = Option<kinds::Count>, required)]
    failed_sign_ins: Option<i64>,
}

/// What subscription-svc counts is null while it is away: an account must be seen, and stopped, all the same.
#[utoipa::path(
    get,
    path = "/{user_id}",
    operation_id = "get_user",
    summary = "Look at an account",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    responses((status = 200, body = Details)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
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
    let stats = Stats {
        projects_count: answer.projects_count,
        personas_count: usage.as_ref().map(|usage| usage.personas_count),
        content_count: usage.as_ref().map(|usage| usage.content_count),
        active_sessions: answer.active_sessions,
        last_login_at: time(user.last_login_at),
        failed_sign_ins: answer.failed_sign_ins,
    };
    Ok(axum::Json(Details { user: user.try_into()?, stats }))
}

/// What is absent stays.
#[derive(Deserialize, ToSchema)]
#[schema(as = UpdateUser)]
struct Update {
    #[schema(value_type = Option<kinds::Role>)]
    role: Option<String>,
    #[schema(value_type = Option<kinds::Tier>)]
    subscription_tier: Option<String>,
    #[schema(example = true)]
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
#[utoipa::path(
    put,
    path = "/{user_id}",
    operation_id = "update_user",
    summary = "Change an account",
    description = "Disabling it ends its sessions and API keys. An API key may not change its own account.",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    request_body = Update,
    responses((status = 200, body = UserBody)),
    extensions(("x-errors" = json!(["USER001", "USER004", "SUB001", "GW003", "502 GW001"]))),
)]
async fn update(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Json(body): Json<Update>,
) -> Answer<axum::Json<UserBody>> {
    caller.must_not_be_key_of(&user_id)?;
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

#[utoipa::path(
    delete,
    path = "/{user_id}",
    operation_id = "delete_user",
    summary = "Delete an account",
    description = "Never the own one.",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["USER001", "USER004"]))),
)]
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

#[derive(Deserialize, ToSchema)]
struct SetPassword {
    #[schema(value_type = kinds::NewPassword)]
    new_password: String,
}

#[utoipa::path(
    post,
    path = "/{user_id}/password",
    operation_id = "set_password",
    summary = "Set the password of an account",
    description = "Ends all its sessions and API keys. Never of the own account, whose owner shows the current password at \
                   `/api/v1/user/password`.",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    request_body = SetPassword,
    responses((status = 200, body = Message)),
    extensions(("x-errors" = json!(["USER001", "USER003", "GW003"]))),
)]
async fn set_password(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Json(SetPassword { new_password }): Json<SetPassword>,
) -> Answer<axum::Json<Message>> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = SetPasswordRequest { actor_id, device, user_id, new_password };
    from_identity(services.admin().set_password(context.call(request)).await)?;
    Ok(Message::says("Password set; all sessions and API keys have ended"))
}
