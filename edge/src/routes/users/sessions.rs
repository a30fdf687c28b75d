//! The sessions of another account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{EndUserSessionsRequest, ListUserSessionsRequest};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::PathId;
use crate::routes::{device, time};
use crate::services::{Services, from_identity};

#[derive(Serialize)]
struct SessionBody {
    /// Whether it is the one that asks, which only an administrator's own account has.
    current: bool,
    id: String,
    created_at: Option<String>,
    last_seen_at: Option<String>,
    expires_at: Option<String>,
    ip_address: String,
    user_agent: String,
}

#[derive(Serialize)]
pub struct Sessions {
    sessions: Vec<SessionBody>,
    count: i64,
}

pub async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<axum::Json<Sessions>> {
    let actor_id = caller.user_id().to_owned();
    let request = ListUserSessionsRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    let answer = from_identity(services.admin().list_user_sessions(context.call(request)).await)?;
    let sessions = answer.sessions.into_iter().map(|session| SessionBody {
        current: session.id == caller.session_id(),
        id: session.id,
        created_at: time(session.created_at),
        last_seen_at: time(session.last_seen_at),
        expires_at: time(session.expires_at),
        ip_address: session.ip_address,
        user_agent: session.user_agent,
    });
    Ok(axum::Json(Sessions { sessions: sessions.collect(), count: answer.count }))
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
