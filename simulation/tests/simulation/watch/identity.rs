//! A replica of identity-svc: the real tail, snapshots and streams over the database of the run.

use std::pin::Pin;
use std::sync::Arc;

use chassis::grpc::answer;
use contract::identity::live_claims_service_server::{LiveClaimsService, LiveClaimsServiceServer};
use contract::identity::*;
use contract::token::Algorithm;
use contract::{ErrorCode, Failure, Outcome};
use identity_svc::simulated::{BATCH, Holders, Keys, Log, Settings, Tail, Watching, configured};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::world::{World, now, to_wire};
use crate::faults::{duration, statement};
use crate::network;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The database as one replica reaches it.
#[derive(Clone)]
pub struct Replica {
    world: World,
    place: usize,
}

impl Replica {
    /// One statement. What runs while the database is replaced fails.
    async fn statement(&self) -> Outcome<()> {
        let (time, generation) = {
            let mut shared = self.world.lock();
            (duration(&mut shared.random), shared.generation)
        };
        statement(time, || self.world.lock().faults.mode(self.place)).await?;
        if self.world.lock().generation == generation {
            Ok(())
        } else {
            Err(Failure::new(ErrorCode::Unavailable))
        }
    }

    fn end(&self) -> Position {
        let shared = self.world.lock();
        Position { epoch: shared.database.epoch.clone(), sequence: shared.database.last_sequence }
    }

    /// Whether it is still the database of this epoch, as one connection would be.
    fn must_be(&self, epoch: &str) -> Outcome<()> {
        if self.world.lock().database.epoch == epoch {
            Ok(())
        } else {
            Err(Failure::new(ErrorCode::Unavailable))
        }
    }
}

impl Log for Replica {
    async fn news(&self, known: Option<&Position>) -> Outcome<(Position, Vec<AuthEvent>)> {
        self.statement().await?;
        let end = self.end();
        let Some(known) = known.filter(|known| known.epoch == end.epoch && known.sequence < end.sequence)
        else {
            return Ok((end, Vec::new()));
        };
        self.statement().await?;
        self.must_be(&end.epoch)?;
        let rows = self.world.lock().database.after(known.sequence, BATCH as usize);
        Ok((end.clone(), rows.into_iter().map(|row| to_wire(row, &end.epoch)).collect()))
    }

    async fn ends(&self) -> Outcome<(Position, Option<i64>)> {
        self.statement().await?;
        let end = self.end();
        self.statement().await?;
        self.must_be(&end.epoch)?;
        let first = self.world.lock().database.events.keys().next().copied();
        Ok((end, first))
    }

    async fn mattering(&self, epoch: &str, after: i64, upto: i64) -> Outcome<Vec<AuthEvent>> {
        self.statement().await?;
        let rows = self.world.lock().database.mattering(after, upto, now().as_secs() as i64);
        Ok(rows.into_iter().map(|row| to_wire(row, epoch)).collect())
    }

    async fn start_over(&self, known: &Position) -> Outcome<bool> {
        self.statement().await?;
        let end = self.end();
        // A restored database has an epoch of its own here.
        assert!(known.epoch != end.epoch || known.sequence <= end.sequence, "{known:?} beyond {end:?}");
        Ok(false)
    }
}

/// Serves for as long as the process lives.
pub async fn run(world: World, place: usize) -> turmoil::Result {
    let log = Replica { world: world.clone(), place };
    let tail = Tail::new(Holders::new());
    tokio::spawn(tail.clone().follow(log.clone()));
    world.lock().tails[place] = Some(tail.clone());
    let settings = Settings {
        algorithm: Algorithm::Hs256,
        secrets: vec![SECRET.to_owned().into()],
        audience: "simulation".to_owned(),
    };
    let keys = watch::Sender::new(Arc::new(configured(&settings)?));
    let service = Identity { watching: Watching::new(log.clone(), tail), log, keys };
    network::serve(Routes::new(LiveClaimsServiceServer::new(service))).await
}

struct Identity {
    watching: Watching<Replica>,
    log: Replica,
    keys: watch::Sender<Arc<Keys>>,
}

impl Identity {
    /// As `sign_in::holder`.
    async fn holder(
        &self,
        CheckSessionRequest { user_id, session_id }: CheckSessionRequest,
    ) -> Outcome<AccountChanged> {
        self.log.statement().await?;
        let shared = self.log.world.lock();
        let account = shared.database.accounts.get(&user_id);
        let account = account.filter(|account| account.is_active && account.sessions.contains(&session_id));
        let account = account.ok_or_else(|| Failure::new(ErrorCode::TokenInvalid))?;
        Ok(AccountChanged {
            email: format!("{user_id}@example.com"),
            user_id,
            version: account.version,
            role: "user".to_owned(),
            tier: account.tier.clone(),
            permissions: Vec::new(),
        })
    }
}

#[tonic::async_trait]
impl LiveClaimsService for Identity {
    type WatchAuthEventsStream = Pin<Box<dyn Stream<Item = Result<WatchAuthEventsResponse, Status>> + Send>>;

    async fn watch_auth_events(
        &self,
        request: Request<WatchAuthEventsRequest>,
    ) -> Result<Response<Self::WatchAuthEventsStream>, Status> {
        let watched = self.watching.watch(request.into_inner().since, self.keys.subscribe()).await;
        let messages = answer(watched)?.into_inner();
        Ok(Response::new(Box::pin(messages)))
    }

    async fn report_enforcement(
        &self,
        _: Request<ReportEnforcementRequest>,
    ) -> Result<Response<ReportEnforcementResponse>, Status> {
        Ok(Response::new(ReportEnforcementResponse {}))
    }

    async fn check_session(
        &self,
        request: Request<CheckSessionRequest>,
    ) -> Result<Response<CheckSessionResponse>, Status> {
        let account = self.holder(request.into_inner()).await;
        answer(account.map(|account| CheckSessionResponse { account: Some(account) }))
    }
}
