use std::time::{Duration, Instant};

use e2e::{Sandbox, until};
use serde_json::json;

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
async fn while_subscription_svc_is_away_only_counted_writes_are_refused() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    sandbox.subscription_processes[0].kill();
    let edge = sandbox.edge();
    let reply = edge.post("/api/v1/personas/instances", &user.token, json!({})).await;
    reply.must_fail(503, "GW001");
    assert_eq!(reply.body["error"]["details"]["service"], "subscription-svc");
    edge.get("/api/v1/personas/instances", &user.token).await.must_be(200);
    edge.get("/api/v1/user/profile", &user.token).await.must_be(200);
}
