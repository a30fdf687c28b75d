use std::time::Duration;

use contract::subscription::ReportUsageRequest;
use contract::subscription::usage_service_client::UsageServiceClient;
use e2e::{Client, Plan, Reply, Sandbox, User, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

const INSTANCES: &str = "/api/v1/personas/instances";

async fn create(edge: &Client, user: &User, headers: &[(&str, &str)]) -> Option<Reply> {
    let body = json!({ "name": "p" });
    edge.try_send(Method::POST, INSTANCES, Some(&user.token), headers, Some(&body)).await
}

async fn held(sandbox: &Sandbox, user: &User) -> Vec<String> {
    let list = sandbox.edge().get(INSTANCES, &user.token).await.must_be(200);
    let instances = list["instances"].as_array().expect("a list");
    instances.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

async fn usage(sandbox: &Sandbox, user: &User) -> Value {
    sandbox.edge().get("/api/v1/subscription/usage", &user.token).await.must_be(200)
}

async fn put_on(sandbox: &Sandbox, user: &User, tier: &str) {
    let admin = sandbox.administrator().await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    sandbox.edge().put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
}

#[tokio::test]
async fn of_many_creations_at_once_over_two_edges_exactly_the_limit_is_admitted() {
    const AT_ONCE: usize = 60;
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    for round in 0..4 {
        let tries = (0..AT_ONCE).map(|one| create(&sandbox.edges[one % 2], &user, &[]));
        let replies: Vec<Reply> = join_all(tries).await.into_iter().flatten().collect();
        assert_eq!(replies.len(), AT_ONCE);
        let admitted = replies.iter().filter(|reply| reply.status == 201).count();
        assert_eq!(admitted, 20, "round {round}");
        for refused in replies.iter().filter(|reply| reply.status != 201) {
            refused.must_fail(403, "SUB002");
            let details = &refused.body["error"]["details"];
            assert_eq!((&details["resource"], &details["limit"]), (&json!("personas"), &json!(20)));
        }
        let instances = held(&sandbox, &user).await;
        assert_eq!(instances.len(), 20);
        assert_eq!(usage(&sandbox, &user).await["personas_count"], 20);
        let gone = instances.iter().map(|id| {
            let path = format!("{INSTANCES}/{id}");
            let (edge, token) = (sandbox.edge(), &user.token);
            async move { edge.delete(&path, token).await.must_be(204) }
        });
        join_all(gone).await;
        assert_eq!(usage(&sandbox, &user).await["personas_count"], 0);
    }
}

#[tokio::test]
async fn workflows_of_many_sockets_at_once_are_admitted_up_to_the_limit() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let start = |id: String| {
        json!({
            "type": "start_workflow", "id": id,
            "data": {
                "workflow_type": "t", "agent_instance_id": "a", "project_id": project,
                "parameters": { "steps": 1, "step_ms": 1 },
            },
        })
    };
    let sockets = (0..4).map(async |socket| {
        let authority = sandbox.edges[socket % 2].authority();
        let mut connected = e2e::Socket::connect(authority, &user.token).await;
        let mut admitted = 0;
        for one in 0..5 {
            let id = format!("{socket}-{one}");
            connected.send(start(id.clone())).await;
            loop {
                let message = connected.next().await;
                assert_eq!(message["correlation_id"], id.as_str(), "{message}");
                match (message["type"].as_str(), message["data"]["status"].as_str()) {
                    (Some("error"), _) => assert_eq!(message["error"]["code"], "SUB002"),
                    (_, Some("completed")) => admitted += 1,
                    _ => continue,
                }
                break;
            }
        }
        admitted
    });
    let admitted: usize = join_all(sockets).await.into_iter().sum();
    assert_eq!(admitted, 10, "the free tier has ten");
    until("they are counted", async || usage(&sandbox, &user).await["content_count"] == 10).await;
}

#[tokio::test]
async fn a_start_that_is_sent_again_starts_nothing_new() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let start = json!({
        "type": "start_workflow", "id": "once",
        "data": { "workflow_type": "t", "agent_instance_id": "a", "project_id": project, "parameters": {} },
    });
    let mut first = sandbox.socket(&user).await;
    first.send(start.clone()).await;
    assert_eq!(first.next().await["type"], "workflow_status");
    let mut second = sandbox.socket(&user).await;
    second.send(start).await;
    let told = second.next().await;
    assert_eq!(
        (&told["correlation_id"], &told["data"]["repeated"]),
        (&json!("once"), &json!(true)),
        "{told}"
    );
    until("it counts once", async || usage(&sandbox, &user).await["content_count"] == 1).await;
}

