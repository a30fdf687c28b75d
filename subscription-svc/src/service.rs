//! What all slices work with.

use chassis::grpc::InternalChannel;
use contract::{Failure, Outcome};
use sqlx::MySqlPool;
use uuid::Uuid;

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
    let mut buffer = Uuid::encode_buffer();
    let canonical = Uuid::try_parse(text).is_ok_and(|id| id.hyphenated().encode_lower(&mut buffer) == text);
    if canonical {
        Ok(())
    } else {
        Err(Failure::field("user_id", "must be a UUID in its canonical form"))
    }
}
