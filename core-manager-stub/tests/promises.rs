//! What tests of the platform may rely on, shown on the real program over real sockets.

mod program;

use std::io::ErrorKind;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use program::{IDENTITY, Stub, request};

#[tokio::test]
async fn refuses_requests_without_identity_headers() {
    let stub = Stub::start().await;
    for name in IDENTITY.map(|(name, _)| name) {
        let lacking = request("GET", "/api/v1/templates").without(name);
        let answer = stub.ask(lacking).await;
        assert_eq!(answer.status, 400, "without {name}");
        assert!(answer.json()["error"].as_str().unwrap().contains(name));
        let twice = request("GET", "/ws").with(name, "again");
        assert_eq!(stub.ask(twice).await.status, 400, "{name} twice");
    }
    let unprivileged = request("GET", "/api/v1/templates").without("X-User-Permissions");
    let answer = stub.ask(unprivileged.with("X-User-Permissions", "")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("server"), Some("core-manager-stub"));
}

#[tokio::test]
async fn a_truncated_answer_ends_before_its_declared_length() {
    let stub = Stub::start().await;
    let answer = stub.ask(request("GET", "/api/v1/templates").with("X-Stub-Truncate", "1")).await;
    assert_eq!(answer.header("content-length"), Some("1000"));
    assert_eq!(answer.body.len(), 100);
}

