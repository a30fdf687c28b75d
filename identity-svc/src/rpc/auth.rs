use chassis::grpc::answer;
use chassis::mysql::failed;
use contract::identity::auth_service_server::AuthService;
use contract::identity::{
    EndOtherSessionsRequest, EndOtherSessionsResponse, EndSessionRequest, EndSessionResponse,
    ForgotPasswordRequest, ForgotPasswordResponse, ListSessionsRequest, ListSessionsResponse, LoginRequest,
    LoginResponse, LogoutRequest, LogoutResponse, RefreshRequest, RefreshResponse, RegisterRequest,
    RegisterResponse, ReportTokenUseRequest, ReportTokenUseResponse, ResendVerificationRequest,
    ResendVerificationResponse, ResetPasswordRequest, ResetPasswordResponse, ValidateTokenRequest,
    ValidateTokenResponse, VerifyEmailRequest, VerifyEmailResponse,
};
use tonic::{Request, Response, Status};

use crate::audit::By;
use crate::identity::{Identity, id};
use crate::sessions::{self, Because};
use crate::sign_in::known_device;
use crate::{recovery, sign_in, verification};

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
            sessions::end_one(&self.0, &user_id, &session_id, Because::Logout, by).await
        };
        answer(ended.await.map(|()| LogoutResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let user_id = request.into_inner().user_id;
        let listed = async {
            id("user_id", &user_id)?;
            let mut connection = self.0.pool.acquire().await.map_err(failed)?;
            sessions::list(&mut connection, &user_id).await
        };
        answer(listed.await.map(|sessions| ListSessionsResponse { sessions }))
    }

    async fn end_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        let EndSessionRequest { user_id, session_id, device } = request.into_inner();
        let ended = async {
            id("user_id", &user_id)?;
            id("session_id", &session_id)?;
            let by = By::user(&user_id, device.as_ref());
            sessions::end_one(&self.0, &user_id, &session_id, Because::Revoked, by).await
        };
        answer(ended.await.map(|()| EndSessionResponse {}))
    }

    async fn end_other_sessions(
        &self,
        request: Request<EndOtherSessionsRequest>,
    ) -> Result<Response<EndOtherSessionsResponse>, Status> {
        let EndOtherSessionsRequest { user_id, session_id, device } = request.into_inner();
        let ended = async {
            id("user_id", &user_id)?;
            id("session_id", &session_id)?;
            let by = By::user(&user_id, device.as_ref());
            sessions::end_all(&self.0, &user_id, Some(&session_id), Because::Revoked, by).await
        };
        answer(ended.await.map(|()| EndOtherSessionsResponse {}))
    }

    async fn report_token_use(
        &self,
        request: Request<ReportTokenUseRequest>,
    ) -> Result<Response<ReportTokenUseResponse>, Status> {
        let noted = sessions::note_use(&self.0, &request.into_inner().uses).await;
        answer(noted.map(|()| ReportTokenUseResponse {}))
    }

    async fn resend_verification(
        &self,
        request: Request<ResendVerificationRequest>,
    ) -> Result<Response<ResendVerificationResponse>, Status> {
        let ResendVerificationRequest { user_id, device } = request.into_inner();
        let sent = async {
            id("user_id", &user_id)?;
            verification::resend(&self.0, &user_id, device).await
        };
        answer(sent.await.map(|sent| ResendVerificationResponse { already_verified: !sent }))
    }

    async fn verify_email(
        &self,
        request: Request<VerifyEmailRequest>,
    ) -> Result<Response<VerifyEmailResponse>, Status> {
        let VerifyEmailRequest { token, device } = request.into_inner();
        let verified = async {
            let place = self.0.bulkhead.enter(device.as_ref())?;
            let _turn = place.turn().await?;
            verification::verify(&self.0, &token, device).await
        };
        answer(verified.await.map(|()| VerifyEmailResponse {}))
    }

    async fn forgot_password(
        &self,
        request: Request<ForgotPasswordRequest>,
    ) -> Result<Response<ForgotPasswordResponse>, Status> {
        let request = request.into_inner();
        let asked = async {
            let place = self.0.bulkhead.enter(request.device.as_ref())?;
            let _turn = place.turn().await?;
            recovery::forgot(&self.0, request).await
        };
        answer(asked.await.map(|()| ForgotPasswordResponse {}))
    }

    async fn reset_password(
        &self,
        request: Request<ResetPasswordRequest>,
    ) -> Result<Response<ResetPasswordResponse>, Status> {
        let reset = recovery::reset(&self.0, request.into_inner()).await;
        answer(reset.map(|()| ResetPasswordResponse {}))
    }
}
