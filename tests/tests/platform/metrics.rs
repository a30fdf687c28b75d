//! What the processes export for Prometheus is what docs/metrics.md says, in both directions.

use e2e::{Client, Exported, Plan, Sandbox, documented_metrics, until};
use serde_json::json;

/// Lets happen what each process counts.
async fn use_everything(sandbox: &Sandbox) {
    let user = sandbox.register().await;
    let refresh = json!({ "refresh_token": user.refresh_token });
    sandbox.edge().open_post("/api/v1/auth/refresh", refresh).await.must_be(200);
    let user = sandbox.log_in(&user).await;
    sandbox.project(&user).await;
    let edge = sandbox.edge();
    edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "one" })).await.must_be(201);
    edge.get("/api/v1/subscription/check-quota?resource=content", &user.token).await.must_be(200);
    let socket = sandbox.socket(&user).await;
    edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    drop(socket);
}

#[tokio::test]
async fn every_metric_is_in_the_docs_with_its_type_and_labels_and_the_other_way_round() {
    let settings = vec![("RATE_LIMITS", "free=1000,basic=1000,premium=1000,enterprise=unlimited".to_owned())];
    let sandbox = Sandbox::planned(Plan { mail: true, settings, ..Plan::default() }).await;
    use_everything(&sandbox).await;
    let documented = documented_metrics();
    let scraped = async || {
        let mut exported = Exported::default();
        let internals = [&sandbox.internals, &sandbox.identity_internals, &sandbox.subscription_internals];
        for internal in internals.into_iter().flatten() {
            let answer = internal.open_get("/internal/metrics").await;
            exported.take(&String::from_utf8_lossy(&answer.bytes));
        }
        exported.0
    };
    let must_be: Vec<_> = documented.iter().filter(|metric| metric.exported == "always").collect();
    assert!(must_be.len() > 20, "only {} are always there", must_be.len());
    // The socket's end and the events come in their own time.
    let all_there = async || {
        let exported = scraped().await;
        let missing: Vec<_> = must_be.iter().filter(|metric| !exported.contains_key(&metric.name)).collect();
        if !missing.is_empty() {
            eprintln!("not exported: {:?}", missing.iter().map(|metric| &metric.name).collect::<Vec<_>>());
        }
        missing.is_empty()
    };
    until("all metrics that are always there are exported", all_there).await;
    for (name, (kind, labels)) in scraped().await {
        let known = documented.iter().find(|metric| metric.name == name);
        let known = known.unwrap_or_else(|| panic!("docs/metrics.md has no {name}"));
        assert_eq!(known.kind, kind, "{name}");
        assert_eq!(known.labels, labels, "{name}");
    }
}

#[tokio::test]
async fn what_ended_a_socket_and_how_the_pool_stands_is_counted() {
    let settings = vec![("AUTH_DB_CONNECTIONS", "7".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let socket = sandbox.socket(&user).await;
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    let says = async |internal: &Client, line: &str| {
        let answer = internal.open_get("/internal/metrics").await;
        String::from_utf8_lossy(&answer.bytes).lines().any(|said| said == line)
    };
    let ended = r#"edge_websocket_ends_total{code="4403"} 1"#;
    until("the socket's end is counted", async || says(&sandbox.internals[0], ended).await).await;
    // The other two follow events and keys.
    until("the pool of identity-svc is looked at", async || {
        says(&sandbox.identity_internals[0], r#"db_pool_connections{state="most"} 5"#).await
    })
    .await;
    let served = r#"grpc_server_calls_total{code="ok",method="persona.identity.v1.AuthService/Register"} 1"#;
    assert!(says(&sandbox.identity_internals[0], served).await);
    let made = r#"grpc_client_calls_total{code="ok",method="persona.identity.v1.AuthService/Register"} 1"#;
    assert!(says(&sandbox.internals[0], made).await);
    drop(socket);
}
