//! The audit log of an account.

use axum::Extension;
use axum::extract::State;
use contract::identity::{AuditEntry, ListAuditRequest};
use contract::{Failure, Outcome};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::json::{Parameters, PathId};
use crate::routes::{device, time};
use crate::services::{Services, from_identity};

#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    limit: i32,
    #[serde(default)]
    cursor: String,
}

#[derive(Serialize)]
struct EntryBody {
    id: String,
    at: Option<String>,
    actor_id: Option<String>,
    action: String,
    target_id: Option<String>,
    ip_address: String,
    request_id: String,
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

#[derive(Serialize)]
pub struct Entries {
    entries: Vec<EntryBody>,
    #[serde(skip_serializing_if = "String::is_empty")]
    next_cursor: String,
}

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
