//! Snapshots of all events that still matter, each part of which is read once for all who ask at the same time: after a
//! restart every edge comes back at once, and a thousand that each read the whole table would find no end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::mysql::in_time;
use contract::Outcome;
use contract::identity::{AuthEvent, Position, Snapshot as Part};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::events::{BATCH, Log};

/// The longest that reading a part may take.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long a part is kept for others. What it says never changes; some of it may no longer matter.
const KEPT: Duration = Duration::from_secs(5);
/// Most parts that are kept: about 40 MiB.
const MOST: usize = 64;

/// Events of an epoch after one number, up to another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Range {
    epoch: String,
    after: i64,
    upto: i64,
}

struct Shared {
    since: Instant,
    events: Arc<OnceCell<Vec<AuthEvent>>>,
}

/// The source of snapshots. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots<L> {
    log: L,
    parts: Arc<Mutex<HashMap<Range, Shared>>>,
}

/// All events that still matter, part by part: there may be a million.
pub struct Snapshot<L> {
    source: Snapshots<L>,
    /// What it leads up to.
    position: Position,
    /// Up to where it has been read.
    read: i64,
}

impl<L: Log> Snapshots<L> {
    pub fn new(log: L) -> Self {
        Snapshots { log, parts: Arc::default() }
    }

    /// Begins one.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn begin(&self) -> Outcome<Snapshot<L>> {
        let (position, first) = in_time(READ_LIMIT, self.log.ends()).await?;
        let first = first.unwrap_or(position.sequence);
        Ok(Snapshot { source: self.clone(), position, read: (first - 1).max(0) })
    }

    /// The events of a range, read by whoever comes first while the others wait.
    async fn events(&self, range: Range) -> Outcome<Vec<AuthEvent>> {
        let shared = self.share(&range);
        let Range { epoch, after, upto } = &range;
        let read = || in_time(READ_LIMIT, self.log.mattering(epoch, *after, *upto));
        Ok(shared.get_or_try_init(read).await?.clone())
    }

    fn share(&self, range: &Range) -> Arc<OnceCell<Vec<AuthEvent>>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|_, shared| shared.since.elapsed() < KEPT);
        if let Some(shared) = parts.get(range) {
            return shared.events.clone();
        }
        let events = Arc::<OnceCell<_>>::default();
        if parts.len() < MOST {
            parts.insert(range.clone(), Shared { since: Instant::now(), events: events.clone() });
        }
        events
    }
}

impl<L: Log> Snapshot<L> {
    /// What it leads up to.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The next part; the last one says that it is.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn part(&mut self) -> Outcome<Part> {
        loop {
            // Parts end at the same numbers for all, so that they can be shared.
            let upto = ((self.read / BATCH + 1) * BATCH).min(self.position.sequence);
            let epoch = self.position.epoch.clone();
            let events = self.source.events(Range { epoch, after: self.read, upto }).await?;
            self.read = upto;
            let more = upto < self.position.sequence;
            // What was swept in the middle is no part.
            if !more || !events.is_empty() {
                return Ok(Part { position: Some(self.position.clone()), events, more });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
    use sqlx::{AssertSqlSafe, MySqlPool};

    use super::*;

    /// On one connection, whose own count of statements is then everybody's.
    #[sqlx::test(migrations = "./migrations")]
    async fn the_table_is_read_once_for_all_edges_that_come_at_once(
        _: MySqlPoolOptions,
        options: MySqlConnectOptions,
    ) {
        const EDGES: usize = 300;
        const EVENTS: i64 = 2500;
        let pool = MySqlPoolOptions::new().max_connections(1).connect_with(options).await.expect("a pool");
        let rows: Vec<_> = (1..=EVENTS)
            .map(|sequence| {
                format!(
                    r#"({sequence}, 'session_ended', 'u', '{{"kind":"session_ended","session_id":"s{sequence}"}}',
                        UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL 1 HOUR)"#
                )
            })
            .collect();
        let insert = format!("INSERT INTO auth_events VALUES {}", rows.join(", "));
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&pool).await.expect("filled");
        sqlx::query("UPDATE auth_sequence SET last_sequence = ?")
            .bind(EVENTS)
            .execute(&pool)
            .await
            .expect("set");

        let source = Snapshots::new(pool.clone());
        let before = selects(&pool).await;
        let edges: Vec<_> = (0..EDGES).map(|_| tokio::spawn(whole(source.clone()))).collect();
        for edge in edges {
            assert_eq!(edge.await.expect("an edge"), EVENTS);
        }
        // Each edge asks for the two ends; the three parts are read once.
        let read = selects(&pool).await - before - 2 * EDGES as i64;
        assert!((3..=5).contains(&read), "{read} statements for the parts");
    }

    /// How many events a snapshot has, each after the one before.
    async fn whole(source: Snapshots<MySqlPool>) -> i64 {
        let (mut snapshot, mut last) = (source.begin().await.expect("begun"), 0);
        loop {
            let part = snapshot.part().await.expect("a part");
            for event in &part.events {
                last += 1;
                assert_eq!(event.position.as_ref().map(|position| position.sequence), Some(last));
            }
            if !part.more {
                return last;
            }
        }
    }

    async fn selects(pool: &MySqlPool) -> i64 {
        let (_, count): (String, String) =
            sqlx::query_as("SHOW SESSION STATUS LIKE 'Com_select'").fetch_one(pool).await.expect("a count");
        count.parse().expect("a number")
    }
}
