//! The API keys of another account.

use axum::Extension;
use axum::extract::{Path, State};
use contract::identity::{ListUserApiKeysRequest, RevokeUserApiKeyRequest};
use contract::{Failure, NOT_AN_ID, is_canonical_id};
use http::{HeaderMap, StatusCode};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::PathId;
use crate::openapi::kinds;
use crate::routes::api_keys::ApiKeys;
use crate::routes::device;
use crate::services::{Services, from_identity};

#[utoipa::path(
    get,
    path = "/{user_id}/api-keys",
    operation_id = "list_user_api_keys",
    summary = "List the API keys of an account, newest first",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    responses((status = 200, body = ApiKeys)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
) -> Answer<axum::Json<ApiKeys>> {
    let actor_id = caller.user_id().to_owned();
    let request = ListUserApiKeysRequest { actor_id, device: Some(device(&context, &headers)), user_id };
    let answer = from_identity(services.admin().list_user_api_keys(context.call(request)).await)?;
    Ok(axum::Json(answer.api_keys.into()))
}

#[utoipa::path(
    delete,
    path = "/{user_id}/api-keys/{key_id}",
    operation_id = "revoke_user_api_key",
    summary = "End an API key of an account",
    description = "On every edge and open socket, within a second. A key may not end those of its own account.",
    params(
        ("user_id" = kinds::Id, Path, description = "The account"),
        ("key_id" = kinds::Id, Path, description = "The key"),
    ),
    responses((status = 204)),
    extensions(("x-errors" = json!(["REQ002", "USER001"]))),
)]
pub async fn revoke(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Path((user_id, api_key_id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    for (field, id) in [("user_id", &user_id), ("key_id", &api_key_id)] {
        if !is_canonical_id(id) {
            return Err(Failure::field(field, NOT_AN_ID).into());
        }
    }
    caller.must_not_be_key_of(&user_id)?;
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = RevokeUserApiKeyRequest { actor_id, device, user_id, api_key_id };
    from_identity(services.admin().revoke_user_api_key(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
