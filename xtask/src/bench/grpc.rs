//! The internal plane: what a service can answer with one core.

use std::net::SocketAddr;
use std::time::Duration;

use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::user_service_client::UserServiceClient;
use contract::identity::{GetUserRequest, ValidateTokenRequest};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::accounts::register;
use super::cpu::move_to;
use super::http_load::repeat;
use super::report::{GET_USER, VALIDATE, median};
use super::stage::Stage;
use crate::Outcome;

/// Calls at once, over a few connections.
const AT_ONCE: usize = 64;
const CONNECTIONS: usize = 4;

/// A connection that carries the internal token.
pub type Plane = InterceptedService<Channel, Bearer>;

/// Adds the internal token to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects to a service.
pub async fn plane(address: SocketAddr, token: &str) -> Outcome<Plane> {
    with_token(endpoint(address)?.connect().await?, token)
}

/// Connects to a service when it is called, and again whenever the connection is lost.
pub fn lazy_plane(address: SocketAddr, token: &str) -> Outcome<Plane> {
    with_token(endpoint(address)?.connect_timeout(Duration::from_secs(1)).connect_lazy(), token)
}

fn endpoint(address: SocketAddr) -> Outcome<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true))
}

fn with_token(channel: Channel, token: &str) -> Outcome<Plane> {
    Ok(InterceptedService::new(channel, Bearer(format!("Bearer {token}").parse()?)))
}

/// ValidateToken and GetUser, as many as identity-svc can answer: calls divided by its CPU seconds.
pub async fn run(stage: &mut Stage) -> Outcome {
    let edge = stage.edge("edge-grpc", &[stage.cores.load], &[]).await?;
    let users = register(&edge.authority(), AT_ONCE).await?;
    edge.stop().await?;
    let mut planes = Vec::new();
    for _ in 0..CONNECTIONS {
        planes.push(plane(stage.identity.address, &stage.plan.internal_token).await?);
    }
    let plane_of = |place: usize| planes[place % CONNECTIONS].clone();
    let mut validators: Vec<_> = (users.iter().enumerate())
        .map(|(place, user)| (AuthServiceClient::new(plane_of(place)), user.token.clone()))
        .collect();
    let mut readers: Vec<_> = (users.iter().enumerate())
        .map(|(place, user)| (UserServiceClient::new(plane_of(place)), user.user_id.clone()))
        .collect();
    move_to(stage.identity.pid, stage.cores.tested)?;
    let length = Duration::from_secs(stage.choose(4, 1));
    let (mut validated, mut read) = (Vec::new(), Vec::new());
    for round in 0..stage.choose(5, 1) {
        let (shared, others) =
            (tokio::sync::Mutex::new(&mut validators), tokio::sync::Mutex::new(&mut readers));
        let title = format!("gRPC, round {}", round + 1);
        let both = async || {
            let before = stage.identity.cpu_seconds()?;
            let (validations, _) =
                repeat(&mut shared.lock().await, length, async |(client, access_token)| {
                    let request = ValidateTokenRequest { access_token: access_token.clone() };
                    Ok(client.validate_token(request).await.map(drop)?)
                })
                .await?;
            let between = stage.identity.cpu_seconds()?;
            let (reads, _) = repeat(&mut others.lock().await, length, async |(client, user_id)| {
                let request = GetUserRequest { user_id: user_id.clone() };
                Ok(client.get_user(request).await.map(drop)?)
            })
            .await?;
            Ok((validations / (between - before), reads / (stage.identity.cpu_seconds()? - between)))
        };
        let (validations, reads) = stage.referee.round(&title, both).await?;
        println!("  {title}: ValidateToken {validations:.0}, GetUser {reads:.0} a second and core");
        validated.push(validations);
        read.push(reads);
    }
    stage.report.add(VALIDATE, median(&validated));
    stage.report.add(GET_USER, median(&read));
    move_to(stage.identity.pid, stage.cores.load)
}
