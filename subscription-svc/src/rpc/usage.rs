use chassis::grpc::answer;
use contract::subscription::usage_service_server::UsageService;
use contract::subscription::{
    CheckQuotaRequest, CheckQuotaResponse, CommitRequest, CommitResponse, GetUsageRequest, GetUsageResponse,
    ListUsageDaysRequest, ListUsageDaysResponse, RecordUsageRequest, RecordUsageResponse, ReleaseRequest,
    ReleaseResponse, RenewRequest, RenewResponse, ReportUsageRequest, ReportUsageResponse, ReserveRequest,
    ReserveResponse,
};
use tonic::{Request, Response, Status};

use crate::service::{Service, user_id};
use crate::usage;

pub struct Usage(pub Service);

#[tonic::async_trait]
impl UsageService for Usage {
    async fn get_usage(
        &self,
        request: Request<GetUsageRequest>,
    ) -> Result<Response<GetUsageResponse>, Status> {
        let user = request.into_inner().user_id;
        let numbers = async {
            user_id(&user)?;
            usage::of(&self.0, &user).await
        };
        answer(numbers.await)
    }

    async fn check_quota(
        &self,
        request: Request<CheckQuotaRequest>,
    ) -> Result<Response<CheckQuotaResponse>, Status> {
        let CheckQuotaRequest { user_id: user, resource } = request.into_inner();
        let quota = async {
            user_id(&user)?;
            usage::check(&self.0, &user, &resource).await
        };
        answer(quota.await)
    }

    async fn record_usage(
        &self,
        request: Request<RecordUsageRequest>,
    ) -> Result<Response<RecordUsageResponse>, Status> {
        let request = request.into_inner();
        let recorded = async {
            user_id(&request.user_id)?;
            usage::record(&self.0, request).await
        };
        answer(recorded.await.map(|()| RecordUsageResponse {}))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        let reserved = async {
            user_id(&request.get_ref().user_id)?;
            usage::reserve(&self.0, request.get_ref()).await
        };
        answer(reserved.await)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        answer(usage::renew(&self.0.pool, request.get_ref()).await.map(|()| RenewResponse {}))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let CommitRequest { user_id, idempotency_key } = request.into_inner();
        answer(usage::commit(&self.0.lane, &user_id, &idempotency_key).await.map(|()| CommitResponse {}))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let ReleaseRequest { user_id, idempotency_key } = request.into_inner();
        answer(usage::release(&self.0.lane, &user_id, &idempotency_key).await.map(|()| ReleaseResponse {}))
    }

    async fn report_usage(
        &self,
        request: Request<ReportUsageRequest>,
    ) -> Result<Response<ReportUsageResponse>, Status> {
        let reported = async {
            user_id(&request.get_ref().user_id)?;
            usage::report(&self.0, request.get_ref()).await
        };
        answer(reported.await.map(|()| ReportUsageResponse {}))
    }

    async fn list_usage_days(
        &self,
        request: Request<ListUsageDaysRequest>,
    ) -> Result<Response<ListUsageDaysResponse>, Status> {
        let days = async {
            user_id(&request.get_ref().user_id)?;
            usage::days::list(&self.0, request.get_ref()).await
        };
        answer(days.await)
    }
}
