use std::collections::BTreeSet;

use contract::token::{Claims, Signer};
use e2e::{JWT_SECRET, Plan, Sandbox, raw};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::credentials::claims;

/// The eleven codes of the requirement document.
#[tokio::test]
async fn each_code_of_the_requirement_document_is_produced_over_http() {
    let settings = vec![("GATEWAY_TIMEOUT_MS", "300".to_owned())];
    let plan = Plan { settings, ..Plan::default() };
    let mut sandbox = Sandbox::planned(plan).await;
    let (user, admin) = (sandbox.register().await, sandbox.administrator().await);
    let edge = sandbox.edge().clone();
    let nobody = Uuid::now_v7();
    let login = |password: &str| json!({ "email": user.email, "password": password });
    let new = |password: &str| json!({ "email": user.email, "password": password, "client_id": "web" });

    edge.open_post("/api/v1/auth/login", login("a wrong password")).await.must_fail(401, "AUTH001");
    edge.get("/api/v1/user/profile", "not.a.token").await.must_fail(401, "AUTH003");
    edge.get("/api/v1/templates", &user.token).await.must_fail(403, "AUTH004");
    edge.open_post("/api/v1/auth/register", new(user.password)).await.must_fail(409, "USER002");
    edge.open_post("/api/v1/auth/register", new("short")).await.must_fail(400, "USER003");
    let subscriptions = "/api/v1/admin/subscriptions";
    let upgrade = json!({ "user_id": nobody, "tier": "basic" });
    edge.post(subscriptions, &admin.token, upgrade).await.must_fail(404, "USER001");
    let change = json!({ "tier": "basic" });
    edge.put(&format!("{subscriptions}/{nobody}"), &admin.token, change).await.must_fail(404, "SUB001");

    let fresh = claims(&user.token);
    let old = Claims { iat: fresh.iat - 900, nbf: fresh.nbf - 900, exp: fresh.iat - 1, ..fresh };
    let expired = Signer::hs256(&JWT_SECRET.to_owned().into()).sign(&old).expect("signed");
    edge.get("/api/v1/user/profile", &expired).await.must_fail(401, "AUTH002");
    let slow = [("x-stub-delay-ms", "2000")];
    let reply = edge.send(Method::GET, "/api/v1/personas/instances", Some(&user.token), &slow, None).await;
    reply.must_fail(504, "GW002");
    for name in ["one", "two", "three"] {
        edge.post("/api/v1/projects", &user.token, json!({ "name": name })).await.must_be(201);
    }
    edge.post("/api/v1/projects", &user.token, json!({ "name": "four" })).await.must_fail(403, "SUB002");
    sandbox.stub_process.kill();
    let reply = edge.get("/api/v1/personas/instances", &user.token).await;
    reply.must_fail(502, "GW001");
    assert_eq!(reply.body["error"]["details"]["service"], "core-manager");
}

