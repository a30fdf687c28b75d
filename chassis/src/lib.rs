//! What every process of the platform needs to run, and nothing about users: settings, logs, traces, gRPC, health, the
//! internal listener, drain, the MySQL pool.

pub mod clock;
pub mod descriptors;
pub mod drain;
pub mod grpc;
pub mod health;
pub mod internal;
pub mod listener;
pub mod logs;
pub mod memory;
pub mod mysql;
pub mod settings;
pub mod traces;

/// The version that health answers and logs carry.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
