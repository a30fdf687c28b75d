//! `/api/v1/admin/edges`: how the edges are.

use std::time::{Duration, Instant};

use e2e::{Plan, Sandbox, User, until};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/admin/edges";

/// What an edge says of all edges.
async fn told(sandbox: &Sandbox, place: usize, admin: &User) -> Vec<Value> {
    let answer = sandbox.edges[place].get(PATH, &admin.token).await.must_be(200);
    let edges = answer["edges"].as_array().expect("edges").clone();
    assert_eq!(answer["count"], edges.len());
    edges
}

fn states(edges: &[Value]) -> Vec<&str> {
    let mut states: Vec<&str> = edges.iter().map(|edge| edge["state"].as_str().expect("a state")).collect();
    states.sort_unstable();
    states
}

#[tokio::test]
async fn every_edge_is_seen_from_every_edge_with_its_sockets_and_how_fast_it_enforces() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let _socket = sandbox.socket(&user).await;
    // Events, so that there are times.
    for _ in 0..3 {
        let again = sandbox.log_in(&user).await;
        sandbox.edge().post("/api/v1/auth/logout", &again.token, json!({})).await.must_be(200);
    }
    for place in 0..2 {
        until("both edges have told of all events", async || {
            let edges = told(&sandbox, place, &admin).await;
            let has_all = |edge: &Value| edge["behind"] == 0 && edge["enforcement"]["count"] == 3;
            let sockets: Vec<i64> = edges.iter().filter_map(|edge| edge["open_sockets"].as_i64()).collect();
            states(&edges) == ["fresh", "fresh"]
                && edges.iter().all(has_all)
                && sockets.iter().sum::<i64>() == 1
        })
        .await;
    }
    let edges = told(&sandbox, 0, &admin).await;
    assert_ne!(edges[0]["name"], edges[1]["name"]);
    for edge in &edges {
        let times = &edge["enforcement"];
        let [last, p50, p99] =
            ["last_ms", "p50_ms", "p99_ms"].map(|name| times[name].as_f64().expect("a number"));
        assert!(p50 <= p99 && last <= p99 && p99 < 10_000.0, "{edge}");
        assert!(edge["staleness_ms"].as_i64().expect("a number") < 3000, "{edge}");
        assert_eq!(edge["sequence"], 3, "{edge}");
        assert_eq!(edge["version"], env!("CARGO_PKG_VERSION"));
        assert!(edge["started_at"].as_str() < edge["reported_at"].as_str(), "{edge}");
    }
}

#[tokio::test]
async fn an_edge_that_dies_is_silent_within_seconds_and_the_one_after_it_is_there() {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let admin = sandbox.administrator().await;
    until("both edges have told", async || states(&told(&sandbox, 0, &admin).await) == ["fresh", "fresh"])
        .await;
    // What edges report goes through another replica meanwhile, and none is taken for silent for that.
    sandbox.restart_identity(0).await;
    assert_eq!(states(&told(&sandbox, 0, &admin).await), ["fresh", "fresh"]);
    sandbox.edge_processes[1].kill();
    let died = Instant::now();
    until("the dead one is silent", async || {
        let answer = sandbox.edges[0].get(PATH, &admin.token).await;
        answer.status == 200 && states(answer.body["edges"].as_array().expect("edges")) == ["fresh", "silent"]
    })
    .await;
    let took = died.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    sandbox.restart_edge(1).await;
    until("the one after it has told", async || {
        states(&told(&sandbox, 1, &admin).await) == ["fresh", "fresh", "silent"]
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_hears_nothing_says_that_it_is_stale() {
    let settings = vec![("LIVE_CLAIMS_STALE_SECONDS", "2".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let admin = sandbox.administrator().await;
    let state = async || {
        let answer = sandbox.edge().get(PATH, &admin.token).await.must_be(200);
        let edge = &answer["edges"][0];
        (edge["state"].clone(), edge["staleness_ms"].as_i64(), edge["behind"].as_i64())
    };
    until("the edge has told", async || state().await.0 == "fresh").await;
    // There is an event, it seems, but the table of events cannot be read; everything else goes on.
    let mut connection = sandbox.connection().await;
    for change in
        ["UPDATE auth_sequence SET last_sequence = last_sequence + 1", "LOCK TABLES auth_events WRITE"]
    {
        sqlx::raw_sql(change).execute(&mut connection).await.expect("changed");
    }
    until("the edge is stale", async || state().await.0 == "stale").await;
    let (_, age, behind) = state().await;
    assert!(age.is_some_and(|age| age > 2000) && behind == Some(1), "{age:?}, {behind:?}");
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut connection).await.expect("unlocked");
    until("the edge is fresh again", async || state().await.0 == "fresh").await;
}