#[tokio::test]
async fn answers_that_the_framework_makes_have_the_shape_too() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    edge.open_get("/nowhere").await.must_fail(404, "REQ002");
    edge.open_get("/internal/health").await.must_fail(404, "REQ002");
    edge.open_get("/api/v1/projects/").await.must_fail(404, "REQ002");
    let reply = edge.open_post("/health", json!({})).await;
    reply.must_fail(405, "REQ002");
    assert_eq!(reply.headers["allow"], "GET,HEAD");
    let internal = &sandbox.internals[0];
    internal.open_get("/nowhere").await.must_fail(404, "REQ002");
    let reply = internal.open_post("/readyz", json!({})).await;
    reply.must_fail(405, "REQ002");
    assert_eq!(reply.headers["allow"], "GET,HEAD");
    for request in [
        "NOT HTTP AT ALL\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost x\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n".to_owned(),
        format!("GET /health HTTP/1.1\r\nhost: x\r\nbig: {}\r\n\r\n", "x".repeat(70_000)),
    ] {
        let answer = raw(edge.authority(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(answer.contains("\"request_id\"") && answer.contains("\"code\":\"REQ00"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_with_two_readings_is_refused_and_the_connection_closed() {
    let sandbox = Sandbox::start().await;
    let login = r#"{"email":"a@example.com","password":"b"}"#;
    let post = "POST /api/v1/auth/login HTTP/1.1\r\ncontent-type: application/json\r\n";
    for (head, body) in [
        ("host: x\r\ntransfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("content-length: 40\r\n", login),
        ("host: x\r\nhost: y\r\ncontent-length: 40\r\n", login),
        ("host: a/b@c\r\ncontent-length: 40\r\n", login),
    ] {
        // The answer is read to the end of the connection, and a second request on it gets none.
        let request = format!("{post}{head}\r\n{body}GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = raw(sandbox.edge().authority(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("REQ001"), "{head}: {answer}");
        assert!(!answer.contains("auth-service"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_counts_for_nothing_and_the_connection_ends() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let login = json!({ "email": user.email, "password": user.password }).to_string();
    for both in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        let request = format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{both}\r\n\r\n\
             {:x}\r\n{login}\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n",
            login.len()
        );
        let answer = raw(sandbox.edge().authority(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("access_token"), "{both}: {answer}");
        assert!(!answer.contains("auth-service"), "{both}: {answer}");
    }
}

#[tokio::test]
async fn an_array_is_not_taken_for_an_object() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let array = json!([user.email, user.password]);
    sandbox.edge().open_post("/api/v1/auth/login", array).await.must_fail(400, "REQ001");
    sandbox.edge().put("/api/v1/user/profile", &user.token, json!(["a"])).await.must_fail(400, "REQ001");
}

#[tokio::test]
async fn a_request_id_goes_all_the_way() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let headers = [("x-request-id", "my-id-1"), ("x-stub-echo", "1")];
    let reply = sandbox
        .edge()
        .send(Method::GET, "/api/v1/personas/instances", Some(&user.token), &headers, None)
        .await;
    assert_eq!(reply.headers["x-request-id"], "my-id-1");
    let sent = reply.must_be(200)["headers"].to_string();
    assert!(sent.contains("my-id-1") && sent.contains("traceparent"), "{sent}");
}

/// The headers of all answers that the document has.
fn described_headers(document: &Value) -> BTreeSet<String> {
    let answers = document["components"]["responses"].as_object().expect("answers").values();
    let paths = document["paths"].as_object().expect("paths").values();
    let operations = paths.flat_map(|item| item.as_object().expect("operations").values());
    let own = operations.flat_map(|operation| operation["responses"].as_object().expect("answers").values());
    let headers = answers.chain(own).filter_map(|answer| answer["headers"].as_object());
    headers.flat_map(|headers| headers.keys().map(|name| name.to_lowercase())).collect()
}

#[tokio::test]
async fn only_pages_of_allowed_origins_may_read_answers() {
    let sandbox = Sandbox::start().await;
    let ask = async |origin: &str| {
        let headers = [("origin", origin)];
        sandbox.edge().send(Method::GET, "/health", None, &headers, None).await.headers
    };
    assert_eq!(
        ask("https://app.example.com").await["access-control-allow-origin"],
        "https://app.example.com"
    );
    // All headers that the document describes, and those of core-manager that say where something is.
    let document = sandbox.edge().open_get("/openapi.json").await.must_be(200);
    let described = described_headers(&document);
    assert!(described.contains("idempotency-replayed") && described.contains("retry-after"), "{described:?}");
    let exposed = ask("https://app.example.com").await["access-control-expose-headers"].clone();
    let exposed = exposed.to_str().expect("a text").to_lowercase();
    let exposed: BTreeSet<&str> = exposed.split(", ").collect();
    for name in described.iter().map(String::as_str).chain(["location", "etag"]) {
        assert!(exposed.contains(name), "a page cannot read {name}");
    }
    let other = ask("https://app.example.com.evil.org").await;
    assert!(!other.contains_key("access-control-allow-origin"));
    assert!(!other.contains_key("access-control-expose-headers"));
    assert_eq!(other["vary"], "Origin");
    let headers = [("origin", "https://app.example.com"), ("access-control-request-method", "PUT")];
    let preflight = sandbox.edge().send(Method::OPTIONS, "/api/v1/user/profile", None, &headers, None).await;
    assert_eq!(
        (preflight.status.as_u16(), preflight.headers.contains_key("access-control-allow-methods")),
        (204, true)
    );
}
