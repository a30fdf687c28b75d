//! The parts that the crate `simulation` runs on a simulated network. Nothing else may use them from outside.

pub use crate::outbox::{BATCH, Outbox, Relay, Row};
