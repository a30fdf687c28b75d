//! Every account has a subscription, also one that was imported or made on the command line and never looked at its
//! own: identity-svc tells of new accounts until it hears that they are known.

use std::time::Duration;

use chassis::grpc::InternalChannel;
use contract::identity::ExchangeNewcomersRequest;
use contract::identity::user_service_client::UserServiceClient;
use contract::{Failure, Outcome};

use crate::service::{IDENTITY, Service};
use crate::subscriptions;

/// How often identity-svc is asked when it has told of all.
const INTERVAL: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for as long as the process lives. Every replica may: there is one subscription of a user, whoever makes it.
pub async fn run(service: Service) {
    let mut reported = false;
    loop {
        let outcome = welcome_all(&service).await;
        if let Err(failure) = &outcome
            && !reported
        {
            tracing::warn!(cause = ?failure.cause(), "new accounts wait for their subscription: {failure}");
        }
        reported = outcome.is_err();
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Gives a subscription to each account of which identity-svc does not know that it has one.
///
/// # Errors
/// GW001 when identity-svc or the database is away.
pub async fn welcome_all(service: &Service) -> Outcome<()> {
    let mut known = Vec::new();
    loop {
        let newcomers = exchange(&service.identity, known).await?;
        if newcomers.is_empty() {
            return Ok(());
        }
        subscriptions::welcome(&service.pool, &newcomers).await?;
        known = newcomers;
    }
}

async fn exchange(identity: &InternalChannel, known_user_ids: Vec<String>) -> Outcome<Vec<String>> {
    let mut request = tonic::Request::new(ExchangeNewcomersRequest { known_user_ids });
    request.set_timeout(CALL_TIMEOUT);
    let answer = UserServiceClient::new(identity.clone()).exchange_newcomers(request).await;
    answer.map(|answer| answer.into_inner().user_ids).map_err(|status| Failure::from_status(status, IDENTITY))
}
