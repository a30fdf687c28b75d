//! `Idempotency-Key`: one effect, whatever goes wrong.

use e2e::{Collector, Plan, Reply, Sandbox, User, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

const INSTANCES: &str = "/api/v1/personas/instances";
const PROJECTS: &str = "/api/v1/projects";

async fn post(sandbox: &Sandbox, path: &str, user: &User, headers: &[(&str, &str)], body: &Value) -> Reply {
    sandbox.edge().send(Method::POST, path, Some(&user.token), headers, Some(body)).await
}

#[tokio::test]
async fn an_answer_is_repeated_to_nobody_who_may_no_longer_ask() {
    let sandbox = Sandbox::start().await;
    let (admin, chief) = (sandbox.administrator().await, sandbox.administrator().await);
    let (user, key) = (sandbox.register().await, [("idempotency-key", "k")]);
    let body = json!({ "user_id": user.id, "tier": "basic" });
    let path = "/api/v1/admin/subscriptions";
    post(&sandbox, path, &admin, &key, &body).await.must_be(201);
    let again = post(&sandbox, path, &admin, &key, &body).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let account = format!("/api/v1/admin/users/{}", admin.id);
    sandbox.edge().put(&account, &chief.token, json!({ "role": "user" })).await.must_be(200);
    until("the demotion binds", async || post(&sandbox, path, &admin, &[], &body).await.status == 403).await;
    post(&sandbox, path, &admin, &key, &body).await.must_fail(403, "AUTH004");
}

#[tokio::test]
async fn core_manager_is_not_asked_again_when_nobody_knows_what_came_of_it() {
    let plan = Plan { settings: vec![("GATEWAY_TIMEOUT_MS", "300".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let (user, body) = (sandbox.register().await, json!({ "name": "one" }));
    for (key, (switch, how), status) in [
        ("hung", ("x-stub-hang", "1"), 504),
        ("reset", ("x-stub-reset", "1"), 502),
        ("failed", ("x-stub-status", "500"), 500),
        ("away", ("x-stub-status", "502"), 502),
    ] {
        let path = format!("/api/v1/echo/{key}");
        let headers = [("idempotency-key", key), (switch, how)];
        let first = post(&sandbox, &path, &user, &headers, &body).await;
        assert_eq!(first.status, status, "{first:?}");
        let again = post(&sandbox, &path, &user, &[("idempotency-key", key)], &body).await;
        again.must_fail(502, "GW001");
        let said = again.body["error"]["message"].as_str().expect("a message").to_owned();
        assert!(said.contains("not known"), "{said}");
        let seen = sandbox.stub.open_get("/stub/requests").await.text();
        assert_eq!(seen.matches(&path).count(), 1, "{seen}");
        let other = format!("another-{key}");
        post(&sandbox, &path, &user, &[("idempotency-key", &other)], &body).await.must_be(200);
    }
    // What core-manager refused it did not do.
    for refusal in ["409", "503"] {
        let headers = [("idempotency-key", "refused"), ("x-stub-status", refusal)];
        assert_eq!(post(&sandbox, INSTANCES, &user, &headers, &body).await.status.as_str(), refusal);
    }
    post(&sandbox, INSTANCES, &user, &[("idempotency-key", "refused")], &body).await.must_be(201);
}

#[tokio::test]
async fn of_many_that_wait_for_one_run_one_asks_and_those_beyond_are_told_to_come_back() {
    const AT_ONCE: usize = 60;
    let collector = Collector::start().await;
    let settings = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("LOG_LEVEL", "warn".to_owned()),
    ];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (user, body) = (sandbox.register().await, json!({ "name": "one" }));
    let headers = [("idempotency-key", "k"), ("x-stub-delay-ms", "5000")];
    let all = (0..AT_ONCE).map(|_| post(&sandbox, INSTANCES, &user, &headers, &body));
    let replies = join_all(all).await;
    let made: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(made.len(), 33, "the one that runs and those that wait");
    assert!(made.iter().all(|reply| reply.bytes == made[0].bytes));
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        refused.must_fail(503, "GW003");
        assert!(refused.headers.contains_key("retry-after"));
    }
    let asked = || {
        let spans = collector.spans().into_iter();
        spans
            .filter(|traced| traced.service == "subscription-svc" && traced.span.name.ends_with("/Begin"))
            .count()
    };
    until("the questions have been told of", async || asked() >= AT_ONCE).await;
    assert!(asked() < 2 * AT_ONCE, "{} questions", asked());
}

#[tokio::test]
async fn an_edge_that_dies_in_the_middle_leaves_one_project() {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let (user, body) = (sandbox.register().await, json!({ "name": "one" }));
    let key = [("idempotency-key", "k")];
    let mut connection = sandbox.connection().await;
    let made = {
        let (edge, user, body) = (sandbox.edges[0].clone(), user.clone(), body.clone());
        tokio::spawn(async move {
            edge.try_send(Method::POST, PROJECTS, Some(&user.token), &[("idempotency-key", "k")], Some(&body))
                .await
        })
    };
    until("the project is there", async || {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM projects WHERE owner_id = ?")
            .bind(&user.id)
            .fetch_one(&mut connection)
            .await
            .expect("a count");
        count == 1
    })
    .await;
    sandbox.edge_processes[0].kill();
    let _ = made.await.expect("joined");
    // As if the edge had died a moment earlier, before the answer was kept.
    sqlx::query(
        "UPDATE idempotent_requests SET status = NULL, body = NULL, runs_until = NOW() - INTERVAL 1 DAY",
    )
    .execute(&mut connection)
    .await
    .expect("given up");
    let again = sandbox.edges[1].send(Method::POST, PROJECTS, Some(&user.token), &key, Some(&body)).await;
    let project = again.must_be(201);
    let all = sandbox.edges[1].get(PROJECTS, &user.token).await.must_be(200);
    assert_eq!((&all["count"], &all["projects"][0]["id"]), (&json!(1), &project["id"]));
}

#[tokio::test]
async fn a_key_means_something_only_where_something_is_made() {
    let sandbox = Sandbox::start().await;
    let key = [("idempotency-key", "k")];
    for path in ["/nowhere", "/api/v1/unknown"] {
        sandbox.edge().send(Method::POST, path, None, &key, None).await.must_fail(404, "REQ002");
    }
    sandbox.edge().send(Method::POST, "/health", None, &key, None).await.must_fail(405, "REQ002");
}

#[tokio::test]
async fn a_key_is_one_of_at_most_200_visible_characters() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let long = "k".repeat(201);
    for bad in ["", "two words", "a\tb", &long] {
        let refused = post(
            &sandbox,
            "/api/v1/projects",
            &user,
            &[("idempotency-key", bad)],
            &json!({ "name": "Moon" }),
        )
        .await;
        refused.must_fail(400, "REQ001");
        assert!(refused.text().contains("Idempotency-Key"), "{bad:?}: {}", refused.text());
    }
    let good = [("idempotency-key", &long[1..])];
    post(&sandbox, "/api/v1/projects", &user, &good, &json!({ "name": "Moon" })).await.must_be(201);
}
