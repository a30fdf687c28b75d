//! Who calls: the bearer token or API key, and the live claims that overrule what it says.

mod api_keys;
mod caller;
mod live;
mod pace;
mod recent;
mod report;
mod rights;
mod sights;
mod watch;

pub use caller::{Admin, Authenticator, Caller, IdentityHeaders, Intent, Person, bearer, now};
pub use live::{Freshness, LiveClaims, Staleness};
pub use report::{Enforcement, Itself, enforcement};
pub use rights::Rights;
pub use sights::{Sights, tell};
pub use watch::{KeySettings, Watch, housekeeping, jitter};
