//! When edges began to enforce what: for the audit log, and to know who is alive when keys rotate; and how they are. What
//! all edges report in a second is written together, so that the database does not notice how many edges there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::{failed, in_time, transaction};
use chrono::{DateTime, Utc};
use contract::identity::{EdgeState, ReportEnforcementRequest};
use contract::{EDGE_NAME_RULE, Failure, Outcome, from_timestamp, is_edge_name};
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};

use crate::{edges, keys, sweep};

/// How long the times are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const MAX_RANGES: usize = 1000;
const MAX_KEYS: usize = 100;
/// How long reports are gathered.
const GATHERED: Duration = Duration::from_secs(1);
/// The longest that writing it may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Most that are gathered of each kind; what finds no room is reported again, or is no loss to what is enforced.
const MOST: usize = 20_000;
/// Rows that one statement writes.
const WRITTEN_AT_ONCE: usize = 500;

/// What edges have reported and is not written yet. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Gathered>>);

#[derive(Default)]
struct Gathered {
    /// By the first and the last event of a range.
    begun: BTreeMap<(i64, i64), Begun>,
    /// The keys of each edge.
    holders: BTreeMap<String, Vec<String>>,
    /// How each edge is.
    states: BTreeMap<String, EdgeState>,
}

/// Edges that began to enforce a range, and the last of them.
struct Begun {
    edges: i32,
    last_edge: String,
    at: DateTime<Utc>,
}

impl Reports {
    /// Takes what an edge reports.
    ///
    /// # Errors
    /// REQ001.
    pub fn take(&self, report: ReportEnforcementRequest) -> Outcome<()> {
        if !is_edge_name(&report.edge) {
            return Err(Failure::field("edge", EDGE_NAME_RULE));
        }
        if report.enforced.len() > MAX_RANGES || report.key_ids.len() > MAX_KEYS {
            return Err(Failure::field(
                "enforced",
                format!("must be at most {MAX_RANGES}, with {MAX_KEYS} keys"),
            ));
        }
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for range in report.enforced {
            let at = range.at.and_then(from_timestamp).unwrap_or_else(now);
            gathered.began((range.first_sequence, range.last_sequence), &report.edge, at);
        }
        if gathered.holders.len() < MOST || gathered.holders.contains_key(&report.edge) {
            if let Some(state) = report.state {
                gathered.states.insert(report.edge.clone(), state);
            }
            gathered.holders.insert(report.edge, report.key_ids);
        }
        Ok(())
    }

    /// Writes what has gathered, once a second, for as long as the process lives. What could not be written is lost:
    /// it tells of what is enforced, and decides nothing; that an edge is alive comes again within seconds.
    pub async fn keep(self, pool: MySqlPool) {
        loop {
            tokio::time::sleep(GATHERED).await;
            let gathered = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if let Err(failure) = in_time(WRITE_LIMIT, gathered.write(&pool)).await {
                tracing::warn!(cause = ?failure.cause(), "what edges enforce could not be kept: {failure}");
            }
        }
    }
}

impl Gathered {
    fn began(&mut self, range: (i64, i64), edge: &str, at: DateTime<Utc>) {
        if let Some(begun) = self.begun.get_mut(&range) {
            begun.edges += 1;
            if at > begun.at {
                (begun.last_edge, begun.at) = (edge.to_owned(), at);
            }
        } else if self.begun.len() < MOST {
            self.begun.insert(range, Begun { edges: 1, last_edge: edge.to_owned(), at });
        }
    }

    async fn write(&self, pool: &MySqlPool) -> Outcome<()> {
        if !self.begun.is_empty() {
            transaction(pool, "note_enforcement", &self.begun, |tx, begun| Box::pin(note(tx, begun))).await?;
        }
        keys::hold(pool, &self.holders).await?;
        edges::note(pool, &self.states).await
    }
}

async fn note(tx: &mut MySqlConnection, begun: &BTreeMap<(i64, i64), Begun>) -> Outcome<()> {
    let mut rows = begun.iter().peekable();
    while rows.peek().is_some() {
        let mut statement = QueryBuilder::<MySql>::new(
            "INSERT INTO enforcements (edge, last_sequence, first_sequence, at, edges) ",
        );
        statement.push_values(rows.by_ref().take(WRITTEN_AT_ONCE), |mut row, ((first, last), begun)| {
            row.push_bind(&begun.last_edge).push_bind(last).push_bind(first);
            row.push_bind(begun.at).push_bind(begun.edges);
        });
        statement.push(
            " ON DUPLICATE KEY UPDATE first_sequence = LEAST(first_sequence, VALUES(first_sequence)),
                                      edges = edges + VALUES(edges)",
        );
        statement.build().execute(&mut *tx).await.map_err(failed)?;
    }
    Ok(())
}

/// Removes what is too old, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old times of enforcement", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM enforcements WHERE at < ? LIMIT 1000", now - KEPT);
    Box::pin(old.execute(connection))
}

#[cfg(test)]
mod tests {
    use contract::identity::Enforced;
    use contract::to_timestamp;

    use super::*;

    #[sqlx::test(migrations = "./migrations")]
    async fn what_a_thousand_edges_report_of_an_event_is_one_row_that_names_the_last(pool: MySqlPool) {
        let (reports, start) = (Reports::default(), now());
        for number in 0..1000 {
            let late = Duration::from_millis(if number == 7 { 5000 } else { number });
            let at = Some(to_timestamp(start + late));
            reports
                .take(ReportEnforcementRequest {
                    edge: format!("edge-{number}"),
                    key_ids: vec![String::new()],
                    enforced: vec![Enforced { first_sequence: 3, last_sequence: 3, at }],
                    state: Some(EdgeState { open_sockets: number as i64, ..EdgeState::default() }),
                })
                .expect("taken");
        }
        let gathered = std::mem::take(&mut *reports.0.lock().expect("no panic"));
        gathered.write(&pool).await.expect("written");
        let rows: Vec<(String, i64, i32)> =
            sqlx::query_as("SELECT edge, first_sequence, edges FROM enforcements")
                .fetch_all(&pool)
                .await
                .expect("rows");
        assert_eq!(rows, [("edge-7".to_owned(), 3, 1000)]);
        let alive: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM key_holders").fetch_one(&pool).await.expect("a count");
        assert_eq!(alive, 1000, "each edge counts as alive by itself");
        let sockets: i64 = sqlx::query_scalar("SELECT CAST(SUM(open_sockets) AS SIGNED) FROM edges")
            .fetch_one(&pool)
            .await
            .expect("a sum");
        assert_eq!(sockets, 999 * 1000 / 2, "each edge tells how it is by itself");
    }
}
