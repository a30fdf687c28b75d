use std::time::Duration;

use chassis::clock::now;
use sqlx::MySqlPool;

/// How long a session that is over, and a refresh token that was spent, are kept: so long does presenting a copy of
/// the token still end the session.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const INTERVAL: Duration = Duration::from_secs(60);
const BATCH: u64 = 1000;

/// Removes what is long over, in small steps, for as long as the process lives. Any number of replicas may do so at
/// once.
pub async fn sweep(pool: MySqlPool) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        for table in [Table::Tokens, Table::EndedSessions, Table::ExpiredSessions] {
            while let Ok(BATCH) = remove(&pool, table).await.inspect_err(|error| {
                tracing::warn!(%error, "old sessions were not removed");
            }) {}
        }
    }
}

#[derive(Clone, Copy)]
enum Table {
    Tokens,
    EndedSessions,
    ExpiredSessions,
}

async fn remove(pool: &MySqlPool, table: Table) -> sqlx::Result<u64> {
    let before = now() - KEPT;
    let done = match table {
        Table::Tokens => {
            sqlx::query!("DELETE FROM refresh_tokens WHERE spent_at < ? LIMIT 1000", before)
                .execute(pool)
                .await
        }
        Table::EndedSessions => {
            sqlx::query!("DELETE FROM sessions WHERE ended_at < ? LIMIT 1000", before).execute(pool).await
        }
        Table::ExpiredSessions => {
            sqlx::query!("DELETE FROM sessions WHERE expires_at < ? LIMIT 1000", before).execute(pool).await
        }
    };
    Ok(done?.rows_affected())
}
