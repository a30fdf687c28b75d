use std::pin::Pin;

use chassis::drain::Drain;
use chassis::grpc::answer;
use contract::identity::live_claims_service_server::LiveClaimsService;
use contract::identity::{
    AccountChanged, CheckSessionRequest, CheckSessionResponse, ReportEnforcementRequest,
    ReportEnforcementResponse, WatchAuthEventsRequest, WatchAuthEventsResponse,
};
use futures_util::StreamExt;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::identity::{Identity, id};
use crate::sign_in;

pub struct LiveClaims {
    pub identity: Identity,
    pub drain: Drain,
}

type Messages = Pin<Box<dyn Stream<Item = Result<WatchAuthEventsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl LiveClaimsService for LiveClaims {
    type WatchAuthEventsStream = Messages;

    async fn watch_auth_events(
        &self,
        request: Request<WatchAuthEventsRequest>,
    ) -> Result<Response<Self::WatchAuthEventsStream>, Status> {
        let since = request.into_inner().since;
        let keys = self.identity.tokens.keys.changes();
        let messages = answer(self.identity.watching.watch(since, keys).await)?.into_inner();
        let drain = self.drain.clone();
        // The stream does not end by itself: the edge goes on at another replica, and the process can end.
        let messages = messages.take_until(async move { drain.stop_accepting().await });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn report_enforcement(
        &self,
        request: Request<ReportEnforcementRequest>,
    ) -> Result<Response<ReportEnforcementResponse>, Status> {
        let noted = self.identity.reports.take(request.into_inner());
        answer(noted.map(|()| ReportEnforcementResponse {}))
    }

    async fn check_session(
        &self,
        request: Request<CheckSessionRequest>,
    ) -> Result<Response<CheckSessionResponse>, Status> {
        let CheckSessionRequest { user_id, session_id } = request.into_inner();
        let account = async {
            id("user_id", &user_id)?;
            id("session_id", &session_id)?;
            sign_in::holder(&self.identity, &user_id, &session_id).await
        };
        answer(account.await.map(|account| CheckSessionResponse {
            account: Some(AccountChanged {
                user_id: account.id,
                version: account.version,
                email: account.email,
                role: account.role.name().to_owned(),
                tier: account.tier.name().to_owned(),
                permissions: account.permissions,
            }),
        }))
    }
}
