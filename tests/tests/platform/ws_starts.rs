//! What a start of a workflow costs, and what its id stands for.

use std::time::{Duration, Instant};

use e2e::{Plan, Sandbox, User, until};
use serde_json::{Value, json};

use super::ws::start;

async fn quota(sandbox: &Sandbox, user: &User) -> (i64, i64) {
    let path = "/api/v1/subscription/check-quota?resource=content";
    let quota = sandbox.edge().get(path, &user.token).await.must_be(200);
    (quota["used"].as_i64().unwrap_or(-1), quota["remaining"].as_i64().unwrap_or(-1))
}

async fn starts_seen(sandbox: &Sandbox) -> usize {
    let frames = sandbox.stub.open_get("/stub/frames").await.must_be(200);
    frames.as_array().map_or(0, Vec::len)
}

fn quick() -> Value {
    json!({ "steps": 1, "step_ms": 1 })
}

#[tokio::test]
async fn a_start_that_core_manager_refuses_costs_nothing_and_may_be_sent_again() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut refused = start("w", &project, json!({ "refuse": true }));
    // The same data each time.
    refused["data"]["agent_instance_id"] = "a".into();
    for round in 1..=3 {
        let mut socket = sandbox.socket(&user).await;
        until("core-manager itself refuses", async || {
            socket.send(refused.clone()).await;
            let told = socket.next().await;
            assert_eq!(told["correlation_id"], "w");
            // A start that comes before the last refusal is settled is told that it is on its way.
            told["error"]["code"] == "STUB"
        })
        .await;
        assert_eq!(starts_seen(&sandbox).await, round);
        until("the place is free again", async || quota(&sandbox, &user).await == (0, 10)).await;
    }
}

#[tokio::test]
async fn no_other_message_with_the_id_of_a_start_gives_its_place_back() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    for id in ["w1", "w2"] {
        // core-manager would answer it with an error.
        let other = json!({ "type": "stub.nosuch", "id": id, "data": {} });
        socket.send(start(id, &project, json!({ "delay_ms": 300, "steps": 1, "step_ms": 1 }))).await;
        socket.send(other.clone()).await;
        let refused = socket.next().await;
        assert_eq!(refused["error"]["code"], "REQ001", "{refused}");
        assert!(refused["error"]["details"]["fields"]["id"].is_string(), "{refused}");
        while socket.next().await["data"]["status"] != "completed" {}
    }
    until("both count", async || quota(&sandbox, &user).await == (2, 8)).await;
    // Nor when it comes first.
    socket.send(json!({ "type": "stub.nosuch", "id": "w3", "data": {} })).await;
    assert_eq!(socket.next().await["error"]["code"], "STUB");
    socket.send(start("w3", &project, quick())).await;
    assert_eq!(socket.next().await["error"]["code"], "REQ001");
    assert_eq!(starts_seen(&sandbox).await, 3, "two starts and the message that came first");
}

#[tokio::test]
async fn a_refused_start_that_reports_all_the_same_counts_and_has_its_id_again() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    let refused = start("w", &project, json!({ "refuse": true }));
    socket.send(refused.clone()).await;
    assert_eq!(socket.next().await["error"]["code"], "STUB");
    until("the place is free again", async || quota(&sandbox, &user).await == (0, 10)).await;
    let report = json!({
        "type": "workflow_status", "id": "s", "correlation_id": "w", "data": { "status": "in_progress" },
    });
    let told = json!({ "type": "stub.raw", "id": "r", "data": { "text": report.to_string() } });
    socket.send(told).await;
    assert_eq!(socket.next().await["type"], "workflow_status");
    until("it counts", async || quota(&sandbox, &user).await == (1, 9)).await;
    until("its id stands for it", async || {
        socket.send(refused.clone()).await;
        let repeated = socket.next().await;
        repeated["data"] == json!({ "status": "in_progress", "repeated": true })
    })
    .await;
    assert_eq!(starts_seen(&sandbox).await, 2, "the start and the message that made it report");
}

#[tokio::test]
async fn a_start_that_is_sent_again_is_told_where_its_workflow_stands() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    for (id, outcome) in [("good", "completed"), ("bad", "failed")] {
        let parameters = json!({ "steps": 2, "step_ms": 1, "outcome": outcome, "result": 7 });
        let first = start(id, &project, parameters);
        let mut socket = sandbox.socket(&user).await;
        socket.send(first.clone()).await;
        while socket.next().await["data"]["status"] != outcome {}
        let mut other = sandbox.socket(&user).await;
        let mut told = json!(null);
        until("the end is known", async || {
            other.send(first.clone()).await;
            told = other.next().await;
            assert_eq!((&told["correlation_id"], &told["data"]["repeated"]), (&json!(id), &json!(true)));
            told["data"]["status"] == outcome
        })
        .await;
        assert_eq!(told["data"]["result"]["result"], 7, "{told}");
    }
    assert_eq!(starts_seen(&sandbox).await, 2);
    until("each counts once", async || quota(&sandbox, &user).await == (2, 8)).await;
}

