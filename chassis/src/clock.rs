//! The time, to the microsecond that the tables hold.

use chrono::{DateTime, SubsecRound, Utc};
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
