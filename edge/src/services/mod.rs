//! The services of ours that the edge calls.

mod lane;

use std::time::Duration;

use chassis::grpc::{self, InternalChannel, REQUEST_ID, channel};
use contract::identity::admin_service_client::AdminServiceClient;
use contract::identity::api_key_service_client::ApiKeyServiceClient;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::project_service_client::ProjectServiceClient;
use contract::identity::user_service_client::UserServiceClient;
use contract::subscription::billing_service_client::BillingServiceClient;
use contract::subscription::idempotency_service_client::IdempotencyServiceClient;
use contract::subscription::subscription_service_client::SubscriptionServiceClient;
use contract::subscription::usage_service_client::UsageServiceClient;
use contract::{Failure, Outcome};
use http::Uri;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::front::RequestContext;
use crate::places::Slot;
use lane::{Lane, Whose};

/// The names of our services, in health and in error details.
pub const IDENTITY: &str = "identity-svc";
pub const SUBSCRIPTION: &str = "subscription-svc";

/// How long a call that a request waits for may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Clients of our services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    identity: Lane,
    subscription: Lane,
}

impl Services {
    pub fn connect(identity: &[Uri], subscription: &[Uri], internal: &grpc::Settings) -> Self {
        Services::over(channel(identity, internal), channel(subscription, internal))
    }

    /// Over channels that are made already.
    pub fn over(identity: InternalChannel, subscription: InternalChannel) -> Self {
        Services { identity: Lane::over(identity), subscription: Lane::over(subscription) }
    }

    pub fn identity_channel(&self) -> InternalChannel {
        self.identity.channel()
    }

    pub fn subscription_channel(&self) -> InternalChannel {
        self.subscription.channel()
    }

    pub fn auth(&self) -> AuthServiceClient<Lane> {
        AuthServiceClient::new(self.identity.clone())
    }

    pub fn api_keys(&self) -> ApiKeyServiceClient<Lane> {
        ApiKeyServiceClient::new(self.identity.clone())
    }

    pub fn users(&self) -> UserServiceClient<Lane> {
        UserServiceClient::new(self.identity.clone())
    }

    pub fn admin(&self) -> AdminServiceClient<Lane> {
        AdminServiceClient::new(self.identity.clone())
    }

    pub fn projects(&self) -> ProjectServiceClient<Lane> {
        ProjectServiceClient::new(self.identity.clone())
    }

    pub fn subscriptions(&self) -> SubscriptionServiceClient<Lane> {
        SubscriptionServiceClient::new(self.subscription.clone())
    }

    pub fn billing(&self) -> BillingServiceClient<Lane> {
        BillingServiceClient::new(self.subscription.clone())
    }

    pub fn idempotency(&self) -> IdempotencyServiceClient<Lane> {
        IdempotencyServiceClient::new(self.subscription.clone())
    }

    pub fn usage(&self) -> UsageServiceClient<Lane> {
        UsageServiceClient::new(self.subscription.clone())
    }
}

/// What identity-svc answered, or the failure that it stands for.
///
/// # Errors
/// The failure of the rule that refused, GW001 or GW002 when the service is away or slow.
pub fn from_identity<T>(answer: Result<Response<T>, Status>) -> Outcome<T> {
    answer.map(Response::into_inner).map_err(|status| Failure::from_status(status, IDENTITY))
}

/// What subscription-svc answered, or the failure that it stands for.
///
/// # Errors
/// As [`from_identity`].
pub fn from_subscription<T>(answer: Result<Response<T>, Status>) -> Outcome<T> {
    answer.map(Response::into_inner).map_err(|status| Failure::from_status(status, SUBSCRIPTION))
}

/// A part of an answer that a service of ours always sends.
///
/// # Errors
/// SRV001 when it is missing.
pub fn present<T>(part: Option<T>) -> Outcome<T> {
    part.ok_or_else(|| Failure::internal("a service of ours left out a part of its answer"))
}

impl RequestContext {
    /// A call that a request causes: it carries the request's ids and a deadline, and is counted for the caller, or for the
    /// client's address as long as nobody is known.
    pub fn call<T>(&self, message: T) -> Request<T> {
        let mut request = self.last_call(message);
        request.extensions_mut().insert(match self.caller() {
            Some(slot) => Whose::Person(slot),
            None => Whose::Stranger(Slot::of(&self.client().household())),
        });
        request
    }

    /// As [`call`](RequestContext::call), for one that tells what came of a request that was admitted: it is not refused for
    /// the sake of others.
    pub fn last_call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        let ids = [(REQUEST_ID, self.id_header()), ("traceparent", self.traceparent())];
        for (name, value) in ids {
            if let Ok(value) = MetadataValue::try_from(value.as_bytes()) {
                request.metadata_mut().insert(name, value);
            }
        }
        request
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A channel to a service that is not there.
    pub fn nowhere() -> InternalChannel {
        let settings = grpc::Settings::plain("0123456789abcdef0123456789abcdef".to_owned().into());
        channel(&["http://127.0.0.1:1".parse().expect("a URI")], &settings)
    }
}
