//! The services of ours that the edge calls.

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

/// The names of our services, in health and in error details.
pub const IDENTITY: &str = "identity-svc";
pub const SUBSCRIPTION: &str = "subscription-svc";

/// How long a call that a request waits for may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Clients of our services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    identity: InternalChannel,
    subscription: InternalChannel,
}

impl Services {
    pub fn connect(identity: &[Uri], subscription: &[Uri], internal: &grpc::Settings) -> Self {
        Services::over(channel(identity, internal), channel(subscription, internal))
    }

    /// Over channels that are made already.
    pub fn over(identity: InternalChannel, subscription: InternalChannel) -> Self {
        Services { identity, subscription }
    }

    pub fn identity_channel(&self) -> InternalChannel {
        self.identity.clone()
    }

    pub fn subscription_channel(&self) -> InternalChannel {
        self.subscription.clone()
    }

    pub fn auth(&self) -> AuthServiceClient<InternalChannel> {
        AuthServiceClient::new(self.identity.clone())
    }

    pub fn api_keys(&self) -> ApiKeyServiceClient<InternalChannel> {
        ApiKeyServiceClient::new(self.identity.clone())
    }

    pub fn users(&self) -> UserServiceClient<InternalChannel> {
        UserServiceClient::new(self.identity.clone())
    }

    pub fn admin(&self) -> AdminServiceClient<InternalChannel> {
        AdminServiceClient::new(self.identity.clone())
    }

    pub fn projects(&self) -> ProjectServiceClient<InternalChannel> {
        ProjectServiceClient::new(self.identity.clone())
    }

    pub fn subscriptions(&self) -> SubscriptionServiceClient<InternalChannel> {
        SubscriptionServiceClient::new(self.subscription.clone())
    }

    pub fn billing(&self) -> BillingServiceClient<InternalChannel> {
        BillingServiceClient::new(self.subscription.clone())
    }

    pub fn idempotency(&self) -> IdempotencyServiceClient<InternalChannel> {
        IdempotencyServiceClient::new(self.subscription.clone())
    }

    pub fn usage(&self) -> UsageServiceClient<InternalChannel> {
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
    /// A call that a request causes: it carries the request's ids and a deadline.
    pub fn call<T>(&self, message: T) -> Request<T> {
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
