use std::time::Duration;

use chassis::clock::now;
use sqlx::MySqlPool;

use crate::sweep;

/// How long a session that is over, and a refresh token that was spent, are kept: so long does presenting a copy of
/// the token still end the session.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes what is long over, in small steps, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    let tokens = sweep::sweep(pool.clone(), "spent refresh tokens", |connection| {
        let old = sqlx::query!("DELETE FROM refresh_tokens WHERE spent_at < ? LIMIT 1000", now() - KEPT);
        Box::pin(old.execute(connection))
    });
    let ended = sweep::sweep(pool.clone(), "ended sessions", |connection| {
        let old = sqlx::query!("DELETE FROM sessions WHERE ended_at < ? LIMIT 1000", now() - KEPT);
        Box::pin(old.execute(connection))
    });
    let expired = sweep::sweep(pool, "expired sessions", |connection| {
        let old = sqlx::query!("DELETE FROM sessions WHERE expires_at < ? LIMIT 1000", now() - KEPT);
        Box::pin(old.execute(connection))
    });
    tokio::join!(tokens, ended, expired);
}
