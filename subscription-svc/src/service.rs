//! What all slices work with.

use std::sync::Arc;

use chassis::grpc::InternalChannel;
use chassis::mysql::Lane;
use chrono::TimeDelta;
use contract::{ErrorCode, Failure, NOT_AN_ID, Outcome, is_canonical_id};
use sqlx::MySqlPool;

use crate::billing::Billing;
use crate::outbox::Relay;

/// The name of identity-svc, in health and in error details.
pub const IDENTITY: &str = "identity-svc";

/// The state of the process. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub pool: MySqlPool,
    /// For reservations, which are many.
    pub lane: Lane,
    pub identity: InternalChannel,
    pub relay: Relay,
    /// None without the keys of Stripe.
    pub billing: Option<Arc<Billing>>,
    /// How long a late payment is forgiven.
    pub grace: TimeDelta,
}

impl Service {
    /// Stripe.
    ///
    /// # Errors
    /// SUB003 without its keys.
    pub fn billing(&self) -> Outcome<&Billing> {
        self.billing.as_deref().ok_or_else(|| Failure::new(ErrorCode::BillingNotConfigured))
    }
}

/// Checks that a request's `user_id` is in the one form that tables hold.
///
/// # Errors
/// REQ001.
pub fn user_id(text: &str) -> Outcome<()> {
    if is_canonical_id(text) { Ok(()) } else { Err(Failure::field("user_id", NOT_AN_ID)) }
}
