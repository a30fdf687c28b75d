use std::pin::Pin;

use chassis::grpc::answer;
use contract::Outcome;
use contract::identity::admin_service_server::AdminService;
use contract::identity::{
    ApproveTierChangeRequest, ApproveTierChangeResponse, ChangeUsersRequest, ChangeUsersResponse, Device,
    EndUserSessionsRequest, EndUserSessionsResponse, ExportUsersRequest, ExportUsersResponse,
    GetUserDetailsRequest, GetUserDetailsResponse, GrantPermissionRequest, GrantPermissionResponse,
    ImportUsersRequest, ImportUsersResponse, ListAuditRequest, ListAuditResponse, ListEdgesRequest,
    ListEdgesResponse, ListUserApiKeysRequest, ListUserApiKeysResponse, ListUserSessionsRequest,
    ListUserSessionsResponse, ListUsersRequest, ListUsersResponse, RemoveUserRequest, RemoveUserResponse,
    RevokePermissionRequest, RevokePermissionResponse, RevokeUserApiKeyRequest, RevokeUserApiKeyResponse,
    SetPasswordRequest, SetPasswordResponse, UpdateUserRequest, UpdateUserResponse,
};
use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::administration::change::Change;
use crate::administration::export::Export;
use crate::administration::{Actor, api_keys, audit, bulk, change, import, list, permissions, sessions};
use crate::edges;
use crate::identity::{Identity, id};

pub struct Administration(pub Identity);

type Pages = Pin<Box<dyn Stream<Item = Result<ExportUsersResponse, Status>> + Send>>;

/// The acting account, after a look at the id of the account that it is about.
fn on(user_id: &str, actor_id: String, device: Option<Device>) -> Outcome<Actor> {
    id("user_id", user_id)?;
    Actor::of(actor_id, device)
}

