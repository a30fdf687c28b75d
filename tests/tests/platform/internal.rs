use std::time::{Duration, Instant};

use e2e::{Client, Sandbox, until};
use serde_json::json;

#[tokio::test]
async fn health_names_the_dependencies_and_turns_within_two_seconds() {
    let mut sandbox = Sandbox::start().await;
    let internal = sandbox.internals[0].clone();
    let health = async || internal.open_get("/internal/health").await;
    let well = health().await.must_be(200);
    assert_eq!((well["status"].as_str(), well["service"].as_str()), (Some("healthy"), Some("edge")));
    let expected = json!({
        "mysql": "healthy", "core-manager": "healthy", "identity-svc": "healthy", "subscription-svc": "healthy",
    });
    assert_eq!(well["dependencies"], expected);
    let turns = async |name: &str, state: &str| {
        let since = Instant::now();
        until("the state turns", async || health().await.body["dependencies"][name] == state).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{name} took {:?} to be {state}", since.elapsed());
    };
    sandbox.stub_process.kill();
    turns("core-manager", "unhealthy").await;
    assert_eq!(health().await.must_be(200)["status"], "degraded");
    sandbox.restart_stub();
    turns("core-manager", "healthy").await;
    sandbox.database.set_open(false);
    turns("mysql", "unhealthy").await;
    assert_eq!(health().await.must_be(503)["status"], "unhealthy");
    assert_eq!(internal.open_get("/livez").await.status, 200);
    sandbox.database.set_open(true);
    turns("mysql", "healthy").await;
}

#[tokio::test]
async fn metrics_count_requests_by_route_template() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    sandbox.edge().get("/api/v1/personas/instances/secret-id", &user.token).await.must_be(404);
    sandbox.edge().get("/api/v1/projects", &user.token).await.must_be(200);
    let metrics = sandbox.internals[0].open_get("/internal/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    for route in ["/api/v1/personas/instances/{id}", "/api/v1/projects"] {
        assert!(text.contains(&format!("route=\"{route}\"")), "{text}");
    }
    for secret in ["secret-id", &user.id, &user.email] {
        assert!(!text.contains(secret), "{secret} is in the metrics");
    }
}

#[tokio::test]
async fn liveness_and_health_answer_within_a_second_while_everything_else_hangs() {
    let mut sandbox = Sandbox::start().await;
    sandbox.database.freeze();
    sandbox.stub_process.freeze();
    sandbox.subscription_processes[0].freeze();
    let all = [&sandbox.internals[0], &sandbox.identity_internals[0]];
    let within = async |asked: &Client, path: &str| {
        let since = Instant::now();
        let reply = asked.open_get(path).await;
        assert!(since.elapsed() < Duration::from_secs(1), "{path} took {:?}", since.elapsed());
        reply
    };
    // What hangs shows, and the answer does not wait for it.
    for internal in all {
        until("the outage shows", async || within(internal, "/internal/health").await.status == 503).await;
        within(internal, "/livez").await.must_be(200);
        assert_eq!(within(internal, "/readyz").await.status, 200);
    }
    sandbox.identity_processes[0].freeze();
    let edge = &sandbox.internals[0];
    until("identity-svc is missed", async || {
        within(edge, "/internal/health").await.body["dependencies"]["identity-svc"] == "unhealthy"
    })
    .await;
    assert_eq!(within(edge, "/livez").await.status, 200);
    within(&sandbox.edges[0].clone(), "/health").await.must_be(200);
    sandbox.stub_process.thaw();
    sandbox.edge_processes[0].must_run();
}
