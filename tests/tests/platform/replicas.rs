use e2e::{Plan, Sandbox, until};
use serde_json::json;

#[tokio::test]
async fn two_of_each_process_are_one_platform() {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    for round in 0..10 {
        let edge = &sandbox.edges[round % 2];
        let found = edge.get(&format!("/api/v1/projects/{project}"), &user.token).await.must_be(200);
        assert_eq!(found["id"], project.as_str());
        edge.get("/api/v1/subscription/usage", &user.token).await.must_be(200);
        edge.get("/api/v1/personas/instances", &user.token).await.must_be(200);
    }
    sandbox.edges[0].post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    for edge in &sandbox.edges {
        until("the logout binds on every edge", async || {
            edge.get("/api/v1/personas/instances", &user.token).await.code() == "AUTH003"
        })
        .await;
    }
    let user = sandbox.log_in(&user).await;
    sandbox.identity_processes[0].kill();
    sandbox.subscription_processes[1].kill();
    for edge in &sandbox.edges {
        until("the other replica serves alone", async || {
            edge.get("/api/v1/subscription/usage", &user.token).await.status == 200
        })
        .await;
        edge.get("/api/v1/user/profile", &user.token).await.must_be(200);
    }
}
