use chassis::grpc::answer;
use chassis::mysql::failed;
use contract::identity::user_service_server::UserService;
use contract::identity::{
    ApproveSubscriptionChangeRequest, ApproveSubscriptionChangeResponse, ChangePasswordRequest,
    ChangePasswordResponse, DeleteUserRequest, DeleteUserResponse, ExchangeNewcomersRequest,
    ExchangeNewcomersResponse, GetUserRequest, GetUserResponse, SetTierRequest, SetTierResponse,
    UpdateProfileRequest, UpdateProfileResponse,
};
use contract::{ErrorCode, Failure, Tier};
use tonic::{Request, Response, Status};

use crate::administration::subscriptions;
use crate::audit::By;
use crate::identity::{Identity, id};
use crate::{accounts, claims, newcomers, profiles, sign_in};

pub struct Users(pub Identity);

#[tonic::async_trait]
impl UserService for Users {
    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        let user_id = request.into_inner().user_id;
        let user = async {
            id("user_id", &user_id)?;
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            profiles::user(&mut connection, &user_id).await
        };
        answer(user.await.map(|user| GetUserResponse { user: Some(user) }))
    }

    async fn update_profile(
        &self,
        request: Request<UpdateProfileRequest>,
    ) -> Result<Response<UpdateProfileResponse>, Status> {
        let request = request.into_inner();
        let user = async {
            id("user_id", &request.user_id)?;
            profiles::update(&self.0.pool, request).await
        };
        answer(user.await.map(|user| UpdateProfileResponse { user: Some(user) }))
    }

    async fn change_password(
        &self,
        request: Request<ChangePasswordRequest>,
    ) -> Result<Response<ChangePasswordResponse>, Status> {
        let request = request.into_inner();
        let changed = async {
            id("user_id", &request.user_id)?;
            id("session_id", &request.session_id)?;
            sign_in::change_password(&self.0, request).await
        };
        answer(changed.await.map(|()| ChangePasswordResponse {}))
    }

    async fn delete_user(
        &self,
        request: Request<DeleteUserRequest>,
    ) -> Result<Response<DeleteUserResponse>, Status> {
        let DeleteUserRequest { user_id, actor_id, device } = request.into_inner();
        let removed = async {
            id("user_id", &user_id)?;
            id("actor_id", &actor_id)?;
            if actor_id != user_id {
                // Administrators have a service of their own, which asks whether they are.
                return Err(Failure::new(ErrorCode::Forbidden));
            }
            accounts::remove(&self.0, &user_id, By::user(&actor_id, device.as_ref())).await
        };
        answer(removed.await.map(|()| DeleteUserResponse {}))
    }

    async fn set_tier(&self, request: Request<SetTierRequest>) -> Result<Response<SetTierResponse>, Status> {
        let SetTierRequest { user_id, tier, revision } = request.into_inner();
        let set = async {
            id("user_id", &user_id)?;
            let tier: Tier = tier.parse().map_err(|fault| Failure::field("tier", fault))?;
            claims::set_tier(&self.0, &user_id, tier, revision).await
        };
        answer(set.await.map(|()| SetTierResponse {}))
    }

    async fn approve_subscription_change(
        &self,
        request: Request<ApproveSubscriptionChangeRequest>,
    ) -> Result<Response<ApproveSubscriptionChangeResponse>, Status> {
        let approved = subscriptions::approve(&self.0, request.into_inner()).await;
        answer(approved.map(|()| ApproveSubscriptionChangeResponse {}))
    }

    async fn exchange_newcomers(
        &self,
        request: Request<ExchangeNewcomersRequest>,
    ) -> Result<Response<ExchangeNewcomersResponse>, Status> {
        let known = request.into_inner().known_user_ids;
        let others = async {
            if known.len() > newcomers::MOST {
                return Err(Failure::field("known_user_ids", format!("must be at most {}", newcomers::MOST)));
            }
            for user_id in &known {
                id("known_user_ids", user_id)?;
            }
            newcomers::exchange(&self.0.pool, &known).await
        };
        answer(others.await.map(|user_ids| ExchangeNewcomersResponse { user_ids }))
    }
}