#[tokio::test]
async fn one_id_stands_for_one_start_of_one_user_for_a_day() {
    let sandbox = Sandbox::start().await;
    let (user, other) = (sandbox.register().await, sandbox.register().await);
    let (project, others) = (sandbox.project(&user).await, sandbox.project(&other).await);
    let mut socket = sandbox.socket(&user).await;
    socket.send(start("w1", &project, quick())).await;
    while socket.next().await["data"]["status"] != "completed" {}
    // Another instance than the first.
    socket.send(start("w1", &project, quick())).await;
    let refused = socket.next().await;
    assert_eq!(refused["error"]["code"], "REQ001", "{refused}");
    assert!(refused["error"]["details"]["fields"]["id"].is_string(), "{refused}");
    let mut socket_of_other = sandbox.socket(&other).await;
    socket_of_other.send(start("w1", &others, quick())).await;
    assert_eq!(socket_of_other.next().await["data"]["step"], "step 1 of 1");

    let mut connection = sandbox.connection().await;
    let aged = "UPDATE idempotent_requests SET created_at = created_at - INTERVAL 25 HOUR WHERE user_id = ?";
    sqlx::query(aged).bind(&user.id).execute(&mut connection).await.expect("aged");
    until("the id is free again", async || {
        socket.send(start("w1", &project, quick())).await;
        let told = socket.next().await;
        told["data"]["step"] == "step 1 of 1" && told["data"]["repeated"].is_null()
    })
    .await;
}

#[tokio::test]
async fn starts_keep_their_places_until_core_manager_says_something() {
    let settings =
        vec![("GATEWAY_TIMEOUT_MS", "1000".to_owned()), ("QUOTA_RESERVATION_SECONDS", "2".to_owned())];
    let mut sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    for one in 0..9 {
        let late = json!({ "delay_ms": 9_000, "steps": 1, "step_ms": 1 });
        socket.send(start(&format!("late {one}"), &project, late)).await;
    }
    socket.send(start("never", &project, json!({ "delay_ms": 600_000 }))).await;
    until("all are on their way", async || starts_seen(&sandbox).await == 10).await;
    let mut others = sandbox.socket(&user).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(8) {
        others.send(start(&format!("{:?}", started.elapsed()), &project, quick())).await;
        assert_eq!(others.next().await["error"]["code"], "SUB002");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    until("those that have started count", async || quota(&sandbox, &user).await == (9, 0)).await;
    let since = Instant::now();
    sandbox.restart_stub();
    until("the place of the lost one is free again", async || quota(&sandbox, &user).await == (9, 1)).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_start_of_which_core_manager_says_nothing_is_answered_and_may_still_start() {
    let settings = vec![
        ("GATEWAY_TIMEOUT_MS", "1000".to_owned()),
        ("QUOTA_RESERVATION_SECONDS", "2".to_owned()),
        ("WS_HEARTBEAT_SECONDS", "1".to_owned()),
    ];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(start("w", &project, json!({ "delay_ms": 8_000, "steps": 1, "step_ms": 1 }))).await;
    let told = socket.next().await;
    assert_eq!((&told["correlation_id"], &told["error"]["code"]), (&json!("w"), &json!("GW002")), "{told}");
    assert_eq!(quota(&sandbox, &user).await, (0, 9), "its place stays taken");
    let next = socket.next().await;
    assert_eq!((&next["type"], &next["correlation_id"]), (&json!("workflow_status"), &json!("w")), "{next}");
    until("it counts", async || quota(&sandbox, &user).await == (1, 9)).await;
}

#[tokio::test]
async fn a_core_manager_that_hangs_is_noticed_by_its_sockets() {
    let settings = vec![("WS_HEARTBEAT_SECONDS", "1".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(json!({ "type": "hello", "id": "1" })).await;
    socket.next().await;
    sandbox.stub_process.freeze();
    assert_eq!(socket.closed().await, 1013);
}

#[tokio::test]
async fn who_goes_away_right_after_a_start_has_started_it() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(start("w", &project, json!({ "delay_ms": 500 }))).await;
    until("core-manager has the start", async || starts_seen(&sandbox).await == 1).await;
    drop(socket);
    until("it counts", async || quota(&sandbox, &user).await == (1, 9)).await;
}

#[tokio::test]
async fn a_start_of_which_nobody_knows_whether_it_took_effect_is_not_repeated() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let lost = start("w", &project, json!({ "delay_ms": 60_000 }));
    let mut socket = sandbox.socket(&user).await;
    socket.send(lost.clone()).await;
    until("core-manager has the start", async || starts_seen(&sandbox).await == 1).await;
    sandbox.restart_stub();
    assert_eq!(socket.closed().await, 1012);
    let mut socket = sandbox.socket(&user).await;
    until("it is given up", async || {
        socket.send(lost.clone()).await;
        socket.next().await["error"]["code"] == "GW001"
    })
    .await;
    assert_eq!(starts_seen(&sandbox).await, 0, "the new core-manager has not been asked");
}

#[tokio::test]
async fn who_manages_all_projects_starts_nothing_on_those_of_others() {
    let sandbox = Sandbox::start().await;
    let (owner, admin) = (sandbox.register().await, sandbox.administrator().await);
    let project = sandbox.project(&owner).await;
    let path = format!("/api/v1/admin/users/{}/permissions", admin.id);
    let permission = json!({ "permission_name": "projects.manage" });
    let granted = sandbox.edge().post(&path, &admin.token, permission).await;
    assert!(granted.status.is_success(), "{granted:?}");
    let manager = sandbox.log_in(&admin).await;
    sandbox.edge().get(&format!("/api/v1/projects/{project}"), &manager.token).await.must_be(200);
    let mut socket = sandbox.socket(&manager).await;
    socket.send(start("w", &project, quick())).await;
    assert_eq!(socket.next().await["error"]["code"], "PROJ001");
    assert_eq!(starts_seen(&sandbox).await, 0);
}