#[tokio::test]
async fn one_idempotency_key_sent_twenty_times_at_once_makes_one_thing_and_gives_one_answer() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    for path in [INSTANCES, "/api/v1/projects"] {
        let body = json!({ "name": "one" });
        let send = |one: usize, key: &'static str, body: Value| {
            let (edge, token) = (&sandbox.edges[one % 2], &user.token);
            async move {
                edge.send(Method::POST, path, Some(token), &[("idempotency-key", key)], Some(&body)).await
            }
        };
        let replies = join_all((0..20).map(|one| send(one, path, body.clone()))).await;
        for reply in &replies {
            assert_eq!((reply.status.as_u16(), &reply.bytes), (201, &replies[0].bytes));
        }
        let replayed =
            replies.iter().filter(|reply| reply.headers.contains_key("idempotency-replayed")).count();
        assert_eq!(replayed, 19);
        send(0, path, json!({ "name": "another" })).await.must_fail(400, "REQ001");
    }
    assert_eq!(held(&sandbox, &user).await.len(), 1);
    let projects = sandbox.edge().get("/api/v1/projects", &user.token).await.must_be(200);
    assert_eq!(projects["count"], 1);
    let key = [("idempotency-key", "")];
    create(sandbox.edge(), &user, &key).await.expect("an answer").must_fail(400, "REQ001");
}

#[tokio::test]
async fn what_became_of_a_creation_is_counted_whatever_goes_wrong() {
    let settings =
        vec![("GATEWAY_TIMEOUT_MS", "1000".to_owned()), ("QUOTA_RESERVATION_SECONDS", "3".to_owned())];
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    let edge = sandbox.edges[1].clone();
    create(&edge, &user, &[("x-stub-status", "500")]).await.expect("an answer");
    assert_eq!(
        usage(&sandbox, &user).await["personas_count"],
        0,
        "an upstream error gives the place back at once"
    );
    create(&edge, &user, &[("x-stub-hang", "1")]).await.expect("an answer").must_fail(504, "GW002");
    create(&edge, &user, &[("x-stub-reset", "1")]).await.expect("an answer").must_fail(502, "GW001");
    // The client goes away while core-manager works.
    let gone =
        tokio::time::timeout(Duration::from_millis(100), create(&edge, &user, &[("x-stub-delay-ms", "500")]));
    assert!(gone.await.is_err());
    until("what was made for nobody is counted", async || {
        usage(&sandbox, &user).await["personas_count"] == 1
    })
    .await;
    // The edge dies between core-manager's success and the commit.
    sandbox.freeze_subscription(0);
    sandbox.freeze_subscription(1);
    let lost = {
        let (edge, user) = (sandbox.edges[0].clone(), user.clone());
        tokio::spawn(async move { create(&edge, &user, &[]).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    sandbox.edge_processes[0].kill();
    sandbox.thaw_subscription(0);
    sandbox.thaw_subscription(1);
    assert!(lost.await.expect("joined").is_none_or(|reply| reply.status != 201));
    let quota = async || {
        let path = "/api/v1/subscription/check-quota?resource=personas";
        let quota = edge.get(path, &user.token).await;
        (quota.body["used"].as_i64().unwrap_or(-1), quota.body["remaining"].as_i64().unwrap_or(-1))
    };
    let list = edge.get(INSTANCES, &user.token).await.must_be(200);
    let really = list["count"].as_i64().expect("a count");
    until("every place is free or used", async || {
        let (used, remaining) = quota().await;
        used + remaining == 20
    })
    .await;
    // What nobody saw being made, core-manager can report.
    let address = format!("http://{}", sandbox.subscription[0]);
    let mut client = UsageServiceClient::connect(address).await.expect("a connection");
    let report =
        ReportUsageRequest { user_id: user.id.clone(), resource: "personas".to_owned(), used: really };
    client.report_usage(super::grpc::call(report, e2e::INTERNAL_TOKEN)).await.expect("reported");
    assert_eq!(quota().await, (really, 20 - really));
}
