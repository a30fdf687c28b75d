//! The time, to the microsecond that the tables hold.

use std::ops::RangeInclusive;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use sqlx::MySqlConnection;

/// Now, as a DATETIME(6) can hold it.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Now, by the clock of the database, which all processes share.
///
/// # Errors
/// When the database is away.
pub async fn shared(connection: &mut MySqlConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("SELECT UTC_TIMESTAMP(6)").fetch_one(connection).await
}

/// Now, by our own clock or the database's, whichever is behind: what is over by it is over by both, and may be removed
/// for good though one of them be ahead.
///
/// # Errors
/// When the database is away.
pub async fn agreed(connection: &mut MySqlConnection) -> sqlx::Result<DateTime<Utc>> {
    shared(connection).await.map(agreed_with)
}

/// As [`agreed`], where the database has just said what its clock is.
pub fn agreed_with(shared: DateTime<Utc>) -> DateTime<Utc> {
    shared.min(now())
}

/// How far the clock of the database is ahead of ours, when it was asked and had answered in this time; below nought when it
/// is behind.
pub fn ahead(ours: RangeInclusive<DateTime<Utc>>, shared: DateTime<Utc>) -> TimeDelta {
    shared - shared.clamp(*ours.start(), *ours.end().max(ours.start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_by_what_the_way_to_it_does_not_explain() {
        let asked = now();
        let after = |milliseconds| asked + TimeDelta::milliseconds(milliseconds);
        for (shared, expected) in [(0, 0), (700, 0), (1000, 0), (1500, 500), (-2000, -2000)] {
            assert_eq!(ahead(asked..=after(1000), after(shared)).num_milliseconds(), expected, "{shared}");
        }
        assert_eq!(ahead(asked..=after(-5), asked), TimeDelta::zero(), "ours was set back meanwhile");
    }
}
