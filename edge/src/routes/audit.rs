//! `/api/v1/admin/audit`: the audit log of all accounts.

use axum::Extension;
use axum::extract::State;
use chrono::{DateTime, Utc};
use contract::identity::{AuditEntry, AuditFilter, ListAuditRequest, ListAuditResponse};
use contract::{AuditAction, Failure, Outcome, to_timestamp};
use http::HeaderMap;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::asked::{Reader, named};
use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::Parameters;
use crate::openapi::kinds;
use crate::services::{Services, from_identity};

const MAX_LIMIT: i32 = 100;

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default().routes(routes!(list))
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

impl TryFrom<ListAuditResponse> for Entries {
    type Error = Failure;

    fn try_from(answer: ListAuditResponse) -> Outcome<Self> {
        let entries: Outcome<Vec<EntryBody>> = answer.entries.into_iter().map(EntryBody::try_from).collect();
        Ok(Entries { entries: entries?, next_cursor: answer.next_cursor })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Most entries of the page; 50 by default.
    #[param(value_type = Option<i32>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
    cursor: Option<String>,
    #[param(value_type = Option<kinds::AuditAction>)]
    action: Option<String>,
    /// Who did it or whom it was done to.
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
    user_id: Option<String>,
    /// Who did it.
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
    actor_id: Option<String>,
    /// Whom it was done to.
    #[param(pattern = "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")]
    target_id: Option<String>,
    /// From this moment on.
    #[param(
        pattern = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z)?$",
        example = "2026-01-31T12:00:00Z"
    )]
    from: Option<String>,
    /// Before this moment.
    #[param(
        pattern = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z)?$",
        example = "2026-01-31T12:00:00Z"
    )]
    until: Option<String>,
}

impl Asked {
    fn request(self) -> Outcome<ListAuditRequest> {
        let mut reader = Reader::default();
        let filter = AuditFilter {
            action: reader.read("action", self.action, named::<AuditAction>),
            by_id: reader.id("actor_id", self.actor_id),
            target_id: reader.id("target_id", self.target_id),
            from: reader.read("from", self.from, moment),
            until: reader.read("until", self.until, moment),
        };
        let request = ListAuditRequest {
            user_id: reader.id("user_id", self.user_id).unwrap_or_default(),
            limit: reader.number("limit", self.limit, MAX_LIMIT).unwrap_or_default(),
            cursor: reader.id("cursor", self.cursor).unwrap_or_default(),
            filter: Some(filter),
            ..ListAuditRequest::default()
        };
        reader.finish(request)
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let time =
        DateTime::parse_from_rfc3339(text).map_err(|_| "must be a time such as 2026-01-31T12:00:00Z")?;
    Ok(to_timestamp(time.with_timezone(&Utc)))
}

#[utoipa::path(
    get,
    path = "",
    operation_id = "list_all_audit",
    summary = "Read the audit log of all accounts, newest first",
    params(Asked),
    responses((status = 200, body = Entries)),
)]
async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Parameters(asked): Parameters<Asked>,
) -> Answer<axum::Json<Entries>> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = ListAuditRequest { actor_id, device, ..asked.request()? };
    let answer = from_identity(services.admin().list_audit(context.call(request)).await)?;
    Ok(axum::Json(answer.try_into()?))
}
