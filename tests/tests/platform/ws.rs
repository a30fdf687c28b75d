use std::time::Duration;

use e2e::{Plan, Sandbox, Socket};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use uuid::Uuid;

/// A `start_workflow`.
pub fn start(id: &str, project: &str, parameters: Value) -> Value {
    json!({
        "type": "start_workflow",
        "id": id,
        "data": {
            "workflow_type": "test", "agent_instance_id": Uuid::now_v7(), "project_id": project,
            "parameters": parameters,
        },
    })
}

#[tokio::test]
async fn a_workflow_reports_its_progress_to_its_end() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    for (id, outcome) in [("w1", "completed"), ("w2", "failed")] {
        let parameters = json!({ "steps": 3, "step_ms": 10, "outcome": outcome });
        socket.send(start(id, &project, parameters)).await;
        let mut progress = -1.0;
        loop {
            let message = socket.next().await;
            assert_eq!(
                (message["type"].as_str(), message["correlation_id"].as_str()),
                (Some("workflow_status"), Some(id))
            );
            let now = message["data"]["progress"].as_f64().expect("a number");
            assert!((0.0..=1.0).contains(&now) && now >= progress, "{message}");
            progress = now;
            if message["data"]["status"] != "in_progress" {
                assert_eq!(message["data"]["status"], outcome);
                break;
            }
        }
    }
    e2e::until("workflows count as content", async || {
        let usage = sandbox.edge().get("/api/v1/subscription/usage", &user.token).await.must_be(200);
        usage["content_count"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_start_is_refused_for_another_users_project_and_beyond_the_quota() {
    let sandbox = Sandbox::start().await;
    let (user, stranger) = (sandbox.register().await, sandbox.register().await);
    let (project, foreign) = (sandbox.project(&user).await, sandbox.project(&stranger).await);
    let mut socket = sandbox.socket(&user).await;
    socket.send(start("w", &foreign, json!({}))).await;
    let refused = socket.next().await;
    assert_eq!(
        (refused["correlation_id"].as_str(), refused["error"]["code"].as_str()),
        (Some("w"), Some("PROJ001"))
    );
    let mut connection = sandbox.connection().await;
    sqlx::query(
        "INSERT INTO usage_counters (user_id, resource, used, updated_at) VALUES (?, 'content', 10, NOW(6))",
    )
    .bind(&user.id)
    .execute(&mut connection)
    .await
    .expect("used up");
    socket.send(start("w", &project, json!({}))).await;
    let refused = socket.next().await;
    assert_eq!(refused["error"]["code"], "SUB002");
    assert_eq!(refused["error"]["details"], json!({ "resource": "content", "limit": 10, "used": 10 }));
    assert_eq!(sandbox.stub.open_get("/stub/frames").await.must_be(200), json!([]));
}

#[tokio::test]
async fn what_is_no_envelope_is_answered_and_the_rest_passes_through() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    let no_envelopes =
        ["hello", "[]", r#"["custom","77",{}]"#, r#"{"type":"x"}"#, r#"{"type":"x","type":"y","id":"1"}"#];
    for text in no_envelopes {
        socket.send_text(text).await;
        let error = socket.next().await;
        assert_eq!(
            (error["type"].as_str(), error["error"]["code"].as_str()),
            (Some("error"), Some("REQ001")),
            "{text}"
        );
    }
    socket.send(json!({ "type": "ping", "id": "p" })).await;
    assert_eq!(socket.next().await["type"], "pong");
    socket.send(json!({ "type": "anything", "id": "a", "data": [1] })).await;
    let echo = socket.next().await;
    assert_eq!((echo["type"].as_str(), echo["correlation_id"].as_str()), (Some("echo"), Some("a")));
    let headers = echo["data"]["headers"].as_object().expect("headers");
    assert_eq!(headers.len(), 6, "{headers:?}");
    assert_eq!(headers["x-user-id"], user.id);
    socket.send(json!({ "type": "stub.raw", "id": "r", "data": { "text": "no envelope" } })).await;
    socket.send(json!({ "type": "after", "id": "b" })).await;
    assert_eq!(socket.next().await["correlation_id"], "b", "what core-manager sends must be an envelope too");
}

#[tokio::test]
async fn a_message_that_others_could_read_as_another_never_reaches_core_manager() {
    let sandbox = Sandbox::start().await;
    let (user, stranger) = (sandbox.register().await, sandbox.register().await);
    let (project, foreign) = (sandbox.project(&user).await, sandbox.project(&stranger).await);
    let mut socket = sandbox.socket(&user).await;
    let own = start("w", &project, json!({}));
    let other = start("w", &foreign, json!({}));
    let mut disguised = other.clone();
    disguised["type"] = "hello".into();
    disguised["Type"] = "start_workflow".into();
    let mut two_projects = own.clone();
    two_projects["data"]["Project_ID"] = foreign.clone().into();
    // Go's encoding/json takes a long s for an s.
    let mut long_s = own.clone();
    long_s["data"]["parameterſ"] = json!({ "steps": 1000 });
    let mut two_data = own;
    two_data["Data"] = other["data"].clone();
    for message in [disguised, two_projects, long_s, two_data] {
        socket.send(message.clone()).await;
        let refused = socket.next().await;
        assert_eq!(refused["error"]["code"], "REQ001", "{message}: {refused}");
    }
    assert_eq!(sandbox.stub.open_get("/stub/frames").await.must_be(200), json!([]));
}

#[tokio::test]
async fn a_socket_needs_a_token_and_an_allowed_origin() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let edge = sandbox.edge().authority();
    let bearer = format!("Bearer {}", user.token);
    let protocols = format!("persona.v1, bearer.{}", user.token);
    let open = async |headers: &[(&str, &str)]| Socket::open(edge, headers).await.map(drop);
    assert_eq!(open(&[]).await, Err(401));
    assert_eq!(open(&[("authorization", "Bearer x.y.z")]).await, Err(401));
    assert_eq!(open(&[("sec-websocket-protocol", "persona.v1")]).await, Err(401));
    assert_eq!(open(&[("authorization", &bearer), ("origin", "https://evil.example")]).await, Err(403));
    assert_eq!(open(&[("authorization", &bearer)]).await, Ok(()));
    assert_eq!(
        open(&[("sec-websocket-protocol", &protocols), ("origin", "https://app.example.com")]).await,
        Ok(())
    );
    let url = format!("/ws?token={}", user.token);
    sandbox.edge().open_get(&url).await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn faults_of_the_client_close_the_socket_with_their_code() {
    let plan = Plan {
        settings: vec![
            ("WS_MESSAGES_PER_SECOND", "5".to_owned()),
            ("WS_CONNECTIONS_PER_USER", "2".to_owned()),
        ],
        ..Plan::default()
    };
    let sandbox = Sandbox::planned(plan).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    socket.send_frame(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(socket.closed().await, 1003);
    let mut socket = sandbox.socket(&user).await;
    socket.send_text("x".repeat(65_537)).await;
    assert_eq!(socket.closed().await, 1009);
    let mut socket = sandbox.socket(&user).await;
    for _ in 0..20 {
        socket.send_text(r#"{"type":"ping","id":"1"}"#).await;
    }
    assert_eq!(socket.closed().await, 1008);
    let (_one, _two) = (sandbox.socket(&user).await, sandbox.socket(&user).await);
    let bearer = format!("Bearer {}", user.token);
    let third = Socket::open(sandbox.edge().authority(), &[("authorization", &bearer)]).await;
    assert_eq!(third.expect("101").closed().await, 4429);
}

#[tokio::test]
async fn every_frame_counts_and_not_only_messages() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let begun = Frame::message("", OpCode::Data(Data::Text), false);
    let more = Frame::message("", OpCode::Data(Data::Continue), false);
    for (first, flood) in [
        (Message::Ping(vec![1].into()), Message::Ping(vec![2].into())),
        (Message::Pong(vec![1].into()), Message::Pong(vec![2].into())),
        (Message::Frame(begun), Message::Frame(more)),
    ] {
        let mut socket = sandbox.socket(&user).await;
        socket.send_frame(first).await;
        let mut sent = 0;
        while sent < 5_000 && socket.try_send_frame(flood.clone()).await {
            sent += 1;
        }
        assert_eq!(socket.closed().await, 1008, "{flood:?}");
    }
}

#[tokio::test]
async fn a_socket_dies_at_its_tokens_end_unless_it_got_another() {
    let plan = Plan { settings: vec![("ACCESS_TOKEN_TTL_SECONDS", "3".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let user = sandbox.register().await;
    let (mut dies, mut lives) = (sandbox.socket(&user).await, sandbox.socket(&user).await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let next = sandbox.log_in(&user).await;
    lives.send(json!({ "type": "auth.refresh", "id": "r", "data": { "access_token": next.token } })).await;
    assert_eq!(lives.next().await["type"], "auth.refreshed");
    assert_eq!(dies.closed().await, 4401);
    lives.send(json!({ "type": "ping", "id": "p" })).await;
    assert_eq!(lives.next().await["type"], "pong");
    assert_eq!(lives.closed().await, 4401);
}

#[tokio::test]
async fn a_logout_closes_the_open_socket() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    assert_eq!(socket.closed().await, 4403);
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_dropped() {
    let plan = Plan {
        settings: vec![("WS_HEARTBEAT_SECONDS", "1".to_owned()), ("WS_PONG_TIMEOUT_MS", "500".to_owned())],
        ..Plan::default()
    };
    let sandbox = Sandbox::planned(plan).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    // A client that does not read does not answer either.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(socket.closed().await, 4408);
}

#[tokio::test]
async fn core_manager_away_is_an_error_and_its_restart_a_close() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(json!({ "type": "hello", "id": "1" })).await;
    socket.next().await;
    sandbox.restart_stub();
    assert_eq!(socket.closed().await, 1012);
    sandbox.stub_process.kill();
    let mut socket = sandbox.socket(&user).await;
    socket.send(json!({ "type": "hello", "id": "2" })).await;
    let error = socket.next().await;
    assert_eq!(
        (error["correlation_id"].as_str(), error["error"]["code"].as_str()),
        (Some("2"), Some("GW001"))
    );
    let exit = sandbox.edge_processes[0].terminate();
    let (code, exit) = tokio::join!(socket.closed(), exit);
    assert_eq!((code, exit), (1001, Some(0)));
}

#[tokio::test]
async fn a_status_reaches_the_connection_and_user_that_started_the_workflow_and_no_other() {
    let sandbox = Sandbox::start().await;
    let (one, two) = (sandbox.register().await, sandbox.register().await);
    let (first, second) = (sandbox.project(&one).await, sandbox.project(&two).await);
    let mut starting = sandbox.socket(&one).await;
    let mut beside = sandbox.socket(&one).await;
    let mut stranger = sandbox.socket(&two).await;
    let steps = json!({ "steps": 3, "step_ms": 20 });
    // The id is the user's own: the same one of another user is another start.
    starting.send(start("w", &first, steps.clone())).await;
    stranger.send(start("w", &second, steps.clone())).await;
    stranger.send(start("x", &second, steps)).await;
    let heard = async |socket: &mut Socket, ends: usize| {
        let mut heard = Vec::new();
        while heard.iter().filter(|told: &&Value| told["data"]["status"] == "completed").count() < ends {
            heard.push(socket.next().await);
        }
        // Whatever is on its way as well comes before the answer to this.
        socket.send(json!({ "type": "ping", "id": "p", "data": {} })).await;
        while heard.last().is_none_or(|told| told["type"] != "pong") {
            heard.push(socket.next().await);
        }
        heard.pop();
        let ids = heard.iter().map(|told| told["correlation_id"].as_str().unwrap_or_default().to_owned());
        ids.collect::<Vec<_>>()
    };
    let mut of_stranger = heard(&mut stranger, 2).await;
    let of_starting = heard(&mut starting, 1).await;
    assert_eq!(of_starting.iter().filter(|id| *id == "w").count(), of_starting.len(), "{of_starting:?}");
    of_stranger.sort();
    of_stranger.dedup();
    assert_eq!(of_stranger, ["w", "x"]);
    let of_beside = heard(&mut beside, 0).await;
    assert!(of_beside.is_empty(), "{of_beside:?}");
}
