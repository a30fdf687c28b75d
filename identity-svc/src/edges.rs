//! How the edges are, for administrators. Each tells one replica of identity-svc or another every few seconds, so it is
//! the table that knows all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use chassis::mysql::{failed, write};
use chrono::{DateTime, Utc};
use contract::identity::{Edge, EdgeState, EnforcementTimes, ListEdgesResponse, Position};
use contract::{Outcome, from_timestamp, to_timestamp};
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};

use crate::administration::Actor;
use crate::audit::plain;
use crate::identity::Identity;
use crate::sweep;

/// An edge that has not told for this long has missed two turns and more. In microseconds, as the database counts.
const SILENT: i64 = 8_000_000;
/// An edge that has not told for this long is not listed any more. In microseconds.
const FORGOTTEN: i64 = 300_000_000;
/// How long its row is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Most edges of a list.
const MOST: i64 = 1000;
/// Rows that one statement writes.
const WRITTEN_AT_ONCE: usize = 500;

const MAX_VERSION: usize = 50;
const MAX_EPOCH: usize = 36;
const MAX_FRESHNESS: usize = 10;

/// Keeps what edges have told, by their names. In their order, so that replicas which write the same ones at once wait
/// for each other and do not deadlock.
///
/// # Errors
/// GW001 when the database is away.
pub async fn note(pool: &MySqlPool, told: &BTreeMap<String, EdgeState>) -> Outcome<()> {
    let mut told = told.iter().peekable();
    while told.peek().is_some() {
        let mut statement = QueryBuilder::<MySql>::new(
            "INSERT INTO edges (name, version, started_at, epoch, sequence, staleness_ms, freshness, live_entries,
                                open_sockets, enforced, last_ms, p50_ms, p99_ms, reported_at) ",
        );
        statement.push_values(told.by_ref().take(WRITTEN_AT_ONCE), |mut row, (name, state)| {
            let position = state.position.clone().unwrap_or_default();
            let times = state.times.unwrap_or_default();
            let started = state.started_at.and_then(from_timestamp).unwrap_or(DateTime::UNIX_EPOCH);
            row.push_bind(name).push_bind(plain(&state.version, MAX_VERSION)).push_bind(started);
            row.push_bind(plain(&position.epoch, MAX_EPOCH)).push_bind(position.sequence);
            row.push_bind(state.staleness_ms).push_bind(plain(&state.freshness, MAX_FRESHNESS));
            row.push_bind(state.live_entries).push_bind(state.open_sockets).push_bind(times.count);
            row.push_bind(time(times.last_ms)).push_bind(time(times.p50_ms)).push_bind(time(times.p99_ms));
            row.push("NOW(6)");
        });
        statement.push(" ON DUPLICATE KEY UPDATE reported_at = VALUES(reported_at)");
        for column in [
            "version",
            "started_at",
            "epoch",
            "sequence",
            "staleness_ms",
            "freshness",
            "live_entries",
            "open_sockets",
            "enforced",
            "last_ms",
            "p50_ms",
            "p99_ms",
        ] {
            statement.push(format_args!(", {column} = VALUES({column})"));
        }
        write(pool, statement.build()).await?;
    }
    Ok(())
}

/// A time that the table takes: no server stores what is no number.
fn time(milliseconds: f64) -> f64 {
    if milliseconds.is_finite() { milliseconds.max(0.0) } else { 0.0 }
}

/// The edges that have told lately, those that have fallen silent among them.
///
/// # Errors
/// AUTH004.
pub async fn list(identity: &Identity, actor: &Actor) -> Outcome<ListEdgesResponse> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    // The edges first: what is counted on meanwhile is beyond them, and never before them.
    let mut edges = read(&mut connection).await?;
    let head = sqlx::query!("SELECT epoch, last_sequence FROM auth_sequence WHERE id = 1")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    for edge in &mut edges {
        let position = edge.state.as_ref().and_then(|state| state.position.as_ref());
        let position = position.filter(|position| position.epoch == head.epoch);
        edge.behind = position.map(|position| (head.last_sequence - position.sequence).max(0));
    }
    Ok(ListEdgesResponse { edges, sequence: head.last_sequence })
}

