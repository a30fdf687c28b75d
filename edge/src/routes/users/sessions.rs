//! The sessions of another account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{EndUserSessionsRequest, ListUserSessionsRequest};
use http::{HeaderMap, StatusCode};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::PathId;
use crate::openapi::kinds;
use crate::routes::auth::{SessionsBody, sessions_body};
use crate::routes::device;
use crate::services::{Services, from_identity};

#[utoipa::path(
    get,
    path = "/{user_id}/sessions",
    operation_id = "list_user_sessions",
    summary = "List the sessions of an account",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    responses((status = 200, body = SessionsBody)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<axum::Json<SessionsBody>> {
    let actor_id = caller.user_id().to_owned();
    let request = ListUserSessionsRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    let answer = from_identity(services.admin().list_user_sessions(context.call(request)).await)?;
    Ok(axum::Json(sessions_body(answer.sessions, caller.session_id())))
}

#[utoipa::path(
    delete,
    path = "/{user_id}/sessions",
    operation_id = "end_user_sessions",
    summary = "End all sessions of an account",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn end_all(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<StatusCode> {
    let actor_id = caller.user_id().to_owned();
    let request = EndUserSessionsRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    from_identity(services.admin().end_user_sessions(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
