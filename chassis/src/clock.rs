//! The time, to the microsecond that the tables hold.

use chrono::{DateTime, SubsecRound, Utc};

/// Now, as a DATETIME(6) can hold it.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