async fn read(connection: &mut MySqlConnection) -> Outcome<Vec<Edge>> {
    let rows = sqlx::query!(
        r#"SELECT name, reported_at AS "reported_at: DateTime<Utc>", version, started_at AS "started_at: DateTime<Utc>",
                  epoch, sequence, staleness_ms, freshness, live_entries, open_sockets, enforced, last_ms, p50_ms, p99_ms,
                  TIMESTAMPDIFF(MICROSECOND, reported_at, NOW(6)) AS "silence!: i64"
           FROM edges WHERE reported_at > NOW(6) - INTERVAL ? MICROSECOND ORDER BY name LIMIT ?"#,
        FORGOTTEN,
        MOST
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(rows
        .into_iter()
        .map(|row| Edge {
            name: row.name,
            reported_at: Some(to_timestamp(row.reported_at)),
            is_silent: row.silence > SILENT,
            behind: None,
            state: Some(EdgeState {
                version: row.version,
                started_at: Some(to_timestamp(row.started_at)),
                position: Some(Position { epoch: row.epoch, sequence: row.sequence }),
                staleness_ms: row.staleness_ms,
                freshness: row.freshness,
                live_entries: row.live_entries,
                open_sockets: row.open_sockets,
                times: (row.enforced > 0).then_some(EnforcementTimes {
                    count: row.enforced,
                    last_ms: row.last_ms,
                    p50_ms: row.p50_ms,
                    p99_ms: row.p99_ms,
                }),
            }),
        })
        .collect())
}

/// Removes edges that are long gone, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "edges that told how they were", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM edges WHERE reported_at < ? LIMIT 1000", now - KEPT);
    Box::pin(old.execute(connection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{identity, register};

    fn state(sequence: i64, open_sockets: i64) -> EdgeState {
        let position = Some(Position { epoch: "e".to_owned(), sequence });
        let times =
            Some(EnforcementTimes { count: 2, last_ms: 3.5, p50_ms: f64::NAN, p99_ms: f64::INFINITY });
        let freshness = "fresh".to_owned();
        EdgeState { position, open_sockets, times, freshness, ..EdgeState::default() }
    }

    /// What an administrator is told.
    async fn listed(identity: &Identity, admin: &str) -> ListEdgesResponse {
        list(identity, &Actor::of(admin.to_owned(), None).expect("an actor")).await.expect("edges")
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn an_edge_is_as_it_told_last_then_silent_then_forgotten(pool: MySqlPool) {
        let identity = identity(pool.clone()).await;
        let admin = register(&identity, "a@example.com").await;
        for change in
            ["UPDATE users SET role = 'admin'", "UPDATE auth_sequence SET epoch = 'e', last_sequence = 9"]
        {
            sqlx::query(change).execute(&pool).await.expect("changed");
        }
        let told = |name: &str, state| BTreeMap::from([(name.to_owned(), state)]);
        note(&pool, &told("b", state(7, 1))).await.expect("noted");
        note(&pool, &told("a", EdgeState::default())).await.expect("noted");
        note(&pool, &told("b", state(8, 4))).await.expect("noted");
        let answer = listed(&identity, &admin).await;
        let names: Vec<&str> = answer.edges.iter().map(|edge| edge.name.as_str()).collect();
        assert_eq!((names, answer.sequence), (vec!["a", "b"], 9));
        let [first, second] = &answer.edges[..] else { panic!("{:?}", answer.edges) };
        assert_eq!((first.behind, second.behind), (None, Some(1)), "the first follows another table");
        assert_eq!(first.state.as_ref().and_then(|state| state.times), None);
        let last = second.state.as_ref().expect("a state");
        assert_eq!((last.open_sockets, last.freshness.as_str(), second.is_silent), (4, "fresh", false));
        let times = EnforcementTimes { count: 2, last_ms: 3.5, p50_ms: 0.0, p99_ms: 0.0 };
        assert_eq!(last.times, Some(times), "what is no number is no time");
        for (past, expected) in [(9, Some(true)), (301, None)] {
            sqlx::query("UPDATE edges SET reported_at = NOW(6) - INTERVAL ? SECOND WHERE name = 'b'")
                .bind(past)
                .execute(&pool)
                .await
                .expect("put back");
            let edges = listed(&identity, &admin).await.edges;
            let found = edges.iter().find(|edge| edge.name == "b").map(|edge| edge.is_silent);
            assert_eq!(found, expected, "after {past} s");
        }
    }
}
