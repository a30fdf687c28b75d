use std::time::{Duration, Instant};

use e2e::{Plan, Process, Reply, Sandbox, User, until};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::MySqlConnection;
use tokio::task::JoinHandle;

use super::billing::until_tier;

#[tokio::test]
async fn while_the_database_is_away_writes_are_refused_and_the_gateway_goes_on() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    sandbox.database.set_open(false);
    let reply = edge.post("/api/v1/projects", &user.token, json!({ "name": "p" })).await;
    reply.must_fail(503, "GW001");
    let body = json!({ "email": user.email, "password": user.password });
    edge.open_post("/api/v1/auth/login", body).await.must_fail(503, "GW001");
    edge.get("/api/v1/personas/instances", &user.token).await.must_be(200);
    sandbox.database.set_open(true);
    let since = Instant::now();
    until("writes succeed again", async || {
        edge.post("/api/v1/projects", &user.token, json!({ "name": "p" })).await.status == 201
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_database_whose_host_vanishes_without_a_word_fails_nothing_that_comes_after() {
    let sandbox = Sandbox::planned(Plan { mail: true, ..Plan::default() }).await;
    let (user, admin, edge) = (sandbox.register().await, sandbox.administrator().await, sandbox.edge());
    sandbox.mail().nth(&user.email, 1).await;
    let name = json!({ "first_name": "A" });
    let write = async || edge.put("/api/v1/user/profile", &user.token, name.clone()).await.must_be(200);
    let create = async || edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "i" })).await;
    // As many connections as there may be.
    join_all((0..40).map(|_| write())).await;
    join_all((0..40).map(|_| create())).await;
    let (running, mut lock) = a_logout_that_waits(&sandbox).await;
    sandbox.database.fail_over();
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.expect("unlocked");
    let since = Instant::now();
    // One at a time: no other finds out for it that a connection is dead.
    for _ in 0..10 {
        write().await;
    }
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "tier": "premium" })).await.must_be(200);
    until_tier(edge, &user.token, "premium").await;
    create().await.must_be(201);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let body = json!({ "email": user.email });
    edge.open_post("/api/v1/auth/password/forgot", body).await.must_be(202);
    sandbox.mail().nth(&user.email, 2).await;
    running.await.expect("answered").must_fail(504, "GW002");
}

/// A logout in the middle of its transaction, and what holds the row that it waits for.
async fn a_logout_that_waits(sandbox: &Sandbox) -> (JoinHandle<Reply>, MySqlConnection) {
    let (user, edge) = (sandbox.register().await, sandbox.edge().clone());
    let mut lock = sandbox.holding_sessions_of(&user).await;
    let logout = tokio::spawn(async move { edge.post("/api/v1/auth/logout", &user.token, json!({})).await });
    let waits = "SELECT COUNT(*) FROM information_schema.processlist
                 WHERE db = DATABASE() AND info LIKE 'UPDATE sessions SET ended_at%'";
    until("the logout waits for the row", async || {
        sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut lock).await.expect("a count") == 1
    })
    .await;
    (logout, lock)
}

/// The slowest but one of a hundred, of requests that count nothing.
async fn p99(sandbox: &Sandbox, user: &User, what: &str) -> Duration {
    const REQUESTS: usize = 400;
    let paths = ["/api/v1/personas/instances", "/api/v1/user/profile", "/api/v1/projects", "/health"];
    let mut times = Vec::with_capacity(REQUESTS);
    for path in paths.into_iter().cycle().take(REQUESTS) {
        let started = Instant::now();
        sandbox.edge().get(path, &user.token).await.must_be(200);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let (half, p99) = (times[REQUESTS / 2], times[REQUESTS * 99 / 100]);
    println!("{what}: {REQUESTS} requests, p50 {half:?}, p99 {p99:?}, max {:?}", times[REQUESTS - 1]);
    p99
}

#[tokio::test]
async fn while_subscription_svc_is_away_only_counted_writes_are_refused() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let edge = sandbox.edge().clone();
    let project = sandbox.project(&user).await;
    p99(&sandbox, &user, "warming up").await;
    let before = p99(&sandbox, &user, "with subscription-svc").await;
    sandbox.freeze_subscription(0);
    let frozen = p99(&sandbox, &user, "with subscription-svc frozen").await;
    sandbox.thaw_subscription(0);
    until("it answers again", async || {
        edge.get("/api/v1/subscription/usage", &user.token).await.status == 200
    })
    .await;
    let again = p99(&sandbox, &user, "with subscription-svc again").await;
    sandbox.subscription_processes[0].kill();
    for path in ["/api/v1/personas/instances", "/api/v1/projects"] {
        let reply = edge.post(path, &user.token, json!({ "name": "p" })).await;
        reply.must_fail(503, "GW001");
        assert_eq!(reply.body["error"]["details"]["service"], "subscription-svc");
    }
    let mut socket = sandbox.socket(&user).await;
    let data =
        json!({ "workflow_type": "t", "agent_instance_id": "a", "project_id": project, "parameters": {} });
    socket.send(json!({ "type": "start_workflow", "id": "w", "data": data })).await;
    let answer = socket.next().await;
    assert_eq!((&answer["correlation_id"], &answer["error"]["code"]), (&json!("w"), &json!("GW001")));
    let dead = p99(&sandbox, &user, "with subscription-svc dead").await;
    // What a machine with other work does to so many requests in a row, with the service or without.
    let usual = before.max(again).max(Duration::from_millis(25));
    assert!(frozen <= 2 * usual && dead <= 2 * usual, "{frozen:?} and {dead:?}, usually {usual:?}");
    let path = format!("/api/v1/projects/{project}");
    edge.put(&path, &user.token, json!({ "name": "renamed" })).await.must_be(200);
    edge.delete(&path, &user.token).await.must_be(204);
}

#[tokio::test]
async fn an_edge_that_never_hears_identity_svc_asks_ever_less_often_and_says_what_is_wrong() {
    let sandbox = Sandbox::start().await;
    let mut settings = sandbox.settings();
    // The two are confused.
    settings.extend([
        ("IDENTITY_URL", format!("http://{}", sandbox.subscription[0])),
        ("EDGE_LISTEN", "127.0.0.1:0".to_owned()),
        ("EDGE_INTERNAL_LISTEN", "127.0.0.1:0".to_owned()),
    ]);
    let edge = Process::start("edge", &settings);
    let tries = || edge.said().matches("the watch on identity-svc broke off").count();
    until("it has tried once", async || tries() > 0).await;
    let since = Instant::now();
    until("it has tried seven times", async || tries() >= 7).await;
    // After 100, 200, 400, 800, 1600 and 2000 ms, of each of which chance takes half at most.
    assert!(since.elapsed() > Duration::from_secs(2), "{:?}: {}", since.elapsed(), edge.said());
    assert!(edge.said().contains("what answers at IDENTITY_URL is not identity-svc"), "{}", edge.said());
}

#[tokio::test]
async fn a_replica_that_dies_in_the_middle_of_a_call_is_away_and_no_fault() {
    let mut sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge().clone());
    sandbox.freeze_subscription(0);
    let call = tokio::spawn(async move { edge.get("/api/v1/subscription", &user.token).await });
    // It has long reached the frozen one, and has no answer.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!call.is_finished());
    sandbox.subscription_processes[0].kill();
    call.await.expect("answered").must_fail(503, "GW001");
}
