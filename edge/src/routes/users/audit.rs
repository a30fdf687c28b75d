//! The audit log of an account.

use axum::Extension;
use axum::extract::State;
use contract::identity::ListAuditRequest;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Parameters, PathId};
use crate::openapi::kinds;
use crate::routes::audit::Entries;
use crate::routes::device;
use crate::services::{Services, from_identity};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Most entries of the page; 50 by default.
    #[serde(default)]
    #[param(minimum = 0, maximum = 100, example = 50)]
    limit: i32,
    /// The `next_cursor` of the page before.
    #[serde(default)]
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
    cursor: String,
}

#[utoipa::path(
    get,
    path = "/{user_id}/audit",
    operation_id = "list_audit",
    summary = "Read the audit log of an account, newest first",
    params(("user_id" = kinds::Id, Path, description = "The account"), Page),
    responses((status = 200, body = Entries)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
pub async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    PathId(user_id): PathId,
    Parameters(Page { limit, cursor }): Parameters<Page>,
) -> Answer<axum::Json<Entries>> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = ListAuditRequest { actor_id, device, user_id, limit, cursor, filter: None };
    let answer = from_identity(services.admin().list_audit(context.call(request)).await)?;
    Ok(axum::Json(answer.try_into()?))
}
