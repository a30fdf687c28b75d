//! The parts that the crate `simulation` runs on a simulated network. Nothing else may use them from outside.

pub use crate::events::{BATCH, Log};
pub use crate::holders::Holders;
pub use crate::keys::{Keys, Settings, configured};
pub use crate::tail::Tail;
pub use crate::watching::Watching;