#[tokio::test]
async fn a_reset_gives_no_answer() {
    let stub = Stub::start().await;
    let end = stub.try_ask(request("GET", "/api/v1/templates").with("X-Stub-Reset", "1")).await;
    assert_eq!(end.err().map(|e| e.kind()), Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_echo_tells_what_was_on_the_wire() {
    let stub = Stub::start().await;
    let sent = request("POST", "/api/v1/echo/a%2Fb//c?q=%20&q").with("X-Two", "1").with("X-Two", "2");
    let answer = stub.ask(sent.body("hello")).await.json();
    assert_eq!(answer["path"], "/api/v1/echo/a%2Fb//c?q=%20&q");
    assert_eq!(answer["body_base64"], "aGVsbG8=");
    let headers = answer["headers"].as_array().unwrap();
    let twos: Vec<_> = headers.iter().filter(|header| header[0] == "x-two").collect();
    assert_eq!(twos, [&json!(["x-two", "1"]), &json!(["x-two", "2"])]);

    let elsewhere = request("DELETE", "/api/v1/templates/1").with("X-Stub-Echo", "1");
    assert_eq!(stub.ask(elsewhere.with("X-Stub-Discard-Body", "1")).await.json()["method"], "DELETE");
    let seen = stub.ask(request("GET", "/stub/requests")).await.json();
    assert_eq!(seen[0]["body_length"], 5);
}

#[tokio::test]
async fn a_behaviour_holds_for_its_prefix_until_it_is_cleared() {
    let stub = Stub::start().await;
    let rule = json!({ "path_prefix": "/api/v1/templates", "status": 503, "response_header": ["x-foo=1", "connection=x-foo"] });
    assert_eq!(stub.ask(request("POST", "/stub/behaviour").json(&rule)).await.status, 204);
    let answer = stub.ask(request("GET", "/api/v1/templates")).await;
    assert_eq!((answer.status, answer.header("x-foo")), (503, Some("1")));
    assert_eq!(answer.json(), json!({ "detail": "stub" }));
    assert_eq!(stub.ask(request("GET", "/api/v1/personas/instances")).await.status, 200);
    stub.ask(request("DELETE", "/stub/behaviour")).await;
    assert_eq!(stub.ask(request("GET", "/api/v1/templates")).await.status, 200);
}

#[tokio::test]
async fn an_instance_is_its_owners_alone() {
    let stub = Stub::start().await;
    let body = json!({ "name": "Ada", "mood": "calm", "owner_id": "someone-else" });
    let created = stub.ask(request("POST", "/api/v1/personas/instances?echo=1").json(&body)).await;
    let instance = created.json();
    assert_eq!(created.status, 201);
    assert_eq!((&instance["owner_id"], &instance["mood"]), (&json!("user-1"), &json!("calm")));
    assert_eq!(instance["echo"]["headers"]["x-client-id"], "client-1");

    let path = format!("/api/v1/personas/instances/{}", instance["id"].as_str().unwrap());
    let stranger = request("GET", &path).without("X-User-ID").with("X-User-ID", "user-2");
    let answer = stub.ask(stranger).await;
    assert_eq!((answer.status, answer.json()), (404, json!({ "detail": "not found" })));
    let patched = stub.ask(request("PATCH", &path).json(&json!({ "mood": "glad" }))).await.json();
    assert_eq!((&patched["mood"], &patched["name"]), (&json!("glad"), &json!("Ada")));
    let put = stub.ask(request("PUT", &path).json(&json!({ "name": "Bea" }))).await.json();
    assert_eq!((put.get("mood"), &put["id"]), (None, &instance["id"]));
    assert!(put.get("echo").is_none());
    assert_eq!(stub.ask(request("DELETE", &path)).await.status, 204);
    assert_eq!(stub.ask(request("DELETE", &path)).await.status, 404);
}

#[tokio::test]
async fn workflows_run_side_by_side_to_the_outcome_asked_for() {
    let stub = Stub::start().await;
    let mut socket = stub.socket().await;
    for (id, outcome) in [("good", "completed"), ("bad", "failed")] {
        let parameters = json!({ "steps": 3, "step_ms": 1, "outcome": outcome, "result": 7 });
        let start = json!({ "type": "start_workflow", "id": id, "data": { "parameters": parameters } });
        socket.send(Message::text(start.to_string())).await.unwrap();
    }
    let mut statuses: Vec<(Value, Value)> = Vec::new();
    for _ in 0..8 {
        let message = program::json(&socket.next().await.unwrap().unwrap());
        statuses.push((message["correlation_id"].clone(), message["data"].clone()));
    }
    let of = |id: &str| statuses.iter().filter(|(of, _)| of == id).map(|(_, data)| data).collect::<Vec<_>>();
    let (good, bad) = (of("good"), of("bad"));
    assert_eq!((good.len(), bad.len()), (4, 4));
    assert_eq!((&good[3]["status"], &good[3]["result"]["result"]), (&json!("completed"), &json!(7)));
    assert_eq!(bad[3]["status"], "failed");
    assert!(bad[3]["result"]["error"].is_string());
}

#[tokio::test]
async fn a_socket_sends_what_it_is_told_to() {
    let stub = Stub::start().await;
    let mut socket = stub.socket().await;
    let orders = [
        json!({ "type": "stub.flood", "data": { "count": 3, "bytes": 1000 } }),
        json!({ "type": "stub.raw", "data": { "text": "no envelope" } }),
        json!({ "type": "stub.binary" }),
        json!({ "type": "anything", "id": "1" }),
        json!({ "type": "stub.misspelt", "id": "2" }),
    ];
    for order in &orders {
        socket.send(Message::text(order.to_string())).await.unwrap();
    }
    let mut messages = Vec::new();
    for _ in 0..7 {
        messages.push(socket.next().await.unwrap().unwrap());
    }
    for flood in &messages[..3] {
        let padding = program::json(flood)["data"]["padding"].clone();
        assert_eq!(padding.as_str().map(str::len), Some(1000));
    }
    assert_eq!(messages[3], Message::text("no envelope"));
    assert!(messages[4].is_binary());
    let echo = program::json(&messages[5]);
    assert_eq!((&echo["type"], &echo["correlation_id"]), (&json!("echo"), &json!("1")));
    assert_eq!(echo["data"]["received"], orders[3]);
    assert_eq!(echo["data"]["headers"].as_object().unwrap().len(), IDENTITY.len());
    assert_eq!(program::json(&messages[6])["type"], "error");
}

#[tokio::test]
async fn workflows_end_with_their_socket() {
    let stub = Stub::start().await;
    let mut socket = stub.socket().await;
    let start =
        json!({ "type": "start_workflow", "id": "1", "data": { "parameters": { "step_ms": 60_000 } } });
    socket.send(Message::text(start.to_string())).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let open = |state: Value| (state["sockets"].clone(), state["workflows"].clone());
    assert_eq!(open(stub.state().await), (json!(1), json!(1)));
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    stub.until(async || open(stub.state().await) == (json!(0), json!(0))).await;
}

#[tokio::test]
async fn a_socket_closes_or_drops_as_told() {
    let stub = Stub::start().await;
    let mut socket = stub.socket().await;
    let order = json!({ "type": "stub.close", "data": { "code": 4321, "reason": "as told" } });
    socket.send(Message::text(order.to_string())).await.unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
        panic!("no close frame");
    };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4321, "as told"));

    let mut socket = stub.socket().await;
    socket.send(Message::text(json!({ "type": "stub.drop" }).to_string())).await.unwrap();
    let Some(Err(Error::Io(end))) = socket.next().await else {
        panic!("no reset");
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let frames = stub.ask(request("GET", "/stub/frames")).await.json();
    assert_eq!(frames[1], json!({ "user_id": "user-1", "text": r#"{"type":"stub.drop"}"# }));
}

#[tokio::test]
async fn a_terminated_stub_closes_its_sockets_with_1012_and_exits_0() {
    let mut stub = Stub::start().await;
    let mut socket = stub.socket().await;
    stub.terminate();
    let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1012);
    while socket.next().await.is_some() {}
    assert_eq!(stub.exit_code().await, Some(0));
}
