//! Granting permissions and taking them away.

use axum::Extension;
use axum::extract::{Path, State};
use contract::identity::{GrantPermissionRequest, RevokePermissionRequest};
use contract::{Failure, NOT_AN_ID, is_canonical_id};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Json, PathId};
use crate::openapi::kinds;
use crate::routes::device;
use crate::services::{Services, from_identity};

#[derive(Deserialize, ToSchema)]
#[schema(as = GrantPermission)]
pub struct Grant {
    #[schema(value_type = kinds::Permission)]
    permission_name: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HeldPermissions)]
pub struct Held {
    #[schema(value_type = kinds::Id)]
    user_id: String,
    #[schema(value_type = Vec<kinds::Permission>)]
    permissions: Vec<String>,
}

#[utoipa::path(
    post,
    path = "/{user_id}/permissions",
    operation_id = "grant_permission",
    summary = "Grant a permission",
    params(("user_id" = kinds::Id, Path, description = "The account")),
    request_body = Grant,
    responses((status = 200, body = Held)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn grant(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Json(Grant { permission_name: permission }): Json<Grant>,
) -> Answer<axum::Json<Held>> {
    caller.must_not_be_key_of(&user_id)?;
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = GrantPermissionRequest { actor_id, device, user_id: user_id.clone(), permission };
    let answer = from_identity(services.admin().grant_permission(context.call(request)).await)?;
    Ok(axum::Json(Held { user_id, permissions: answer.permissions }))
}

#[utoipa::path(
    delete,
    path = "/{user_id}/permissions/{name}",
    operation_id = "revoke_permission",
    summary = "Take a permission away",
    params(("user_id" = kinds::Id, Path, description = "The account"), ("name" = kinds::Permission, Path, description = "The permission")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn revoke(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Path((user_id, permission)): Path<(String, String)>,
) -> Answer<StatusCode> {
    if !is_canonical_id(&user_id) {
        return Err(Failure::field("id", NOT_AN_ID).into());
    }
    caller.must_not_be_key_of(&user_id)?;
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = RevokePermissionRequest { actor_id, device, user_id, permission };
    from_identity(services.admin().revoke_permission(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
