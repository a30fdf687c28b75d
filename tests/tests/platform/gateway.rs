use std::collections::BTreeMap;
use std::time::Duration;

use e2e::{Plan, Sandbox, raw};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const INSTANCES: &str = "/api/v1/personas/instances";

/// The headers that core-manager got, by name; one that came twice has both values.
fn headers(echo: &Value) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for pair in echo["headers"].as_array().expect("headers") {
        let (name, value) = (pair[0].as_str().expect("a name"), pair[1].as_str().expect("a value"));
        all.entry(name.to_owned())
            .and_modify(|known| *known += &format!(" AND {value}"))
            .or_insert(value.to_owned());
    }
    all
}

#[tokio::test]
async fn core_manager_sees_who_the_caller_is_whatever_the_client_says() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let forged = [
        ("x-stub-echo", "1"),
        ("X-User-ID", "root"),
        ("x_user_id", "root"),
        ("X-User_Role", "admin"),
        ("x.user.role", "admin"),
        ("X-USER-TIER", "enterprise"),
        ("X-Client-Id", "other"),
        ("x-user-email", "root@example.com"),
        ("x-user-permissions", "*"),
        ("x-user-anything", "1"),
        ("x-identity-signature", "1"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-original-url", "/admin"),
        ("x-http-method-override", "DELETE"),
        ("connection", "keep-alive, X-User-ID, X-User-Role, x-secret"),
        ("x-secret", "1"),
        ("x-harmless", "kept"),
    ];
    let reply = sandbox.edge().send(Method::GET, INSTANCES, Some(&user.token), &forged, None).await;
    let got = headers(&reply.must_be(200));
    let known: BTreeMap<&str, &str> = got
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "host" | "x-stub-echo" | "x-request-id" | "traceparent"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let host = sandbox.edge().authority();
    let expected = BTreeMap::from([
        ("x-user-id", user.id.as_str()),
        ("x-client-id", "web"),
        ("x-user-role", "user"),
        ("x-user-tier", "free"),
        ("x-user-email", user.email.as_str()),
        ("x-user-permissions", ""),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", host),
        ("x-harmless", "kept"),
    ]);
    assert_eq!(known, expected);
}

#[tokio::test]
async fn a_path_that_can_be_read_in_two_ways_never_reaches_core_manager() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let tricks = [
        "/api/v1/personas/instances/../templates",
        "/api/v1/personas/instances/%2e%2e/templates",
        "/api/v1/personas/instances/..%2ftemplates",
        "/api/v1/personas/instances/a%2fb",
        "/api/v1/personas/instances/a%00",
        "/api/v1//templates",
        "//api/v1/templates",
        "/api/v1/./templates",
        "/api/v1/personas/instances;/templates",
        "/api/v1/personas/instances/a\\b",
        "/api/v1/%74emplates",
        "/api/v1/personas/instances/%252e%252e",
    ];
    for path in tricks {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            user.token
        );
        let answer = raw(sandbox.edge().authority(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("REQ001"), "{path}: {answer}");
    }
    for path in ["/api/v1/unknown", "/api/v1/Templates", "/api/v1/templates/a/b", "/api/v2/templates"] {
        sandbox.edge().get(path, &user.token).await.must_fail(404, "REQ002");
    }
    assert_eq!(sandbox.stub.open_get("/stub/requests").await.must_be(200), json!([]));
}

#[tokio::test]
async fn path_query_body_and_method_pass_unchanged_and_so_do_core_managers_errors() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let path = "/api/v1/echo/a%20b/%C3%A9?x=%2F..%2F&y=1+2&y=&z";
    let body = json!({ "hello": "world" });
    let echo = edge.send(Method::PUT, path, Some(&user.token), &[], Some(&body)).await.must_be(200);
    assert_eq!((echo["method"].as_str(), echo["path"].as_str()), (Some("PUT"), Some(path)));
    assert_eq!(echo["body"], body.to_string());
    let missing = edge.get(&format!("{INSTANCES}/nothing"), &user.token).await;
    assert_eq!(missing.must_be(404), json!({ "detail": "not found" }));
    let failing = [("x-stub-status", "503")];
    let reply = edge.send(Method::GET, INSTANCES, Some(&user.token), &failing, None).await;
    assert_eq!(reply.must_be(503), json!({ "detail": "stub" }));
    let moved = [("x-stub-redirect", "http://127.0.0.1:1/elsewhere")];
    let reply = edge.send(Method::GET, INSTANCES, Some(&user.token), &moved, None).await;
    assert_eq!(
        (reply.status.as_u16(), reply.headers["location"].as_bytes()),
        (302, &b"http://127.0.0.1:1/elsewhere"[..])
    );
    let reply = edge.send(Method::DELETE, INSTANCES, Some(&user.token), &[], None).await;
    reply.must_fail(405, "REQ002");
    assert_eq!(reply.headers["allow"], "GET, POST, HEAD");
    let whole = edge.get(INSTANCES, &user.token).await;
    let head = edge.send(Method::HEAD, INSTANCES, Some(&user.token), &[], None).await;
    assert_eq!(
        (head.status, &head.headers["content-length"]),
        (whole.status, &whole.headers["content-length"])
    );
}

