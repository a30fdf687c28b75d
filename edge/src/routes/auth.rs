//! `/api/v1/auth`: registering, signing in and out.

use axum::extract::State;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use contract::identity::{
    EndOtherSessionsRequest, EndSessionRequest, ListSessionsRequest, LoginRequest, LogoutRequest,
    RefreshRequest, RegisterRequest, Session, TokenPair, UserInfo, ValidateTokenRequest,
};
use contract::subscription::GetSubscriptionRequest;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::{Authenticator, Caller, Intent, Person, bearer};
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::services::{Services, from_identity, present};

pub fn routes() -> Router<Edge> {
    Router::new()
        .route("/register", post(register))
        .route("/login", post(login))
        .route("/refresh", post(refresh))
        .route("/validate", post(validate))
        .route("/logout", post(logout))
        .route("/sessions", get(sessions).delete(end_other_sessions))
        .route("/sessions/{id}", delete(end_session))
}

#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    refresh_token: String,
    token_type: &'static str,
    expires_in: i64,
    user: UserInfoBody,
}

#[derive(Serialize)]
struct UserInfoBody {
    id: String,
    email: String,
    client_id: String,
    role: String,
    tier: String,
    email_verified: bool,
    permissions: Vec<String>,
}

impl From<UserInfo> for UserInfoBody {
    fn from(user: UserInfo) -> Self {
        let UserInfo { id, email, client_id, role, tier, email_verified, permissions } = user;
        UserInfoBody { id, email, client_id, role, tier, email_verified, permissions }
    }
}

fn token_response(tokens: Option<TokenPair>) -> Answer<axum::Json<TokenResponse>> {
    let TokenPair { access_token, refresh_token, expires_in, user } = present(tokens)?;
    let user = present(user)?.into();
    Ok(axum::Json(TokenResponse { access_token, refresh_token, token_type: "Bearer", expires_in, user }))
}

#[derive(Deserialize)]
struct Register {
    email: String,
    password: String,
    client_id: String,
    first_name: Option<String>,
    last_name: Option<String>,
    company: Option<String>,
}

async fn register(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(body): Json<Register>,
) -> Answer<(StatusCode, axum::Json<TokenResponse>)> {
    let Register { email, password, client_id, first_name, last_name, company } = body;
    let device = Some(device(&context, &headers));
    let request = RegisterRequest { email, password, client_id, first_name, last_name, company, device };
    let answer = from_identity(services.auth().register(context.call(request)).await)?;
    if let Some(user) = answer.tokens.as_ref().and_then(|tokens| tokens.user.as_ref()) {
        subscribe(services, context, user.id.clone());
    }
    Ok((StatusCode::CREATED, token_response(answer.tokens)?))
}

/// Has the free subscription made now, so that lists for administrators show the new user. Should subscription-svc
/// be away, it is made when it is first asked for.
fn subscribe(services: Services, context: RequestContext, user_id: String) {
    tokio::spawn(async move {
        let request = context.call(GetSubscriptionRequest { user_id });
        if let Err(status) = services.subscriptions().get_subscription(request).await {
            tracing::info!(request_id = context.id(), %status, "the free subscription is made later");
        }
    });
}

#[derive(Deserialize)]
struct Login {
    email: String,
    password: String,
}

async fn login(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Login { email, password }): Json<Login>,
) -> Answer<axum::Json<TokenResponse>> {
    let request = LoginRequest { email, password, device: Some(device(&context, &headers)) };
    token_response(from_identity(services.auth().login(context.call(request)).await)?.tokens)
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

async fn refresh(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Refresh { refresh_token }): Json<Refresh>,
) -> Answer<axum::Json<TokenResponse>> {
    let request = RefreshRequest { refresh_token, device: Some(device(&context, &headers)) };
    token_response(from_identity(services.auth().refresh(context.call(request)).await)?.tokens)
}

async fn validate(
    _: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Value>> {
    let request = ValidateTokenRequest { access_token: bearer(&headers)?.to_owned() };
    let answer = from_identity(services.auth().validate_token(context.call(request)).await)?;
    Ok(axum::Json(json!({ "valid": true, "user": UserInfoBody::from(present(answer.user)?) })))
}

/// Possible at any rate: whoever drains a user's limit must not keep the user signed in.
async fn logout(
    State(authenticator): State<Authenticator>,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Value>> {
    let caller = authenticator.uncounted_caller(&headers, Intent::Act).await?;
    caller.must_be_person()?;
    let (user_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let request = LogoutRequest { user_id, session_id, device: Some(device(&context, &headers)) };
    from_identity(services.auth().logout(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "Signed out" })))
}

#[derive(Serialize)]
pub struct SessionsBody {
    sessions: Vec<SessionBody>,
    count: usize,
}

#[derive(Serialize)]
struct SessionBody {
    id: String,
    created_at: Option<String>,
    last_seen_at: Option<String>,
    expires_at: Option<String>,
    ip_address: String,
    user_agent: String,
    current: bool,
}

/// A list of sessions as a client sees it; `current` is the session of the request itself.
pub fn sessions_body(sessions: Vec<Session>, current: &str) -> SessionsBody {
    let body = |session: Session| SessionBody {
        current: session.id == current,
        id: session.id,
        created_at: time(session.created_at),
        last_seen_at: time(session.last_seen_at),
        expires_at: time(session.expires_at),
        ip_address: session.ip_address,
        user_agent: session.user_agent,
    };
    let sessions: Vec<SessionBody> = sessions.into_iter().map(body).collect();
    SessionsBody { count: sessions.len(), sessions }
}

async fn sessions(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<SessionsBody>> {
    let request = ListSessionsRequest { user_id: caller.user_id().to_owned() };
    let answer = from_identity(services.auth().list_sessions(context.call(request)).await)?;
    Ok(axum::Json(sessions_body(answer.sessions, caller.session_id())))
}

async fn end_session(
    Person(caller): Person,
    PathId(session_id): PathId,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let user_id = caller.user_id().to_owned();
    let request = EndSessionRequest { user_id, session_id, device: Some(device(&context, &headers)) };
    from_identity(services.auth().end_session(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn end_other_sessions(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let (user_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let request = EndOtherSessionsRequest { user_id, session_id, device: Some(device(&context, &headers)) };
    from_identity(services.auth().end_other_sessions(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
