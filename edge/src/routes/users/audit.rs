//! The audit log of an account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{AuditEntry, ListAuditRequest};
use contract::{Failure, Outcome};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Parameters, PathId};
use crate::openapi::kinds;
use crate::routes::{device, time};
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

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::Time)]
    at: Option<String>,
    /// Who did it; null when nobody was signed in.
    #[schema(value_type = Option<kinds::Id>, required)]
    actor_id: Option<String>,
    #[schema(example = "permission_granted")]
    action: String,
    #[schema(value_type = Option<kinds::Id>, required)]
    target_id: Option<String>,
    #[schema(example = "192.0.2.1")]
    ip_address: String,
    #[schema(example = "0199c0de-0000-7000-8000-000000000002")]
    request_id: String,
    #[schema(value_type = kinds::AuditDetails)]
    details: Box<RawValue>,
}

impl TryFrom<AuditEntry> for EntryBody {
    type Error = Failure;

    fn try_from(entry: AuditEntry) -> Outcome<Self> {
        Ok(EntryBody {
            id: entry.id,
            at: time(entry.at),
            actor_id: entry.actor_id,
            action: entry.action,
            target_id: entry.target_id,
            ip_address: entry.ip_address,
            request_id: entry.request_id,
            details: RawValue::from_string(entry.details_json).map_err(Failure::internal)?,
        })
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntries)]
pub struct Entries {
    entries: Vec<EntryBody>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(value_type = kinds::Id, required = false)]
    next_cursor: String,
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
    let request = ListAuditRequest { actor_id, device, user_id, limit, cursor };
    let answer = from_identity(services.admin().list_audit(context.call(request)).await)?;
    let entries: Outcome<Vec<EntryBody>> = answer.entries.into_iter().map(EntryBody::try_from).collect();
    Ok(axum::Json(Entries { entries: entries?, next_cursor: answer.next_cursor }))
}