#[tokio::test]
async fn core_managers_own_connection_and_identity_headers_stay_behind_the_gateway() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let switches = [
        ("x-stub-response-header", "x-user-id=leak"),
        ("x-stub-response-header", "keep-alive=timeout=5"),
        ("x-stub-response-header", "x-kept=yes"),
    ];
    let reply = sandbox.edge().send(Method::GET, INSTANCES, Some(&user.token), &switches, None).await;
    assert_eq!(reply.headers["x-kept"], "yes");
    assert!(
        !reply.headers.contains_key("x-user-id") && !reply.headers.contains_key("keep-alive"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn core_manager_away_slow_resetting_or_truncating() {
    let plan = Plan { settings: vec![("GATEWAY_TIMEOUT_MS", "500".to_owned())], ..Plan::default() };
    let mut sandbox = Sandbox::planned(plan).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge().clone());
    let ask = async |switch: &str| {
        let headers = [(switch, "1")];
        edge.try_send(Method::GET, INSTANCES, Some(&user.token), &headers, None).await
    };
    ask("x-stub-reset").await.expect("an answer").must_fail(502, "GW001");
    ask("x-stub-hang").await.expect("an answer").must_fail(504, "GW002");
    assert!(ask("x-stub-truncate").await.is_none(), "a truncated answer must not look whole");
    sandbox.stub_process.kill();
    for _ in 0..15 {
        ask("x-nothing").await.expect("an answer").must_fail(502, "GW001");
    }
    sandbox.restart_stub();
    e2e::until("requests pass again", async || {
        ask("x-nothing").await.is_some_and(|reply| reply.status == 200)
    })
    .await;
}

#[tokio::test]
async fn core_manager_that_only_hangs_opens_the_circuit() {
    let plan = Plan { settings: vec![("GATEWAY_TIMEOUT_MS", "100".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let (user, hang) = (sandbox.register().await, [("x-stub-hang", "1")]);
    let ask = || sandbox.edge().send(Method::GET, INSTANCES, Some(&user.token), &hang, None);
    for _ in 0..10 {
        ask().await.must_fail(504, "GW002");
    }
    let reply = ask().await;
    reply.must_fail(502, "GW001");
    assert_eq!(reply.body["error"]["details"]["circuit"], "open");
}

#[tokio::test]
async fn an_upload_may_take_longer_than_core_managers_answer() {
    let plan = Plan { settings: vec![("GATEWAY_TIMEOUT_MS", "500".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let user = sandbox.register().await;
    let mut stream = TcpStream::connect(sandbox.edge().authority()).await.expect("a connection");
    let head = format!(
        "POST /api/v1/echo/slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-length: 12\r\n\r\n",
        user.token
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // Each part comes within the time, all of them do not.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"abc").await.expect("sent");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""body_length":12"#), "{answer}");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let megabytes = (64 * 1024 * 1024).to_string();
    let switch = [("x-stub-stream-bytes", megabytes.as_str())];
    let reply = sandbox.edge().send(Method::GET, INSTANCES, Some(&user.token), &switch, None).await;
    assert_eq!(reply.bytes.len(), 64 * 1024 * 1024);
    let body = json!("x".repeat(16 * 1024 * 1024));
    let echo =
        sandbox.edge().send(Method::POST, "/api/v1/echo/big", Some(&user.token), &[], Some(&body)).await;
    assert_eq!(echo.must_be(200)["body_length"], 16 * 1024 * 1024 + 2);
}
