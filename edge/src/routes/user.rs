//! `/api/v1/user`: the caller's own account.

use axum::extract::State;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use contract::identity::{
    ChangePasswordRequest, DeleteUserRequest, GetUserRequest, Profile, UpdateProfileRequest, User,
};
use contract::{Failure, Outcome};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::{Caller, Person};
use crate::front::RequestContext;
use crate::json::Json;
use crate::services::{Services, from_identity, present};

pub fn routes() -> Router<Edge> {
    Router::new()
        .route("/profile", get(profile).put(update_profile))
        .route("/password", post(change_password))
        .route("/delete", delete(remove))
}

/// An account as its owner and administrators see it.
#[derive(Serialize)]
pub struct UserBody {
    id: String,
    email: String,
    role: String,
    client_id: String,
    subscription_tier: String,
    is_active: bool,
    email_verified: bool,
    created_at: Option<String>,
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_login_at: Option<String>,
    profile: ProfileBody,
    permissions: Vec<String>,
}

#[derive(Serialize)]
struct ProfileBody {
    user_id: String,
    first_name: Option<String>,
    last_name: Option<String>,
    company: Option<String>,
    phone: Option<String>,
    avatar_url: Option<String>,
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

async fn profile(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<UserBody>> {
    let request = GetUserRequest { user_id: caller.user_id().to_owned() };
    Ok(user_body(from_identity(services.users().get_user(context.call(request)).await)?.user)?)
}

#[derive(Deserialize)]
struct UpdateProfile {
    first_name: Option<String>,
    last_name: Option<String>,
    company: Option<String>,
    phone: Option<String>,
    avatar_url: Option<String>,
    preferences: Option<Map<String, Value>>,
}

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

#[derive(Deserialize)]
struct ChangePassword {
    current_password: String,
    new_password: String,
}

async fn change_password(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(ChangePassword { current_password, new_password }): Json<ChangePassword>,
) -> Answer<axum::Json<Value>> {
    let (user_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let device = Some(device(&context, &headers));
    let request = ChangePasswordRequest { user_id, session_id, current_password, new_password, device };
    from_identity(services.users().change_password(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "Password changed; other sessions have ended" })))
}

async fn remove(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Value>> {
    let user_id = caller.user_id().to_owned();
    let device = Some(device(&context, &headers));
    let request = DeleteUserRequest { actor_id: user_id.clone(), user_id, device };
    from_identity(services.users().delete_user(context.call(request)).await)?;
    Ok(axum::Json(json!({ "message": "Account deleted" })))
}
