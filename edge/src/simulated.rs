//! The parts that the crate `simulation` runs on a simulated network. Nothing else may use them from outside.

pub use crate::claims::{
    Authenticator, Caller, Enforcement, Freshness, Intent, KeySettings, LiveClaims, Sights, Staleness, Watch,
    enforcement,
};
pub use crate::front::RequestContext;
pub use crate::gateway::quota::{Reservation, Reserved, reserve};
pub use crate::hot_path::context;
pub use crate::rate::{Limits, RateLimiter};
pub use crate::services::Services;
