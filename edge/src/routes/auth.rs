//! `/api/v1/auth`: registering, signing in and out.

use axum::Extension;
use axum::extract::State;
use contract::identity::{
    EndOtherSessionsRequest, EndSessionRequest, ListSessionsRequest, LoginRequest, LogoutRequest,
    RefreshRequest, RegisterRequest, Session, TokenPair, UserInfo, ValidateTokenRequest,
};
use contract::subscription::GetSubscriptionRequest;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, Message, device, time};
use crate::answer::Answer;
use crate::claims::{Authenticator, Caller, Intent, Person, bearer};
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::openapi::kinds;
use crate::services::{Services, from_identity, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(validate))
        .routes(routes!(logout))
        .routes(routes!(sessions, end_other_sessions))
        .routes(routes!(end_session))
}

/// The tokens of a session.
#[derive(Serialize, ToSchema)]
struct TokenResponse {
    #[schema(value_type = kinds::AccessToken)]
    access_token: String,
    /// Good for one use.
    #[schema(value_type = kinds::OpaqueToken)]
    refresh_token: String,
    #[schema(pattern = "^Bearer$", example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which the access token is good.
    #[schema(example = 900, minimum = 1)]
    expires_in: i64,
    user: UserInfoBody,
}

/// The account that a token stands for.
#[derive(Serialize, ToSchema)]
#[schema(as = UserInfo)]
struct UserInfoBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::Email)]
    email: String,
    #[schema(value_type = kinds::ClientId)]
    client_id: String,
    #[schema(value_type = kinds::Role)]
    role: String,
    #[schema(value_type = kinds::Tier)]
    tier: String,
    email_verified: bool,
    #[schema(value_type = Vec<kinds::Permission>)]
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

#[derive(Deserialize, ToSchema)]
struct Register {
    #[schema(value_type = kinds::Email)]
    email: String,
    #[schema(value_type = kinds::NewPassword)]
    password: String,
    #[schema(value_type = kinds::ClientId)]
    client_id: String,
    #[schema(value_type = Option<kinds::Line100>)]
    first_name: Option<String>,
    #[schema(value_type = Option<kinds::Line100>)]
    last_name: Option<String>,
    #[schema(value_type = Option<kinds::Line255>)]
    company: Option<String>,
}

#[utoipa::path(
    post,
    path = "/register",
    operation_id = "register",
    summary = "Make an account and its first session",
    request_body = Register,
    responses((status = 201, body = TokenResponse)),
    security(()),
    extensions(("x-errors" = json!(["USER002", "USER003", "AUTH005", "GW003"]))),
)]
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

#[derive(Deserialize, ToSchema)]
struct Login {
    #[schema(value_type = String, example = "ada@example.com")]
    email: String,
    #[schema(value_type = kinds::Password)]
    password: String,
}

#[utoipa::path(
    post,
    path = "/login",
    operation_id = "login",
    summary = "Sign in",
    description = "The same answer for every reason for which it can fail.",
    request_body = Login,
    responses((status = 200, body = TokenResponse)),
    security(()),
    extensions(("x-errors" = json!(["AUTH001", "AUTH005", "GW003"]))),
)]
async fn login(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Login { email, password }): Json<Login>,
) -> Answer<axum::Json<TokenResponse>> {
    let request = LoginRequest { email, password, device: Some(device(&context, &headers)) };
    token_response(from_identity(services.auth().login(context.call(request)).await)?.tokens)
}

#[derive(Deserialize, ToSchema)]
struct Refresh {
    #[schema(value_type = kinds::OpaqueToken)]
    refresh_token: String,
}

#[utoipa::path(
    post,
    path = "/refresh",
    operation_id = "refresh",
    summary = "Exchange a refresh token for new tokens",
    request_body = Refresh,
    responses((status = 200, body = TokenResponse)),
    security(()),
    extensions(("x-errors" = json!(["AUTH002", "AUTH003"]))),
)]
async fn refresh(
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Refresh { refresh_token }): Json<Refresh>,
) -> Answer<axum::Json<TokenResponse>> {
    let request = RefreshRequest { refresh_token, device: Some(device(&context, &headers)) };
    token_response(from_identity(services.auth().refresh(context.call(request)).await)?.tokens)
}

/// Whom a good token stands for.
#[derive(Serialize, ToSchema)]
struct Validated {
    #[schema(example = true)]
    valid: bool,
    #[schema(inline = false)]
    user: UserInfoBody,
}

#[utoipa::path(
    post,
    path = "/validate",
    operation_id = "validate",
    summary = "Check the token of this request",
    responses((status = 200, body = Validated)),
)]
async fn validate(
    _: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Validated>> {
    let request = ValidateTokenRequest { access_token: bearer(&headers)?.to_owned() };
    let answer = from_identity(services.auth().validate_token(context.call(request)).await)?;
    Ok(axum::Json(Validated { valid: true, user: present(answer.user)?.into() }))
}

/// Possible at any rate: whoever drains a user's limit must not keep the user signed in.
#[utoipa::path(
    post,
    path = "/logout",
    operation_id = "logout",
    summary = "End the session",
    description = "Possible at any rate of requests.",
    responses((status = 200, body = Message)),
    extensions(("x-people-only" = json!(true))),
)]
async fn logout(
    State(authenticator): State<Authenticator>,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Message>> {
    let caller = authenticator.uncounted_caller(&headers, &context, Intent::Act).await?;
    caller.must_be_person()?;
    let (user_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let request = LogoutRequest { user_id, session_id, device: Some(device(&context, &headers)) };
    from_identity(services.auth().logout(context.call(request)).await)?;
    Ok(Message::says("Signed out"))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Sessions)]
pub struct SessionsBody {
    sessions: Vec<SessionBody>,
    #[schema(value_type = kinds::Count)]
    count: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::Time)]
    created_at: Option<String>,
    #[schema(value_type = kinds::Time)]
    last_seen_at: Option<String>,
    #[schema(value_type = kinds::Time)]
    expires_at: Option<String>,
    #[schema(example = "192.0.2.1")]
    ip_address: String,
    #[schema(example = "Mozilla/5.0")]
    user_agent: String,
    /// Whether it is the session of this request.
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

#[utoipa::path(
    get,
    path = "/sessions",
    operation_id = "list_sessions",
    summary = "List the own sessions",
    responses((status = 200, body = SessionsBody)),
    extensions(("x-people-only" = json!(true))),
)]
async fn sessions(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<SessionsBody>> {
    let request = ListSessionsRequest { user_id: caller.user_id().to_owned() };
    let answer = from_identity(services.auth().list_sessions(context.call(request)).await)?;
    Ok(axum::Json(sessions_body(answer.sessions, caller.session_id())))
}

#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    operation_id = "end_session",
    summary = "End one of the own sessions",
    params(("id" = kinds::Id, Path, description = "The session")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["REQ002"])), ("x-people-only" = json!(true))),
)]
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

#[utoipa::path(
    delete,
    path = "/sessions",
    operation_id = "end_other_sessions",
    summary = "End all own sessions but this one",
    responses((status = 204)),
    extensions(("x-people-only" = json!(true))),
)]
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
