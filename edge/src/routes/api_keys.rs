//! `/api/v1/user/api-keys`: keys with which machines act for the caller. A key is told once, by the answer that makes it.

use axum::extract::State;
use axum::routing::{delete, get};
use axum::{Extension, Router};
use chrono::{DateTime, Utc};
use contract::identity::{ApiKey, CreateApiKeyRequest, ListApiKeysRequest, RevokeApiKeyRequest};
use contract::to_timestamp;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::Person;
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::services::{Services, from_identity, present};

pub fn routes() -> Router<Edge> {
    Router::new().route("/api-keys", get(list).post(create)).route("/api-keys/{id}", delete(revoke))
}

#[derive(Serialize)]
struct ApiKeyBody {
    id: String,
    name: String,
    /// What the key begins with.
    start: String,
    permissions: Vec<String>,
    created_at: Option<String>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    /// The key itself, in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<ApiKey> for ApiKeyBody {
    fn from(key: ApiKey) -> Self {
        ApiKeyBody {
            id: key.id,
            name: key.name,
            start: key.start,
            permissions: key.permissions,
            created_at: time(key.created_at),
            expires_at: time(key.expires_at),
            last_used_at: time(key.last_used_at),
            key: None,
        }
    }
}

#[derive(Serialize)]
struct ApiKeys {
    api_keys: Vec<ApiKeyBody>,
    count: usize,
}

async fn list(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<ApiKeys>> {
    let request = ListApiKeysRequest { actor_id: caller.user_id().to_owned() };
    let answer = from_identity(services.api_keys().list_api_keys(context.call(request)).await)?;
    let api_keys: Vec<ApiKeyBody> = answer.api_keys.into_iter().map(ApiKeyBody::from).collect();
    Ok(axum::Json(ApiKeys { count: api_keys.len(), api_keys }))
}

#[derive(Deserialize)]
struct Create {
    name: String,
    #[serde(default)]
    permissions: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
}

async fn create(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Create { name, permissions, expires_at }): Json<Create>,
) -> Answer<(StatusCode, axum::Json<ApiKeyBody>)> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let expires_at = expires_at.map(to_timestamp);
    let request = CreateApiKeyRequest { actor_id, device, name, permissions, expires_at };
    let answer = from_identity(services.api_keys().create_api_key(context.call(request)).await)?;
    let key = Some(answer.key);
    Ok((StatusCode::CREATED, axum::Json(ApiKeyBody { key, ..present(answer.api_key)?.into() })))
}

async fn revoke(
    Person(caller): Person,
    PathId(api_key_id): PathId,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = RevokeApiKeyRequest { actor_id, device, api_key_id };
    from_identity(services.api_keys().revoke_api_key(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
