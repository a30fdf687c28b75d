//! `/api/v1/admin/edges`: how the edges are at this moment.

use axum::Extension;
use axum::extract::State;
use contract::Outcome;
use contract::identity::{Edge as Told, EnforcementTimes, ListEdgesRequest};
use http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, device, time};
use crate::answer::Answer;
use crate::claims::Admin;
use crate::front::RequestContext;
use crate::openapi::kinds;
use crate::services::{Services, from_identity, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default().routes(routes!(list))
}

/// From changes to the moments in which the edge enforced them.
#[derive(Serialize, ToSchema)]
#[schema(as = EnforcementTimes)]
struct TimesBody {
    /// How many events these are of: the last ones, at most 1000.
    #[schema(value_type = kinds::Count)]
    count: i64,
    #[schema(minimum = 0, example = 3.5)]
    last_ms: f64,
    #[schema(minimum = 0, example = 3.5)]
    p50_ms: f64,
    #[schema(minimum = 0, example = 9.25)]
    p99_ms: f64,
}

impl From<EnforcementTimes> for TimesBody {
    fn from(times: EnforcementTimes) -> Self {
        let EnforcementTimes { count, last_ms, p50_ms, p99_ms } = times;
        TimesBody { count, last_ms, p50_ms, p99_ms }
    }
}

/// An edge as it last told.
#[derive(Serialize, ToSchema)]
#[schema(as = Edge)]
struct EdgeBody {
    #[schema(example = "edge-0")]
    name: String,
    /// What it may rely on its live claims for: everything (`fresh`); it has each request confirmed (`stale`); nothing
    /// (`lost`). `silent` when it has not told for longer than eight seconds: it has ended, or reaches no identity-svc.
    #[schema(pattern = "^(fresh|stale|lost|silent)$", example = "fresh")]
    state: String,
    #[schema(example = "0.1.0")]
    version: String,
    #[schema(value_type = kinds::Time)]
    started_at: Option<String>,
    #[schema(value_type = kinds::Time)]
    reported_at: Option<String>,
    /// For how long it had not heard of identity-svc, in milliseconds. It hears every second.
    #[schema(value_type = kinds::Count, example = 250)]
    staleness_ms: i64,
    /// The last event that it had taken in.
    #[schema(value_type = kinds::Count)]
    sequence: i64,
    /// How many events there are beyond that by now; null when it follows another table of events.
    #[schema(value_type = Option<kinds::Count>, required, example = 0)]
    behind: Option<i64>,
    /// Sessions and accounts of which it knows something newer than their tokens.
    #[schema(value_type = kinds::Count)]
    live_entries: i64,
    #[schema(value_type = kinds::Count)]
    open_sockets: i64,
    /// Null before the first event.
    #[schema(value_type = Option<TimesBody>, required)]
    enforcement: Option<TimesBody>,
}

impl EdgeBody {
    fn of(told: Told) -> Outcome<EdgeBody> {
        let state = present(told.state)?;
        Ok(EdgeBody {
            name: told.name,
            state: if told.is_silent { "silent".to_owned() } else { state.freshness },
            version: state.version,
            started_at: time(state.started_at),
            reported_at: time(told.reported_at),
            staleness_ms: state.staleness_ms,
            sequence: state.position.unwrap_or_default().sequence,
            behind: told.behind,
            live_entries: state.live_entries,
            open_sockets: state.open_sockets,
            enforcement: state.times.map(TimesBody::from),
        })
    }
}

#[derive(Serialize, ToSchema)]
struct Edges {
    edges: Vec<EdgeBody>,
    #[schema(value_type = kinds::Count)]
    count: usize,
    /// The last event that there is.
    #[schema(value_type = kinds::Count)]
    sequence: i64,
}

#[utoipa::path(
    get,
    path = "",
    operation_id = "list_edges",
    summary = "Look at all edges",
    description = "Each tells every three seconds how it is. One that has ended is listed as `silent` for five minutes. At \
                   most 1000, in the order of their names.",
    responses((status = 200, body = Edges)),
)]
async fn list(
    Admin(caller): Admin,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Answer<axum::Json<Edges>> {
    let (actor_id, device) = (caller.user_id().to_owned(), Some(device(&context, &headers)));
    let request = ListEdgesRequest { actor_id, device };
    let answer = from_identity(services.admin().list_edges(context.call(request)).await)?;
    let edges: Outcome<Vec<EdgeBody>> = answer.edges.into_iter().map(EdgeBody::of).collect();
    let edges = edges?;
    Ok(axum::Json(Edges { count: edges.len(), edges, sequence: answer.sequence }))
}
