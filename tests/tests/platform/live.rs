//! What is changed binds on tokens already issued, everywhere, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::token::{Claims, Signer};
use e2e::{Client, JWT_SECRET, Plan, Sandbox, User, until};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::credentials::claims;
use crate::floods::bites;

const TEMPLATES: &str = "/api/v1/templates";
const READ: &str = "/api/v1/personas/instances";

/// Requests from everybody while something else is tested, about `per_second` of them; none may fail.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<u64>,
}

impl Load {
    fn start(sandbox: &Arc<Sandbox>, user: &User, per_second: u32) -> Load {
        const CLIENTS: u32 = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS as usize {
            let (sandbox, user, stop) = (sandbox.clone(), user.clone(), stop.clone());
            clients.spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_secs(1) * CLIENTS / per_second);
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let edge = &sandbox.edges[(client + served as usize) % sandbox.edges.len()];
                    edge.get(READ, &user.token).await.must_be(200);
                    served += 1;
                }
                served
            });
        }
        Load { stop, clients }
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut served = 0;
        while let Some(client) = self.clients.join_next().await {
            served += client.expect("no request failed");
        }
        served
    }
}

/// What a change leads to.
enum Expected {
    Refused,
    Served,
    /// What core-manager is told of the caller.
    Header(&'static str, &'static str),
}

