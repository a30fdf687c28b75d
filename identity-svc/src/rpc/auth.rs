use chassis::grpc::answer;
use contract::identity::auth_service_server::AuthService;
use contract::identity::{
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, RefreshRequest, RefreshResponse,
    RegisterRequest, RegisterResponse, ValidateTokenRequest, ValidateTokenResponse,
};
use tonic::{Request, Response, Status};

use crate::audit::By;
use crate::identity::{Identity, id};
use crate::sign_in::known_device;
use crate::{sessions, sign_in};

pub struct Auth(pub Identity);

#[tonic::async_trait]
impl AuthService for Auth {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let pair = sign_in::register(&self.0, request.into_inner()).await;
        answer(pair.map(|tokens| RegisterResponse { tokens: Some(tokens) }))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let pair = sign_in::log_in(&self.0, request.into_inner()).await;
        answer(pair.map(|tokens| LoginResponse { tokens: Some(tokens) }))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        let RefreshRequest { refresh_token, device } = request.into_inner();
        let pair = sessions::refresh(&self.0, &refresh_token, &known_device(device)).await;
        answer(pair.map(|tokens| RefreshResponse { tokens: Some(tokens) }))
    }

    async fn validate_token(
        &self,
        request: Request<ValidateTokenRequest>,
    ) -> Result<Response<ValidateTokenResponse>, Status> {
        answer(sign_in::validate(&self.0, &request.into_inner().access_token).await)
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let LogoutRequest { user_id, session_id, device } = request.into_inner();
        let ended = async {
            id("user_id", &user_id)?;
            id("session_id", &session_id)?;
            let by = By::user(&user_id, device.as_ref());
            sessions::log_out(&self.0, &user_id, &session_id, by).await
        };
        answer(ended.await.map(|()| LogoutResponse {}))
    }
}
