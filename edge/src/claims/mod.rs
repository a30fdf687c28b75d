//! Who calls: the bearer token, and the live claims that overrule what it says.

mod caller;
mod live;
mod sights;
mod watch;

pub use caller::{Admin, Authenticator, Caller, Intent, bearer, now};
pub use live::{Freshness, LiveClaims, Staleness};
pub use sights::{Sights, tell};
pub use watch::{housekeeping, watch};
