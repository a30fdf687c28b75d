//! What all slices work with.

use chassis::grpc::InternalChannel;
use contract::{Failure, NOT_AN_ID, Outcome, is_canonical_id};
use sqlx::MySqlPool;

use crate::outbox::Relay;

/// The name of identity-svc, in health and in error details.
pub const IDENTITY: &str = "identity-svc";

/// The state of the process. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub pool: MySqlPool,
    pub identity: InternalChannel,
    pub relay: Relay,
}

/// Checks that a request's `user_id` is in the one form that tables hold.
///
/// # Errors
/// REQ001.
pub fn user_id(text: &str) -> Outcome<()> {
    if is_canonical_id(text) { Ok(()) } else { Err(Failure::field("user_id", NOT_AN_ID)) }
}