#[tonic::async_trait]
impl AdminService for Administration {
    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        let mut request = request.into_inner();
        let page = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            list::list(&self.0, &actor, request).await
        };
        answer(page.await)
    }

    async fn get_user_details(
        &self,
        request: Request<GetUserDetailsRequest>,
    ) -> Result<Response<GetUserDetailsResponse>, Status> {
        let GetUserDetailsRequest { actor_id, device, user_id } = request.into_inner();
        let details = async { list::details(&self.0, &on(&user_id, actor_id, device)?, &user_id).await };
        answer(details.await)
    }

    async fn update_user(
        &self,
        request: Request<UpdateUserRequest>,
    ) -> Result<Response<UpdateUserResponse>, Status> {
        let mut request = request.into_inner();
        let user = async {
            let actor = std::mem::take(&mut request.actor_id);
            let actor = on(&request.user_id, actor, request.device.take())?;
            change::update(&self.0, &actor, &request.user_id, Change::parse(&request)?).await
        };
        answer(user.await.map(|user| UpdateUserResponse { user: Some(user) }))
    }

    async fn remove_user(
        &self,
        request: Request<RemoveUserRequest>,
    ) -> Result<Response<RemoveUserResponse>, Status> {
        let RemoveUserRequest { actor_id, device, user_id } = request.into_inner();
        let removed =
            async { change::remove(&self.0, &on(&user_id, actor_id, device)?, &user_id, None).await };
        answer(removed.await.map(|()| RemoveUserResponse {}))
    }

    async fn grant_permission(
        &self,
        request: Request<GrantPermissionRequest>,
    ) -> Result<Response<GrantPermissionResponse>, Status> {
        let GrantPermissionRequest { actor_id, device, user_id, permission } = request.into_inner();
        let held = async {
            let actor = on(&user_id, actor_id, device)?;
            permissions::grant(&self.0, &actor, &user_id, &permission).await
        };
        answer(held.await.map(|permissions| GrantPermissionResponse { permissions }))
    }

    async fn revoke_permission(
        &self,
        request: Request<RevokePermissionRequest>,
    ) -> Result<Response<RevokePermissionResponse>, Status> {
        let RevokePermissionRequest { actor_id, device, user_id, permission } = request.into_inner();
        let revoked = async {
            let actor = on(&user_id, actor_id, device)?;
            permissions::revoke(&self.0, &actor, &user_id, &permission).await
        };
        answer(revoked.await.map(|()| RevokePermissionResponse {}))
    }

    async fn list_user_sessions(
        &self,
        request: Request<ListUserSessionsRequest>,
    ) -> Result<Response<ListUserSessionsResponse>, Status> {
        let ListUserSessionsRequest { actor_id, device, user_id } = request.into_inner();
        let open = async { sessions::list(&self.0, &on(&user_id, actor_id, device)?, &user_id).await };
        answer(open.await.map(|sessions| ListUserSessionsResponse { sessions }))
    }

    async fn end_user_sessions(
        &self,
        request: Request<EndUserSessionsRequest>,
    ) -> Result<Response<EndUserSessionsResponse>, Status> {
        let EndUserSessionsRequest { actor_id, device, user_id } = request.into_inner();
        let ended = async { sessions::end_all(&self.0, &on(&user_id, actor_id, device)?, &user_id).await };
        answer(ended.await.map(|()| EndUserSessionsResponse {}))
    }

    async fn set_password(
        &self,
        request: Request<SetPasswordRequest>,
    ) -> Result<Response<SetPasswordResponse>, Status> {
        let SetPasswordRequest { actor_id, device, user_id, new_password } = request.into_inner();
        let set = async {
            let actor = on(&user_id, actor_id, device)?;
            change::set_password(&self.0, &actor, &user_id, &new_password).await
        };
        answer(set.await.map(|()| SetPasswordResponse {}))
    }

    async fn list_user_api_keys(
        &self,
        request: Request<ListUserApiKeysRequest>,
    ) -> Result<Response<ListUserApiKeysResponse>, Status> {
        let ListUserApiKeysRequest { actor_id, device, user_id } = request.into_inner();
        let keys = async { api_keys::list(&self.0, &on(&user_id, actor_id, device)?, &user_id).await };
        answer(keys.await.map(|api_keys| ListUserApiKeysResponse { api_keys }))
    }

    async fn revoke_user_api_key(
        &self,
        request: Request<RevokeUserApiKeyRequest>,
    ) -> Result<Response<RevokeUserApiKeyResponse>, Status> {
        let RevokeUserApiKeyRequest { actor_id, device, user_id, api_key_id } = request.into_inner();
        let revoked = async {
            let actor = on(&user_id, actor_id, device)?;
            id("api_key_id", &api_key_id)?;
            api_keys::revoke(&self.0, &actor, &user_id, &api_key_id).await
        };
        answer(revoked.await.map(|()| RevokeUserApiKeyResponse {}))
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let mut request = request.into_inner();
        let entries = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            audit::list(&self.0, &actor, request).await
        };
        answer(entries.await)
    }

    async fn change_users(
        &self,
        request: Request<ChangeUsersRequest>,
    ) -> Result<Response<ChangeUsersResponse>, Status> {
        let mut request = request.into_inner();
        let changed = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            bulk::change(&self.0, &actor, request).await
        };
        answer(changed.await)
    }

    async fn approve_tier_change(
        &self,
        request: Request<ApproveTierChangeRequest>,
    ) -> Result<Response<ApproveTierChangeResponse>, Status> {
        let mut request = request.into_inner();
        let approved = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            bulk::approve_tier(&self.0, &actor, request).await
        };
        answer(approved.await)
    }

    type ExportUsersStream = Pages;

    async fn export_users(
        &self,
        request: Request<ExportUsersRequest>,
    ) -> Result<Response<Self::ExportUsersStream>, Status> {
        let mut request = request.into_inner();
        let begun = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            Export::begin(&self.0, &actor, request).await
        };
        let export = answer(begun.await)?.into_inner();
        // A page is read when the caller has taken the one before: whoever reads slowly holds its place and a window of
        // what was sent.
        let pages = stream::try_unfold(export, async |mut export| {
            let page = answer(export.next().await)?.into_inner();
            Ok(page.map(|users| (ExportUsersResponse { users }, export)))
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn import_users(
        &self,
        request: Request<ImportUsersRequest>,
    ) -> Result<Response<ImportUsersResponse>, Status> {
        let mut request = request.into_inner();
        let imported = async {
            let actor = Actor::of(std::mem::take(&mut request.actor_id), request.device.take())?;
            import::import(&self.0, &actor, request).await
        };
        answer(imported.await)
    }

    async fn list_edges(
        &self,
        request: Request<ListEdgesRequest>,
    ) -> Result<Response<ListEdgesResponse>, Status> {
        let ListEdgesRequest { actor_id, device } = request.into_inner();
        let known = async { edges::list(&self.0, &Actor::of(actor_id, device)?).await };
        answer(known.await)
    }
}
