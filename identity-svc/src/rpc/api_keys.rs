use chassis::grpc::answer;
use chassis::mysql::failed;
use contract::identity::api_key_service_server::ApiKeyService;
use contract::identity::{
    CreateApiKeyRequest, CreateApiKeyResponse, ListApiKeysRequest, ListApiKeysResponse, RedeemApiKeyRequest,
    RedeemApiKeyResponse, RevokeApiKeyRequest, RevokeApiKeyResponse,
};
use contract::{Failure, from_timestamp};
use tonic::{Request, Response, Status};

use crate::api_keys::{self, Asking, Wanted};
use crate::audit::By;
use crate::identity::{Identity, id};

pub struct ApiKeys(pub Identity);

#[tonic::async_trait]
impl ApiKeyService for ApiKeys {
    async fn create_api_key(
        &self,
        request: Request<CreateApiKeyRequest>,
    ) -> Result<Response<CreateApiKeyResponse>, Status> {
        let CreateApiKeyRequest { actor_id, device, name, permissions, expires_at, session_id } =
            request.into_inner();
        let made = async {
            id("actor_id", &actor_id)?;
            let session = Some(session_id.as_str()).filter(|id| !id.is_empty());
            session.map_or(Ok(()), |session| id("session_id", session))?;
            let unreadable = || Failure::field("expires_at", "must be a time");
            let expires_at =
                expires_at.map(|time| from_timestamp(time).ok_or_else(unreadable)).transpose()?;
            let wanted = Wanted { name, permissions, expires_at };
            api_keys::create(&self.0, Asking { user_id: &actor_id, session }, wanted, device).await
        };
        answer(made.await)
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let actor_id = request.into_inner().actor_id;
        let listed = async {
            id("actor_id", &actor_id)?;
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            api_keys::list(&mut connection, &actor_id).await
        };
        answer(listed.await.map(|api_keys| ListApiKeysResponse { api_keys }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<RevokeApiKeyRequest>,
    ) -> Result<Response<RevokeApiKeyResponse>, Status> {
        let RevokeApiKeyRequest { actor_id, device, api_key_id } = request.into_inner();
        let revoked = async {
            id("actor_id", &actor_id)?;
            id("api_key_id", &api_key_id)?;
            api_keys::revoke(&self.0, &actor_id, &api_key_id, By::user(&actor_id, device.as_ref())).await
        };
        answer(revoked.await.map(|()| RevokeApiKeyResponse {}))
    }

    async fn redeem_api_key(
        &self,
        request: Request<RedeemApiKeyRequest>,
    ) -> Result<Response<RedeemApiKeyResponse>, Status> {
        let redeemed = api_keys::redeem(&self.0, &request.into_inner().key).await;
        answer(redeemed.map(|access_token| RedeemApiKeyResponse { access_token }))
    }
}
