//! Who calls: the bearer token, and the live claims that overrule what it says.

mod caller;
mod live;
mod watch;

pub use caller::{Admin, Authenticator, Caller, bearer, now};
pub use live::LiveClaims;
pub use watch::watch;
