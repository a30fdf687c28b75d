//! `/api/v1/projects`.

use std::num::NonZeroI32;

use axum::Extension;
use axum::extract::State;
use contract::identity::{
    CreateProjectRequest, DeleteProjectRequest, GetProjectRequest, ListProjectsRequest, Project,
    UpdateProjectRequest,
};
use contract::subscription::CheckQuotaRequest;
use contract::{MANAGE_PROJECTS, Outcome, Resource};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Edge, time};
use crate::answer::Answer;
use crate::claims::Caller;
use crate::front::RequestContext;
use crate::idempotency::Operation;
use crate::json::{Json, Parameters, PathId};
use crate::openapi::kinds;
use crate::services::{Services, from_identity, from_subscription, present};

pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::default().routes(routes!(list, create)).routes(routes!(one, update, remove))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Project)]
struct ProjectBody {
    #[schema(value_type = kinds::Id)]
    id: String,
    #[schema(value_type = kinds::ClientId)]
    client_id: String,
    #[schema(value_type = kinds::ProjectName)]
    name: String,
    #[schema(value_type = Option<kinds::Description>, required)]
    description: Option<String>,
    #[schema(value_type = kinds::Id)]
    owner_id: String,
    #[schema(example = true)]
    is_active: bool,
    #[schema(value_type = kinds::Time)]
    created_at: Option<String>,
    #[schema(value_type = kinds::Time)]
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
fn actor(caller: &Caller) -> (String, bool) {
    (caller.user_id().to_owned(), caller.is_key() && !caller.holds(MANAGE_PROJECTS))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Most projects of the page; 50 by default.
    #[param(value_type = Option<i32>, minimum = 1, maximum = 100, example = 50)]
    limit: Option<NonZeroI32>,
    /// The `next_cursor` of the page before.
    #[serde(default)]
    #[param(max_length = 200)]
    cursor: String,
}

#[derive(Serialize, ToSchema)]
struct Projects {
    projects: Vec<ProjectBody>,
    /// How many there are on all pages.
    #[schema(value_type = kinds::Count)]
    count: i64,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(
        required = false,
        example = "MTc2OTg2MDgwMDAwMDAwMC8wMTk5YzBkZS0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMDE"
    )]
    next_cursor: String,
}

#[utoipa::path(
    get,
    path = "",
    operation_id = "list_projects",
    summary = "List projects, newest first",
    params(Page),
    responses((status = 200, body = Projects)),
    extensions(("x-errors" = json!(["USER001"]))),
)]
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

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateProject)]
struct Create {
    #[schema(value_type = kinds::ProjectName)]
    name: String,
    #[schema(value_type = Option<kinds::Description>)]
    description: Option<String>,
}

/// subscription-svc says how many projects the tier admits, identity-svc admits exactly so many.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_project",
    summary = "Make a project",
    description = "Counts against the quota `projects`.",
    request_body = Create,
    responses((status = 201, body = ProjectBody)),
    extensions(("x-errors" = json!(["SUB002", "USER001"]))),
)]
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

#[utoipa::path(
    get,
    path = "/{id}",
    operation_id = "get_project",
    summary = "Look at a project",
    params(("id" = kinds::Id, Path, description = "The project")),
    responses((status = 200, body = ProjectBody)),
    extensions(("x-errors" = json!(["PROJ001", "USER001"]))),
)]
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

/// What is absent stays; an empty description removes it.
#[derive(Deserialize, ToSchema)]
#[schema(as = UpdateProject)]
struct Update {
    #[schema(value_type = Option<kinds::ProjectName>)]
    name: Option<String>,
    #[schema(value_type = Option<kinds::Description>)]
    description: Option<String>,
}

#[utoipa::path(
    put,
    path = "/{id}",
    operation_id = "update_project",
    summary = "Change a project",
    params(("id" = kinds::Id, Path, description = "The project")),
    request_body = Update,
    responses((status = 200, body = ProjectBody)),
    extensions(("x-errors" = json!(["PROJ001", "USER001"]))),
)]
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

#[utoipa::path(
    delete,
    path = "/{id}",
    operation_id = "delete_project",
    summary = "Delete a project, which frees its place in the quota",
    params(("id" = kinds::Id, Path, description = "The project")),
    responses((status = 204)),
    extensions(("x-errors" = json!(["PROJ001", "USER001"]))),
)]
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
