//! `/api/v1/user`: the caller's own account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{
    ChangePasswordRequest, DeleteUserRequest, GetUserRequest, Profile, UpdateProfileRequest, User,
};
use contract::{Failure, Outcome};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, Message, device, time};
use crate::answer::Answer;
use crate::claims::{Caller, Person};
use crate::front::RequestContext;
use crate::json::Json;
use crate::openapi::kinds;
use crate::services::{Services, from_identity, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default()
        .routes(routes!(profile, update_profile))
        .routes(routes!(change_password))
        .routes(routes!(remove))
}

/// An account as its owner and administrators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::Email)]
    email: String,
    #[schema(value_type = kinds::Role)]
    role: String,
    #[schema(value_type = kinds::ClientId)]
    client_id: String,
    #[schema(value_type = kinds::Tier)]
    subscription_tier: String,
    #[schema(example = true)]
    is_active: bool,
    email_verified: bool,
    #[schema(value_type = kinds::Time)]
    created_at: Option<String>,
    #[schema(value_type = kinds::Time)]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Time, required = false)]
    last_login_at: Option<String>,
    profile: ProfileBody,
    #[schema(value_type = Vec<kinds::Permission>)]
    permissions: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Profile)]
struct ProfileBody {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    #[schema(value_type = Option<kinds::Line100>, required)]
    first_name: Option<String>,
    #[schema(value_type = Option<kinds::Line100>, required)]
    last_name: Option<String>,
    #[schema(value_type = Option<kinds::Line255>, required)]
    company: Option<String>,
    #[schema(value_type = Option<kinds::Phone>, required)]
    phone: Option<String>,
    #[schema(value_type = Option<kinds::AvatarUrl>, required)]
    avatar_url: Option<String>,
    #[schema(value_type = kinds::Preferences)]
    preferences: Box<RawValue>,
}

impl TryFrom<User> for UserBody {
    type Error = Failure;

    fn try_from(user: User) -> Outcome<Self> {
        let Profile { first_name, last_name, company, phone, avatar_url, preferences_json } =
            present(user.profile)?;
        let preferences = RawValue::from_string(preferences_json).map_err(Failure::internal)?;
        let user_id = user.id.clone();
        Ok(UserBody {
            id: user.id,
            email: user.email,
            role: user.role,
            client_id: user.client_id,
            subscription_tier: user.subscription_tier,
            is_active: user.is_active,
            email_verified: user.email_verified,
            created_at: time(user.created_at),
            updated_at: time(user.updated_at),
            last_login_at: time(user.last_login_at),
            profile: ProfileBody { user_id, first_name, last_name, company, phone, avatar_url, preferences },
            permissions: user.permissions,
        })
    }
}

/// The body for one account.
pub fn user_body(user: Option<User>) -> Outcome<axum::Json<UserBody>> {
    Ok(axum::Json(present(user)?.try_into()?))
}

#[utoipa::path(
    get,
    path = "/profile",
    operation_id = "get_profile",
    summary = "Look at the own account",
    responses((status = 200, body = UserBody)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
async fn profile(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<UserBody>> {
    let request = GetUserRequest { user_id: caller.user_id().to_owned() };
    Ok(user_body(from_identity(services.users().get_user(context.call(request)).await)?.user)?)
}

/// What is absent stays; an empty text removes.
#[derive(Deserialize, ToSchema)]
struct UpdateProfile {
    #[schema(value_type = Option<kinds::Line100>)]
    first_name: Option<String>,
    #[schema(value_type = Option<kinds::Line100>)]
    last_name: Option<String>,
    #[schema(value_type = Option<kinds::Line255>)]
    company: Option<String>,
    #[schema(value_type = Option<kinds::Phone>)]
    phone: Option<String>,
    #[schema(value_type = Option<kinds::AvatarUrl>)]
    avatar_url: Option<String>,
    #[schema(value_type = Option<kinds::Preferences>)]
    preferences: Option<Map<String, Value>>,
}

#[utoipa::path(
    put,
    path = "/profile",
    operation_id = "update_profile",
    summary = "Change the own profile",
    request_body = UpdateProfile,
    responses((status = 200, body = UserBody)),
    extensions(("x-errors" = json!(["USER001"])), ("x-people-only" = json!(true))),
)]
async fn update_profile(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Json(body): Json<UpdateProfile>,
) -> Answer<axum::Json<UserBody>> {
    let UpdateProfile { first_name, last_name, company, phone, avatar_url, preferences } = body;
    let preferences_json = preferences.map(|map| Value::Object(map).to_string());
    let user_id = caller.user_id().to_owned();
    let request =
        UpdateProfileRequest { user_id, first_name, last_name, company, phone, avatar_url, preferences_json };
    Ok(user_body(from_identity(services.users().update_profile(context.call(request)).await)?.user)?)
}

#[derive(Deserialize, ToSchema)]
struct ChangePassword {
    #[schema(value_type = kinds::Password)]
    current_password: String,
    #[schema(value_type = kinds::NewPassword)]
    new_password: String,
}

#[utoipa::path(
    post,
    path = "/password",
    operation_id = "change_password",
    summary = "Change the password",
    description = "Ends the other sessions.",
    request_body = ChangePassword,
    responses((status = 200, body = Message)),
    extensions(("x-errors" = json!(["AUTH001", "AUTH005", "USER001", "USER003", "GW003"])), ("x-people-only" = json!(true))),
)]
async fn change_password(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(ChangePassword { current_password, new_password }): Json<ChangePassword>,
) -> Answer<axum::Json<Message>> {
    let (user_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let device = Some(device(&context, &headers));
    let request = ChangePasswordRequest { user_id, session_id, current_password, new_password, device };
    from_identity(services.users().change_password(context.call(request)).await)?;
    Ok(Message::says("Password changed; other sessions have ended"))
}

#[utoipa::path(
    delete,
    path = "/delete",
    operation_id = "delete_account",
    summary = "Delete the own account",
    responses((status = 200, body = Message)),
    extensions(("x-errors" = json!(["USER001", "USER004"])), ("x-people-only" = json!(true))),
)]
async fn remove(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Message>> {
    let user_id = caller.user_id().to_owned();
    let device = Some(device(&context, &headers));
    let request = DeleteUserRequest { actor_id: user_id.clone(), user_id, device };
    from_identity(services.users().delete_user(context.call(request)).await)?;
    Ok(Message::says("Account deleted"))
}
