//! `/api/v1/user/api-keys`: keys with which machines act for the caller. A key is told once, by the answer that makes it.

use axum::Extension;
use axum::extract::State;
use chrono::{DateTime, Utc};
use contract::identity::{ApiKey, CreateApiKeyRequest, ListApiKeysRequest, RevokeApiKeyRequest};
use contract::to_timestamp;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::Person;
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::openapi::kinds;
use crate::services::{Services, from_identity, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default().routes(routes!(list, create)).routes(routes!(revoke))
}

#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
struct ApiKeyBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::KeyName)]
    name: String,
    /// What the key begins with.
    #[schema(example = "persona_vT3q0")]
    start: String,
    #[schema(value_type = Vec<kinds::Permission>)]
    permissions: Vec<String>,
    #[schema(value_type = kinds::Time)]
    created_at: Option<String>,
    #[schema(value_type = kinds::Time)]
    expires_at: Option<String>,
    /// To within the life of an access token; absent when it was never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Time, required = false)]
    last_used_at: Option<String>,
    /// The key itself, in the answer that makes it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = kinds::Key, required = false)]
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

#[derive(Serialize, ToSchema)]
pub struct ApiKeys {
    api_keys: Vec<ApiKeyBody>,
    #[schema(value_type = kinds::Count)]
    count: usize,
}

impl From<Vec<ApiKey>> for ApiKeys {
    fn from(keys: Vec<ApiKey>) -> Self {
        let api_keys: Vec<ApiKeyBody> = keys.into_iter().map(ApiKeyBody::from).collect();
        ApiKeys { count: api_keys.len(), api_keys }
    }
}

#[utoipa::path(
    get,
    path = "/api-keys",
    operation_id = "list_api_keys",
    summary = "List the own API keys, newest first",
    responses((status = 200, body = ApiKeys)),
    extensions(("x-people-only" = json!(true))),
)]
async fn list(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
) -> Answer<axum::Json<ApiKeys>> {
    let request = ListApiKeysRequest { actor_id: caller.user_id().to_owned() };
    let answer = from_identity(services.api_keys().list_api_keys(context.call(request)).await)?;
    Ok(axum::Json(answer.api_keys.into()))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateApiKey)]
struct Create {
    #[schema(value_type = kinds::KeyName)]
    name: String,
    /// What the key may do beyond what every user may; among those that the account holds.
    #[serde(default)]
    #[schema(value_type = Vec<kinds::Permission>, max_items = 20, example = json!([]))]
    permissions: Vec<String>,
    /// In 90 days when nobody says, and at most a year ahead (an operator may want another limit).
    // Any time would soon be a wrong example.
    #[schema(value_type = Option<kinds::Time>, example = json!(null))]
    expires_at: Option<DateTime<Utc>>,
}

#[utoipa::path(
    post,
    path = "/api-keys",
    operation_id = "create_api_key",
    summary = "Make an API key",
    description = "The key is told this once. It goes where an access token goes, and may do what every user may and \
                   what it was made for; never what changes who may act for the account. A mail tells the owner.",
    request_body = Create,
    responses((status = 201, body = ApiKeyBody)),
    extensions(("x-errors" = json!(["SUB002", "USER001"])), ("x-people-only" = json!(true))),
)]
async fn create(
    Person(caller): Person,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Json(Create { name, permissions, expires_at }): Json<Create>,
) -> Answer<(StatusCode, axum::Json<ApiKeyBody>)> {
    let (actor_id, session_id) = (caller.user_id().to_owned(), caller.session_id().to_owned());
    let (device, expires_at) = (Some(device(&context, &headers)), expires_at.map(to_timestamp));
    let request = CreateApiKeyRequest { actor_id, device, name, permissions, expires_at, session_id };
    let answer = from_identity(services.api_keys().create_api_key(context.call(request)).await)?;
    let key = Some(answer.key);
    Ok((StatusCode::CREATED, axum::Json(ApiKeyBody { key, ..present(answer.api_key)?.into() })))
}

#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    operation_id = "revoke_api_key",
    summary = "End an API key",
    description = "On every edge and open socket, within a second.",
    params(("id" = kinds::Id, Path, description = "The key")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["REQ002", "USER001"])), ("x-people-only" = json!(true))),
)]
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
