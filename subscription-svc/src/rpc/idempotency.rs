use chassis::grpc::answer;
use contract::subscription::idempotency_service_server::IdempotencyService;
use contract::subscription::{
    AbandonRequest, AbandonResponse, BeginRequest, BeginResponse, FinishRequest, FinishResponse,
};
use tonic::{Request, Response, Status};

use crate::idempotency;
use crate::service::{Service, user_id};

pub struct Idempotency(pub Service);

#[tonic::async_trait]
impl IdempotencyService for Idempotency {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let begun = async {
            user_id(&request.get_ref().user_id)?;
            idempotency::begin(&self.0.pool, request.get_ref()).await
        };
        answer(begun.await.map(|answer| BeginResponse { answer: Some(answer) }))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let FinishRequest { user_id, idempotency_key, runner, answer: kept } = request.into_inner();
        let finished = match kept {
            Some(kept) => idempotency::finish(&self.0.pool, &user_id, &idempotency_key, &runner, &kept).await,
            None => idempotency::give_up(&self.0.pool, &user_id, &idempotency_key, &runner).await,
        };
        answer(finished.map(|()| FinishResponse {}))
    }

    async fn abandon(&self, request: Request<AbandonRequest>) -> Result<Response<AbandonResponse>, Status> {
        let AbandonRequest { user_id, idempotency_key, runner } = request.into_inner();
        let abandoned = idempotency::abandon(&self.0.pool, &user_id, &idempotency_key, &runner).await;
        answer(abandoned.map(|()| AbandonResponse {}))
    }
}
