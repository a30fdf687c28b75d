//! The gRPC services: parse → call → encode.

mod billing;
mod idempotency;
mod subscriptions;
mod usage;

use contract::subscription::billing_service_server::BillingServiceServer;
use contract::subscription::idempotency_service_server::IdempotencyServiceServer;
use contract::subscription::subscription_service_server::SubscriptionServiceServer;
use contract::subscription::usage_service_server::UsageServiceServer;
use tonic::service::Routes;

use crate::service::Service;

pub use billing::Billing;
pub use idempotency::Idempotency;
pub use subscriptions::Subscriptions;
pub use usage::Usage;

/// All services of the process.
pub fn services(service: &Service) -> Routes {
    Routes::new(SubscriptionServiceServer::new(Subscriptions(service.clone())))
        .add_service(BillingServiceServer::new(Billing(service.clone())))
        .add_service(UsageServiceServer::new(Usage(service.clone())))
        .add_service(IdempotencyServiceServer::new(Idempotency(service.clone())))
}
