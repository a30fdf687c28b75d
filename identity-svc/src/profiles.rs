//! The profile of an account.

use chassis::mysql::{failed, write};
use chrono::{DateTime, Utc};
use contract::identity::{Profile, UpdateProfileRequest, User};
use contract::{ErrorCode, Failure, Outcome, to_timestamp};
use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{MySqlConnection, MySqlPool};

use crate::accounts;
use chassis::clock::now;

/// How long a field may be, in characters, as its column holds it.
#[derive(Clone, Copy)]
pub struct Limit {
    pub field: &'static str,
    max: usize,
}

pub const FIRST_NAME: Limit = Limit { field: "first_name", max: 100 };
pub const LAST_NAME: Limit = Limit { field: "last_name", max: 100 };
pub const COMPANY: Limit = Limit { field: "company", max: 255 };
const PHONE: Limit = Limit { field: "phone", max: 50 };
const AVATAR_URL: Limit = Limit { field: "avatar_url", max: 500 };

/// Most bytes of the preferences.
const MAX_PREFERENCES: usize = 16 * 1024;

impl Limit {
    /// What is wrong with a value, if anything.
    pub fn fault(self, value: Option<&str>) -> Option<String> {
        let value = value?;
        if value.chars().count() > self.max {
            return Some(format!("must have at most {} characters", self.max));
        }
        value.chars().any(char::is_control).then(|| "must not have control characters".to_owned())
    }
}

/// An account with its profile.
///
/// # Errors
/// USER001.
pub async fn user(connection: &mut MySqlConnection, user_id: &str) -> Outcome<User> {
    let account = accounts::find(connection, user_id).await?;
    let row = sqlx::query!(
        r#"SELECT first_name, last_name, company, phone, avatar_url, preferences AS "preferences: Json<Value>",
                  updated_at AS "updated_at: DateTime<Utc>"
           FROM user_profiles WHERE user_id = ?"#,
        user_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?
    .ok_or_else(|| Failure::internal("an account without its profile"))?;
    let profile = Profile {
        first_name: row.first_name,
        last_name: row.last_name,
        company: row.company,
        phone: row.phone,
        avatar_url: row.avatar_url,
        preferences_json: row.preferences.0.to_string(),
    };
    Ok(User {
        id: account.id,
        email: account.email,
        role: account.role.name().to_owned(),
        client_id: account.client_id,
        subscription_tier: account.tier.name().to_owned(),
        is_active: account.is_active,
        email_verified: account.email_verified,
        created_at: Some(to_timestamp(account.created_at)),
        updated_at: Some(to_timestamp(account.updated_at.max(row.updated_at))),
        last_login_at: account.last_login_at.map(to_timestamp),
        profile: Some(profile),
        permissions: account.permissions,
    })
}

/// Changes the fields that are given, in one statement; an empty text clears a field.
///
/// # Errors
/// REQ001 with every field that is wrong; USER001.
pub async fn update(pool: &MySqlPool, request: UpdateProfileRequest) -> Outcome<User> {
    let preferences = check(&request)?;
    // A field that is absent keeps its value; MySQL has no other way to say so in one statement.
    let cleared =
        |field: &Option<String>| field.as_ref().map(|text| (!text.is_empty()).then(|| text.clone()));
    let [first, last, company, phone, avatar] =
        [&request.first_name, &request.last_name, &request.company, &request.phone, &request.avatar_url]
            .map(cleared);
    let changed = sqlx::query!(
        "UPDATE user_profiles
         SET first_name = IF(?, ?, first_name), last_name = IF(?, ?, last_name), company = IF(?, ?, company),
             phone = IF(?, ?, phone), avatar_url = IF(?, ?, avatar_url), preferences = IF(?, ?, preferences),
             updated_at = ?
         WHERE user_id = ?",
        first.is_some(),
        first.flatten(),
        last.is_some(),
        last.flatten(),
        company.is_some(),
        company.flatten(),
        phone.is_some(),
        phone.flatten(),
        avatar.is_some(),
        avatar.flatten(),
        preferences.is_some(),
        preferences.map(|map| Value::Object(map).to_string()),
        now(),
        request.user_id
    );
    if write(pool, changed).await?.rows_affected() == 0 {
        return Err(Failure::new(ErrorCode::UserNotFound));
    }
    user(&mut *pool.acquire().await.map_err(failed)?, &request.user_id).await
}

fn check(request: &UpdateProfileRequest) -> Outcome<Option<Map<String, Value>>> {
    let mut failure = Failure::new(ErrorCode::InvalidRequest);
    let fields = [
        (FIRST_NAME, &request.first_name),
        (LAST_NAME, &request.last_name),
        (COMPANY, &request.company),
        (PHONE, &request.phone),
        (AVATAR_URL, &request.avatar_url),
    ];
    for (limit, value) in fields {
        if let Some(fault) = limit.fault(value.as_deref()) {
            failure = failure.with_field(limit.field, fault);
        }
    }
    if request.avatar_url.as_deref().is_some_and(|url| !url.is_empty() && !is_web_url(url)) {
        failure = failure.with_field(AVATAR_URL.field, "must be an http or https URL");
    }
    let preferences = request.preferences_json.as_deref().map(preferences);
    if let Some(Err(fault)) = &preferences {
        failure = failure.with_field("preferences", fault);
    }
    if failure.fields().is_empty() { Ok(preferences.and_then(Result::ok)) } else { Err(failure) }
}

fn is_web_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !url.contains(char::is_whitespace))
}

fn preferences(json: &str) -> Result<Map<String, Value>, String> {
    if json.len() > MAX_PREFERENCES {
        return Err(format!("must have at most {MAX_PREFERENCES} bytes"));
    }
    serde_json::from_str(json).map_err(|_| "must be a JSON object".to_owned())
}
