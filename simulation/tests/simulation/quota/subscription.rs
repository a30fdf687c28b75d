//! A replica of subscription-svc, as far as reservations are concerned: its statements on the model of its tables.

use std::time::Duration;

use contract::subscription::usage_service_server::{UsageService, UsageServiceServer};
use contract::subscription::*;
use contract::{ErrorCode, Failure, Outcome};
use simulation::quota::{Reserved, State};
use tokio::time::sleep;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::World;
use crate::network;

/// How often what has expired is looked for, as in `sweep.rs`.
const SWEEP: Duration = Duration::from_secs(2);

struct Usage {
    world: World,
    place: usize,
}

/// Serves for as long as the process lives.
pub async fn run(world: World, place: usize) -> turmoil::Result {
    tokio::spawn(sweep(world.clone(), place));
    network::serve(Routes::new(UsageServiceServer::new(Usage { world, place }))).await
}

async fn sweep(world: World, place: usize) {
    loop {
        sleep(SWEEP).await;
        if world.statement(place).await.is_ok() {
            let mut shared = world.lock();
            let now = shared.now.as_millis() as i64;
            shared.quotas.values_mut().for_each(|quota| quota.expire(now));
        }
    }
}

impl Usage {
    async fn take(&self, request: ReserveRequest) -> Outcome<ReserveResponse> {
        self.world.statement(self.place).await?;
        let reserved = {
            let mut shared = self.world.lock();
            let expires_at = shared.now.as_millis() as i64 + 1000 * i64::from(request.ttl_seconds);
            let quota = shared.quotas.get_mut(&request.user_id).ok_or_else(unknown)?;
            quota.reserve(&request.idempotency_key, expires_at)
        };
        // The answer may be lost.
        self.world.statement(self.place).await?;
        match reserved {
            Reserved::New => Ok(ReserveResponse::default()),
            Reserved::Known(state) => Ok(ReserveResponse { repeated: state.name().to_owned() }),
            Reserved::Refused => Err(Failure::new(ErrorCode::QuotaExceeded)),
        }
    }

    async fn keep(&self, request: RenewRequest) -> Outcome<()> {
        self.world.statement(self.place).await?;
        let mut shared = self.world.lock();
        let expires_at = shared.now.as_millis() as i64 + 1000 * i64::from(request.ttl_seconds);
        let quota = shared.quotas.get_mut(&request.user_id).ok_or_else(unknown)?;
        if quota.renew(&request.idempotency_key, expires_at) { Ok(()) } else { Err(unknown()) }
    }

    async fn count(&self, CommitRequest { user_id, idempotency_key }: CommitRequest) -> Outcome<()> {
        self.world.statement(self.place).await?;
        {
            let mut shared = self.world.lock();
            let now = shared.now;
            let quota = shared.quotas.get_mut(&user_id).ok_or_else(unknown)?;
            let before = quota.state(&idempotency_key);
            quota.commit(&idempotency_key).map_err(|_| unknown())?;
            shared.history.note(now, format!("{idempotency_key} is committed after {before:?}"));
            if before == Some(State::Released) {
                *shared.late.entry(user_id).or_default() += 1;
            }
        }
        self.world.statement(self.place).await
    }

    async fn give_back(&self, ReleaseRequest { user_id, idempotency_key }: ReleaseRequest) -> Outcome<()> {
        self.world.statement(self.place).await?;
        {
            let mut shared = self.world.lock();
            let now = shared.now;
            let quota = shared.quotas.get_mut(&user_id).ok_or_else(unknown)?;
            quota.release(&idempotency_key).map_err(|_| unknown())?;
            shared.history.note(now, format!("{idempotency_key} is released"));
        }
        self.world.statement(self.place).await
    }
}

fn unknown() -> Failure {
    Failure::field("idempotency_key", "was never reserved")
}

#[tonic::async_trait]
impl UsageService for Usage {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        chassis::grpc::answer(self.take(request.into_inner()).await)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        chassis::grpc::answer(self.keep(request.into_inner()).await.map(|()| RenewResponse {}))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        chassis::grpc::answer(self.count(request.into_inner()).await.map(|()| CommitResponse {}))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        chassis::grpc::answer(self.give_back(request.into_inner()).await.map(|()| ReleaseResponse {}))
    }

    unused! {
        get_usage: GetUsageRequest => GetUsageResponse,
        check_quota: CheckQuotaRequest => CheckQuotaResponse,
        record_usage: RecordUsageRequest => RecordUsageResponse,
        report_usage: ReportUsageRequest => ReportUsageResponse,
        list_usage_days: ListUsageDaysRequest => ListUsageDaysResponse,
    }
}
