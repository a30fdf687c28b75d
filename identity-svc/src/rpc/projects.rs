use chassis::grpc::answer;
use chassis::mysql::failed;
use contract::identity::project_service_server::ProjectService;
use contract::identity::{
    CountProjectsRequest, CountProjectsResponse, CreateProjectRequest, CreateProjectResponse,
    DeleteProjectRequest, DeleteProjectResponse, GetProjectRequest, GetProjectResponse,
    ListProjectDaysRequest, ListProjectDaysResponse, ListProjectsRequest, ListProjectsResponse,
    UpdateProjectRequest, UpdateProjectResponse,
};
use tonic::{Request, Response, Status};

use crate::identity::{Identity, id};
use crate::projects::Actor;
use crate::{project_days, projects};

pub struct Projects(pub Identity);

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn list_projects(
        &self,
        request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        let ListProjectsRequest { actor_id, limit, cursor, own_only } = request.into_inner();
        let page = async {
            id("actor_id", &actor_id)?;
            projects::list(&self.0, Actor { id: &actor_id, own_only }, limit, &cursor).await
        };
        answer(page.await)
    }

    async fn create_project(
        &self,
        request: Request<CreateProjectRequest>,
    ) -> Result<Response<CreateProjectResponse>, Status> {
        let CreateProjectRequest { actor_id, name, description, limit, project_id } = request.into_inner();
        let project = async {
            id("actor_id", &actor_id)?;
            let own = Some(project_id.as_str()).filter(|id| !id.is_empty());
            own.map_or(Ok(()), |own| id("project_id", own))?;
            projects::create(&self.0, &actor_id, own, &name, description.as_deref(), limit).await
        };
        answer(project.await.map(|project| CreateProjectResponse { project: Some(project) }))
    }

    async fn get_project(
        &self,
        request: Request<GetProjectRequest>,
    ) -> Result<Response<GetProjectResponse>, Status> {
        let GetProjectRequest { actor_id, project_id, own_only } = request.into_inner();
        let project = async {
            id("actor_id", &actor_id)?;
            id("project_id", &project_id)?;
            projects::get(&self.0, Actor { id: &actor_id, own_only }, &project_id).await
        };
        answer(project.await.map(|project| GetProjectResponse { project: Some(project) }))
    }

    async fn update_project(
        &self,
        request: Request<UpdateProjectRequest>,
    ) -> Result<Response<UpdateProjectResponse>, Status> {
        let UpdateProjectRequest { actor_id, project_id, name, description, own_only } = request.into_inner();
        let project = async {
            id("actor_id", &actor_id)?;
            id("project_id", &project_id)?;
            let actor = Actor { id: &actor_id, own_only };
            projects::update(&self.0, actor, &project_id, name.as_deref(), description.as_deref()).await
        };
        answer(project.await.map(|project| UpdateProjectResponse { project: Some(project) }))
    }

    async fn delete_project(
        &self,
        request: Request<DeleteProjectRequest>,
    ) -> Result<Response<DeleteProjectResponse>, Status> {
        let DeleteProjectRequest { actor_id, project_id, own_only } = request.into_inner();
        let removed = async {
            id("actor_id", &actor_id)?;
            id("project_id", &project_id)?;
            projects::remove(&self.0, Actor { id: &actor_id, own_only }, &project_id).await
        };
        answer(removed.await.map(|()| DeleteProjectResponse {}))
    }

    async fn count_projects(
        &self,
        request: Request<CountProjectsRequest>,
    ) -> Result<Response<CountProjectsResponse>, Status> {
        let user_id = request.into_inner().user_id;
        let count = async {
            id("user_id", &user_id)?;
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            projects::count(&mut connection, &user_id).await
        };
        answer(count.await.map(|count| CountProjectsResponse { count }))
    }

    async fn list_project_days(
        &self,
        request: Request<ListProjectDaysRequest>,
    ) -> Result<Response<ListProjectDaysResponse>, Status> {
        let ListProjectDaysRequest { user_id, from, to } = request.into_inner();
        let days = async {
            id("user_id", &user_id)?;
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            project_days::list(&mut connection, &user_id, &from, &to).await
        };
        answer(days.await)
    }
}