/// How long it takes until an edge enforces a change.
async fn enforced(edge: &Client, token: &str, expected: &Expected) -> Duration {
    let started = Instant::now();
    loop {
        let reply = edge.get("/api/v1/echo/live", token).await;
        let holds = match expected {
            Expected::Refused => reply.code() == "AUTH003",
            Expected::Served => reply.status == 200,
            Expected::Header(name, value) => reply.text().contains(&format!(r#"["{name}","{value}"]"#)),
        };
        if holds {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(10), "never enforced: {reply:?}");
    }
}

fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: {} changes, p50 {:?}, p99 {:?}, max {:?}", times.len(), at(50), at(99), at(100));
    at(99)
}

/// Changes a user in one of five ways, by the round, and says what that leads to.
async fn change(edge: &Client, admin: &User, user: &User, round: usize) -> Expected {
    let account = format!("/api/v1/admin/users/{}", user.id);
    let is_even = round.is_multiple_of(2);
    match round % 5 {
        0 => {
            let tier = ["basic", "premium", "enterprise", "free"][round / 5 % 4];
            let path = format!("/api/v1/admin/subscriptions/{}", user.id);
            edge.put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
            Expected::Header("x-user-tier", tier)
        }
        1 => {
            let role = if is_even { "user" } else { "moderator" };
            edge.put(&account, &admin.token, json!({ "role": role })).await.must_be(200);
            Expected::Header("x-user-role", role)
        }
        2 if is_even => {
            let body = json!({ "permission_name": "personas.delete" });
            edge.post(&format!("{account}/permissions"), &admin.token, body).await.must_be(200);
            Expected::Header("x-user-permissions", "personas.delete")
        }
        2 => {
            let path = format!("{account}/permissions/personas.delete");
            edge.delete(&path, &admin.token).await.must_be(204);
            Expected::Header("x-user-permissions", "")
        }
        3 => {
            edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
            Expected::Refused
        }
        _ => {
            edge.put(&account, &admin.token, json!({ "is_active": false })).await.must_be(200);
            Expected::Refused
        }
    }
}

#[tokio::test]
async fn a_thousand_changes_bind_on_every_replica_within_a_second() {
    const ACTORS: usize = 5;
    const EACH: usize = 200;
    let sandbox = Arc::new(Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await);
    let admin = sandbox.administrator().await;
    let load = Load::start(&sandbox, &sandbox.register().await, 500);
    let mut actors = JoinSet::new();
    for actor in 0..ACTORS {
        let (sandbox, admin) = (sandbox.clone(), admin.clone());
        actors.spawn(async move {
            let mut user = sandbox.register().await;
            let mut times = Vec::new();
            for round in 0..EACH {
                let edge = &sandbox.edges[(actor + round) % 2];
                let expected = change(edge, &admin, &user, round).await;
                for edge in &sandbox.edges {
                    times.push(enforced(edge, &user.token, &expected).await);
                }
                if round % 5 == 4 {
                    let path = format!("/api/v1/admin/users/{}", user.id);
                    edge.put(&path, &admin.token, json!({ "is_active": true })).await.must_be(200);
                }
                if round % 5 >= 3 {
                    user = sandbox.log_in(&user).await;
                    enforced(edge, &user.token, &Expected::Served).await;
                }
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(done) = actors.join_next().await {
        times.extend(done.expect("an actor"));
    }
    println!("{} other requests were served meanwhile", load.end().await);
    let p99 = report("from the answer to the act until an edge enforces it", times);
    assert!(p99 <= Duration::from_secs(1), "{p99:?}");
}

/// Tokens of as many further sessions of the user, made without the work of signing in.
async fn sessions(sandbox: &Sandbox, user: &User, count: usize) -> Vec<String> {
    let (known, signer) = (claims(&user.token), Signer::hs256(&JWT_SECRET.to_owned().into()));
    let mut connection = sandbox.connection().await;
    let mut tokens = Vec::new();
    for _ in 0..count {
        let claims = Claims { sid: Uuid::now_v7().to_string(), ..known.clone() };
        let insert = "INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at, absolute_expires_at,
                                            ip_address, user_agent)
                      SELECT ?, user_id, created_at, last_seen_at, expires_at, absolute_expires_at, ip_address, 'e2e'
                      FROM sessions WHERE id = ?";
        let insert = sqlx::query(insert).bind(&claims.sid).bind(&known.sid);
        insert.execute(&mut connection).await.expect("a session");
        tokens.push(signer.sign(&claims).expect("signed"));
    }
    tokens
}

#[tokio::test]
async fn a_thousand_revocations_survive_the_death_of_the_replica_that_is_watched() {
    const USERS: usize = 10;
    const SESSIONS: usize = 100;
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let mut tokens = Vec::new();
    for _ in 0..USERS {
        let user = sandbox.register().await;
        tokens.extend(sessions(&sandbox, &user, SESSIONS).await);
    }
    for (place, token) in tokens.iter().enumerate() {
        // Every edge watches one of the two; each dies once, with revocations before, around and after its death.
        if place == tokens.len() / 3 {
            sandbox.identity_processes[0].kill();
        }
        if place == tokens.len() / 2 {
            sandbox.restart_identity(0).await;
            sandbox.identity_processes[1].kill();
        }
        until("the revocation is acknowledged", async || {
            let reply = sandbox.edge().post("/api/v1/auth/logout", token, json!({})).await;
            // Refused, if a try whose answer was lost has ended the session.
            reply.status == 200 || reply.code() == "AUTH003"
        })
        .await;
    }
    for edge in &sandbox.edges {
        for token in &tokens {
            enforced(edge, token, &Expected::Refused).await;
        }
    }
}

#[tokio::test]
async fn a_frozen_database_degrades_as_promised_and_its_return_needs_no_restart() {
    let settings = vec![
        ("LIVE_CLAIMS_STALE_SECONDS", "2".to_owned()),
        ("LIVE_CLAIMS_GRACE_SECONDS", "6".to_owned()),
        ("WS_HEARTBEAT_SECONDS", "1".to_owned()),
        // The client does not read while it waits, and is not to be taken for gone.
        ("WS_PONG_TIMEOUT_MS", "60000".to_owned()),
    ];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let (user, admin) = (sandbox.register().await, sandbox.administrator().await);
    let mut socket = sandbox.socket(&user).await;
    let edge = sandbox.edge();
    let template = json!({ "name": "t" });
    sandbox.database.freeze();
    until("writes are refused", async || {
        let reply =
            edge.send(http::Method::POST, "/api/v1/echo/w", Some(&user.token), &[], Some(&template)).await;
        (reply.status.as_u16(), reply.code()) == (503, "GW001")
    })
    .await;
    edge.get("/api/v1/templates", &admin.token).await.must_fail(503, "GW001");
    edge.get(READ, &user.token).await.must_be(200);
    let metrics = sandbox.internals[0].open_get("/internal/metrics").await.text();
    let gauge = metrics.lines().find(|line| line.starts_with("edge_live_claims_staleness_seconds"));
    let staleness: f64 = gauge.and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a gauge");
    assert!((2.0..9.0).contains(&staleness), "{staleness}");
    until("reads are refused too", async || edge.get(READ, &user.token).await.code() == "GW001").await;
    assert_eq!(socket.closed().await, 1013);
    sandbox.database.set_open(true);
    let back = Instant::now();
    until("everything goes on", async || {
        let written =
            edge.send(http::Method::POST, "/api/v1/echo/w", Some(&user.token), &[], Some(&template)).await;
        written.status == 200 && edge.get("/api/v1/templates", &admin.token).await.status == 200
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    for edge in &sandbox.edges {
        enforced(edge, &user.token, &Expected::Refused).await;
    }
}

#[tokio::test]
async fn a_change_is_told_on_the_open_socket_and_goes_with_what_it_does_next() {
    let sandbox = Sandbox::start().await;
    let (user, admin) = (sandbox.register().await, sandbox.administrator().await);
    let mut socket = sandbox.socket(&user).await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    sandbox.edge().put(&path, &admin.token, json!({ "tier": "premium" })).await.must_be(200);
    let told = socket.next().await;
    assert_eq!((&told["type"], &told["data"]["tier"]), (&json!("auth.changed"), &json!("premium")));
    assert_eq!(told["data"]["role"], "user");
    let project = sandbox.project(&user).await;
    let start = json!({
        "type": "start_workflow", "id": "w",
        "data": { "workflow_type": "t", "agent_instance_id": "a", "project_id": project, "parameters": {} },
    });
    socket.send(start).await;
    assert_eq!(socket.next().await["correlation_id"], "w");
    let requests = sandbox.stub.open_get("/stub/requests").await.text();
    assert!(requests.contains(r#"["x-user-tier","premium"]"#), "{requests}");
}

#[tokio::test]
async fn what_a_stale_edge_has_confirmed_goes_with_the_message() {
    let settings = vec![("LIVE_CLAIMS_STALE_SECONDS", "2".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    let hello = json!({ "type": "hello", "id": "1" });
    socket.send(hello.clone()).await;
    assert_eq!(socket.next().await["data"]["headers"]["x-user-tier"], "free");
    // identity-svc knows, and no edge is told.
    let mut connection = sandbox.connection().await;
    for change in [
        "UPDATE users SET subscription_tier = 'premium' WHERE id = ?",
        "UPDATE account_versions SET version = version + 1 WHERE user_id = ?",
    ] {
        sqlx::query(change).bind(&user.id).execute(&mut connection).await.expect("changed");
    }
    sqlx::raw_sql("LOCK TABLES auth_events WRITE, auth_sequence WRITE")
        .execute(&mut connection)
        .await
        .expect("locked");
    until("core-manager is told what identity-svc says", async || {
        socket.send(hello.clone()).await;
        socket.next().await["data"]["headers"]["x-user-tier"] == "premium"
    })
    .await;
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut connection).await.expect("unlocked");
}

#[tokio::test]
async fn a_replica_that_is_asked_to_end_does_not_wait_for_the_edges_that_follow_it() {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let asked = Instant::now();
    assert_eq!(sandbox.identity_processes[0].terminate().await, Some(0));
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}, as long as what runs may take");
}

#[tokio::test]
async fn a_change_binds_while_strangers_have_everybody_wait_for_the_database() {
    let settings = vec![("AUTH_DB_CONNECTIONS", "4".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, stranger, user) = (sandbox.edge(), sandbox.register().await, sandbox.register().await);
    edge.get(TEMPLATES, &user.token).await.must_fail(403, "AUTH004");
    // Whoever refreshes waits for this row, with a connection in hand.
    let _held = sandbox.holding_sessions_of(&stranger).await;
    let (told, mut answers) = mpsc::unbounded_channel();
    let mut strangers = JoinSet::new();
    for _ in 0..300 {
        let (edge, told) = (edge.clone(), told.clone());
        let body = json!({ "refresh_token": stranger.refresh_token });
        strangers.spawn(async move {
            while told.send(edge.open_post("/api/v1/auth/refresh", body.clone()).await).is_ok() {
                // As they are told.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    // Of one address so many wait, and the others are told at once to come back.
    for _ in 0..50 {
        let refused = answers.recv().await.expect("an answer");
        refused.must_fail(503, "GW003");
        assert_eq!(refused.headers["retry-after"], "1");
    }
    assert!(bites(&sandbox, "calls").await >= 50, "they reach no service");
    edge.get("/api/v1/user/profile", &user.token).await.must_be(200);
    let promote = ["admin", "create", "--email", &user.email, "--password-stdin"];
    sandbox.identity_command(&[], &promote).await;
    let since = Instant::now();
    until("the role binds", async || edge.get(TEMPLATES, &user.token).await.status == 200).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    strangers.shutdown().await;
}
