//! A sandbox for end-to-end tests: the real processes on a real database and real sockets. Only core-manager and
//! Stripe are stand-ins.

mod authority;
mod backup;
mod client;
mod clocks;
mod collector;
mod gate;
mod mail;
mod metrics;
mod process;
mod redis;
mod sandbox;
mod socket;
mod stripe;

pub use authority::{Authority, Certificates};
pub use backup::Backup;
pub use client::{Client, Reply, raw};
pub use clocks::Clocks;
pub use collector::{Collector, Traced};
pub use gate::Gate;
pub use mail::{Mail, RESET_PAGE, VERIFY_PAGE, token_in};
pub use metrics::{Documented, Exported, documented_metrics};
pub use process::{Ended, Process};
pub use redis::Redis;
pub use sandbox::{INTERNAL_TOKEN, JWT_SECRET, Plan, Sandbox, User, local, until};
pub use socket::Socket;
pub use stripe::{FakeStripe, Mood, StripeEvent, WEBHOOK_SECRET};
