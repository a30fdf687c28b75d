//! A core-manager that says what no server would, or hangs up as it is spoken to.

use std::time::Duration;

use e2e::{Plan, Sandbox, User, until};
use http::Method;
use serde_json::{Value, json};

const INSTANCES: &str = "/api/v1/personas/instances";
/// What never has the head of an answer.
const HEADLESS: [&str; 5] = ["noise", "lengths", "endless-head", "control-name", "flood"];

async fn misbehave(sandbox: &Sandbox, how: Value) {
    sandbox.stub.open_post("/stub/behaviour", how).await.must_be(204);
}

async fn behave(sandbox: &Sandbox) {
    sandbox.stub.send(Method::DELETE, "/stub/behaviour", None, &[], None).await.must_be(204);
}

async fn ask(sandbox: &Sandbox, user: &User, garbage: &str) -> Option<e2e::Reply> {
    let headers = [("x-stub-garbage", garbage)];
    sandbox.edge().try_send(Method::GET, INSTANCES, Some(&user.token), &headers, None).await
}

#[tokio::test]
async fn what_is_no_answer_is_gw001_and_the_next_request_is_served() {
    let plan = Plan { settings: vec![("GATEWAY_TIMEOUT_MS", "5000".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let (user, other) = (sandbox.register().await, sandbox.register().await);
    let edge = sandbox.edge();
    for garbage in HEADLESS {
        let reply = ask(&sandbox, &user, garbage).await.expect("an answer");
        reply.must_fail(502, "GW001");
        assert_eq!(reply.body["error"]["details"], json!({ "service": "core-manager" }), "{garbage}");
        // The next request, somebody else's, gets its own answer and nothing of what was said before.
        let echo = edge.get("/api/v1/echo/next", &other.token).await.must_be(200);
        let is_theirs = |header: &Value| header[0] == "x-user-id" && header[1] == other.id.as_str();
        assert!(
            echo["headers"].as_array().is_some_and(|sent| sent.iter().any(is_theirs)),
            "{garbage}: {echo}"
        );
    }
    // A head is passed on before its body is known to be bad, and then the answer must not look whole.
    assert!(ask(&sandbox, &user, "chunk-size").await.is_none(), "a chunk of no size is no end of an answer");
    edge.get(INSTANCES, &other.token).await.must_be(200);
    // More of all that in a row than opens the circuit, and it closes by itself.
    for turn in 0..20 {
        let reply = ask(&sandbox, &user, HEADLESS[turn % HEADLESS.len()]).await.expect("an answer");
        reply.must_fail(502, "GW001");
    }
    until("the circuit is closed again", async || edge.get(INSTANCES, &user.token).await.status == 200).await;
    let edge_process = &sandbox.edge_processes[0];
    assert!(edge_process.peak_kib() < 256 * 1024, "{} KiB", edge_process.peak_kib());
}

#[tokio::test]
async fn a_creation_that_was_answered_with_garbage_is_told_and_not_sent_again() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    misbehave(&sandbox, json!({ "path_prefix": INSTANCES, "garbage": "noise" })).await;
    let key = [("idempotency-key", "garbage")];
    let body = json!({ "name": "p" });
    let create =
        async || sandbox.edge().send(Method::POST, INSTANCES, Some(&user.token), &key, Some(&body)).await;
    create().await.must_fail(502, "GW001");
    behave(&sandbox).await;
    create().await.must_fail(502, "GW001");
    let seen = sandbox.stub.open_get("/stub/requests").await.must_be(200);
    let posts = seen.as_array().expect("a list").iter().filter(|seen| seen["method"] == "POST").count();
    assert_eq!(posts, 1, "nobody knows what came of the first, and so there is no second: {seen}");
}

#[tokio::test]
async fn a_handshake_that_is_none_ends_in_gw001_and_garbage_frames_in_1011() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let message = json!({ "type": "anything", "id": "m" });
    let handshakes = [
        json!({ "path_prefix": "/ws", "drop_header": "upgrade" }),
        json!({ "path_prefix": "/ws", "drop_header": "upgrade", "response_header": "upgrade=h2c" }),
        json!({ "path_prefix": "/ws", "drop_header": "connection", "response_header": "connection=close" }),
        json!({ "path_prefix": "/ws", "drop_header": "sec-websocket-accept" }),
        json!({ "path_prefix": "/ws", "drop_header": "sec-websocket-accept",
                "response_header": "sec-websocket-accept=c29tZWJvZHkgZWxzZSdz" }),
        json!({ "path_prefix": "/ws", "response_header": "sec-websocket-extensions=permessage-deflate" }),
        json!({ "path_prefix": "/ws", "garbage": "noise" }),
        json!({ "path_prefix": "/ws", "garbage": "flood" }),
    ];
    for how in handshakes {
        misbehave(&sandbox, how.clone()).await;
        let mut socket = sandbox.socket(&user).await;
        socket.send(message.clone()).await;
        let answer = socket.next().await;
        assert_eq!(answer["error"]["code"], "GW001", "{how}: {answer}");
        assert_eq!(answer["correlation_id"], "m", "{how}: {answer}");
    }
    misbehave(&sandbox, json!({ "path_prefix": "/ws", "garbage": "frames" })).await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(message.clone()).await;
    assert_eq!(socket.closed().await, 1011);
    behave(&sandbox).await;
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    let data = json!({ "workflow_type": "t", "agent_instance_id": "a", "project_id": project,
                       "parameters": { "steps": 1, "step_ms": 1 } });
    socket.send(json!({ "type": "start_workflow", "id": "w", "data": data })).await;
    assert_eq!(socket.next().await["type"], "workflow_status");
}

#[tokio::test]
async fn connections_that_close_as_the_next_request_leaves_fail_none_and_repeat_no_creation() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let admin = sandbox.administrator().await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "tier": "enterprise" })).await.must_be(200);
    sandbox.stub.open_post("/stub/keep-alive", json!({ "ms": 200 })).await.must_be(204);
    for turn in 0..5 {
        edge.get(INSTANCES, &user.token).await.must_be(200);
        // Until every connection has rested for longer than it is kept.
        tokio::time::sleep(Duration::from_millis(250)).await;
        edge.get("/api/v1/echo/question", &user.token).await.must_be(200);
        tokio::time::sleep(Duration::from_millis(250)).await;
        edge.post(INSTANCES, &user.token, json!({ "name": format!("p{turn}") })).await.must_be(201);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let list = edge.get(INSTANCES, &user.token).await.must_be(200);
    assert_eq!(list["instances"].as_array().map(Vec::len), Some(5), "{list}");
}
