//! The sessions of another account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{EndUserSessionsRequest, ListUserSessionsRequest};
use http::{HeaderMap, StatusCode};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::PathId;
use crate::routes::auth::{SessionsBody, sessions_body};
use crate::routes::device;
use crate::services::{Services, from_identity};

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
