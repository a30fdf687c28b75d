//! `/api/v1/projects`.

use std::num::NonZeroI32;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use contract::identity::{
    CreateProjectRequest, DeleteProjectRequest, GetProjectRequest, ListProjectsRequest, Project,
    UpdateProjectRequest,
};
use contract::subscription::CheckQuotaRequest;
use contract::{MANAGE_PROJECTS, Outcome, Resource};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Edge, time};
use crate::answer::Answer;
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::idempotency::Operation;
use crate::json::{Json, Parameters, PathId};
use crate::services::{Services, from_identity, from_subscription, present};

pub fn routes() -> Router<Edge> {
    Router::new().route("/", get(list).post(create)).route("/{id}", get(one).put(update).delete(remove))
}

#[derive(Serialize)]
struct ProjectBody {
    id: String,
    client_id: String,
    name: String,
    description: Option<String>,
    owner_id: String,
    is_active: bool,
    created_at: Option<String>,
    updated_at: Option<String>,
}

impl From<Project> for ProjectBody {
    fn from(project: Project) -> Self {
        let Project { id, client_id, name, description, owner_id, is_active, created_at, updated_at } =
            project;
        let (created_at, updated_at) = (time(created_at), time(updated_at));
        ProjectBody { id, client_id, name, description, owner_id, is_active, created_at, updated_at }
    }
}

fn project_body(project: Option<Project>) -> Outcome<axum::Json<ProjectBody>> {
    Ok(axum::Json(present(project)?.into()))
}

/// Who acts, and whether on own projects alone: identity-svc knows what the account may, but not what a key of it may.
pub fn actor(caller: &Caller) -> (String, bool) {
    (caller.user_id().to_owned(), caller.is_key() && !caller.holds(MANAGE_PROJECTS))
}

#[derive(Deserialize)]
struct Page {
    limit: Option<NonZeroI32>,
    #[serde(default)]
    cursor: String,
}

#[derive(Serialize)]
struct Projects {
    projects: Vec<ProjectBody>,
    count: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    next_cursor: String,
}

async fn list(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    Parameters(Page { limit, cursor }): Parameters<Page>,
) -> Answer<axum::Json<Projects>> {
    let limit = limit.map_or(0, NonZeroI32::get);
    let (actor_id, own_only) = actor(&caller);
    let request = ListProjectsRequest { actor_id, limit, cursor, own_only };
    let answer = from_identity(services.projects().list_projects(context.call(request)).await)?;
    let projects = answer.projects.into_iter().map(ProjectBody::from).collect();
    Ok(axum::Json(Projects { projects, count: answer.count, next_cursor: answer.next_cursor }))
}

#[derive(Deserialize)]
struct Create {
    name: String,
    description: Option<String>,
}

/// subscription-svc says how many projects the tier admits, identity-svc admits exactly so many.
async fn create(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    operation: Option<Extension<Operation>>,
    Json(Create { name, description }): Json<Create>,
) -> Answer<(StatusCode, axum::Json<ProjectBody>)> {
    let actor_id = caller.user_id().to_owned();
    let quota =
        CheckQuotaRequest { user_id: actor_id.clone(), resource: Resource::Projects.name().to_owned() };
    let limit = from_subscription(services.usage().check_quota(context.call(quota)).await)?.limit;
    let project_id = operation.map(|Extension(Operation(id))| id).unwrap_or_default();
    let request = CreateProjectRequest { actor_id, name, description, limit, project_id };
    let answer = from_identity(services.projects().create_project(context.call(request)).await)?;
    Ok((StatusCode::CREATED, project_body(answer.project)?))
}

async fn one(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(project_id): PathId,
) -> Answer<axum::Json<ProjectBody>> {
    let (actor_id, own_only) = actor(&caller);
    let request = GetProjectRequest { actor_id, project_id, own_only };
    Ok(project_body(from_identity(services.projects().get_project(context.call(request)).await)?.project)?)
}

#[derive(Deserialize)]
struct Update {
    name: Option<String>,
    description: Option<String>,
}

async fn update(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(project_id): PathId,
    Json(Update { name, description }): Json<Update>,
) -> Answer<axum::Json<ProjectBody>> {
    let (actor_id, own_only) = actor(&caller);
    let request = UpdateProjectRequest { actor_id, project_id, name, description, own_only };
    Ok(project_body(from_identity(services.projects().update_project(context.call(request)).await)?.project)?)
}

async fn remove(
    caller: Caller,
    State(services): State<Services>,
    Extension(context): Extension<RequestContext>,
    PathId(project_id): PathId,
) -> Answer<StatusCode> {
    let (actor_id, own_only) = actor(&caller);
    let request = DeleteProjectRequest { actor_id, project_id, own_only };
    from_identity(services.projects().delete_project(context.call(request)).await)?;
    Ok(StatusCode::NO_CONTENT)
}
