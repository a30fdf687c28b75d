//! Bodies that take their time: whose rights they come with, what they hold, and whom they keep out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::{Client, Plan, Sandbox, User, until};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::floods::bites;

const INSTANCES: &str = "/api/v1/personas/instances";
const TEMPLATES: &str = "/api/v1/templates";
const PROJECTS: &str = "/api/v1/projects";

const SOON: Duration = Duration::from_secs(5);

/// A request of which the last has not been sent yet.
struct Upload(TcpStream);

impl Upload {
    /// Sends the head of a request and the beginning of its body.
    async fn begin(edge: &Client, target: &str, headers: &[(&str, &str)], beginning: &str) -> Upload {
        let mut stream = TcpStream::connect(edge.authority()).await.expect("a connection");
        let mut head = format!(
            "{target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
             content-type: application/json\r\n"
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("sent");
        // It may be refused before all of this is sent.
        let first = format!("{:x}\r\n{beginning}\r\n", beginning.len());
        let _ = stream.write_all(first.as_bytes()).await;
        Upload(stream)
    }

    /// As [`Upload::begin`], of a user.
    async fn of(edge: &Client, user: &User, target: &str, beginning: &str) -> Upload {
        let token = format!("Bearer {}", user.token);
        Upload::begin(edge, target, &[("authorization", &token)], beginning).await
    }

    async fn send(&mut self, more: &str) {
        self.0.write_all(format!("{:x}\r\n{more}\r\n", more.len()).as_bytes()).await.expect("sent");
    }

    /// The whole answer, without another byte.
    async fn answer(mut self) -> String {
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = self.0.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends the rest and gives the whole answer.
    async fn finish(mut self, rest: &str) -> String {
        // Both may meet a connection that was closed after the answer.
        let _ = self.0.write_all(format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len()).as_bytes()).await;
        self.answer().await
    }
}

#[track_caller]
fn must_fail(answer: &str, status: u16, code: &str, what: &str) {
    let begins = answer.starts_with(&format!("HTTP/1.1 {status}"));
    assert!(begins && answer.contains(&format!("\"{code}\"")), "{what}: {answer}");
}

/// Waits until a GET of the user is answered so.
async fn until_refused(edge: &Client, path: &str, user: &User, status: u16) {
    until("the change binds", async || edge.get(path, &user.token).await.status == status).await;
}

async fn count(edge: &Client, path: &str, user: &User) -> Value {
    edge.get(path, &user.token).await.must_be(200)["count"].clone()
}

#[tokio::test]
async fn a_session_that_ends_while_a_body_is_on_its_way_ends_the_request() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    for is_banned in [false, true] {
        let user = sandbox.register().await;
        let token = format!("Bearer {}", user.token);
        let headers = [("authorization", token.as_str()), ("idempotency-key", "a-key")];
        let mut begun = Vec::new();
        for target in [INSTANCES, PROJECTS, "/api/v1/echo/x"] {
            let target = format!("POST {target}");
            begun.push((target.clone(), Upload::of(edge, &user, &target, "{").await));
            let keyed = Upload::begin(edge, &target, &headers, "{").await;
            begun.push((format!("{target} with a key"), keyed));
        }
        let reached = async || {
            let seen = sandbox.stub.open_get("/stub/requests").await.must_be(200);
            seen.as_array().expect("a list").iter().any(|seen| seen["path"] == "/api/v1/echo/x")
        };
        until("core-manager has begun to read", reached).await;
        if is_banned {
            let ban = json!({ "is_active": false });
            edge.put(&format!("/api/v1/admin/users/{}", user.id), &admin.token, ban).await.must_be(200);
        } else {
            edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
        }
        until_refused(edge, PROJECTS, &user, 401).await;
        for (what, upload) in begun {
            must_fail(&upload.finish(r#""name":"x"}"#).await, 401, "AUTH003", &what);
        }
        if !is_banned {
            let again = sandbox.log_in(&user).await;
            assert_eq!(count(edge, PROJECTS, &again).await, 0);
            assert_eq!(count(edge, INSTANCES, &again).await, 0);
        }
        sandbox.stub.send(Method::DELETE, "/stub/requests", None, &[], None).await;
    }
}

#[tokio::test]
async fn what_an_administrator_is_no_longer_allowed_is_refused_when_its_body_is_whole() {
    let sandbox = Sandbox::start().await;
    let (edge, admin, other) = (sandbox.edge(), sandbox.administrator().await, sandbox.administrator().await);
    let user = sandbox.register().await;
    let change = format!("PUT /api/v1/admin/users/{}", user.id);
    let ours = Upload::of(edge, &admin, &change, "{").await;
    let mut proxied = Upload::of(edge, &admin, &format!("POST {TEMPLATES}"), "{").await;
    proxied.send(r#""name":"x"}"#).await;
    let demote = json!({ "role": "user" });
    edge.put(&format!("/api/v1/admin/users/{}", admin.id), &other.token, demote).await.must_be(200);
    until_refused(edge, TEMPLATES, &admin, 403).await;
    must_fail(&ours.finish(r#""role":"admin"}"#).await, 403, "AUTH004", &change);
    // All of it was there before, but for its end.
    let _ = proxied.0.write_all(b"0\r\n\r\n").await;
    must_fail(&proxied.answer().await, 403, "AUTH004", TEMPLATES);
    assert_eq!(count(edge, TEMPLATES, &other).await, 0);
}

#[tokio::test]
async fn an_upload_goes_on_whatever_becomes_of_others_and_with_more_rights() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let (user, other) = (sandbox.register().await, sandbox.register().await);
    let uploads = [
        Upload::of(edge, &user, &format!("POST {INSTANCES}"), "{").await,
        Upload::of(edge, &user, &format!("POST {PROJECTS}"), "{").await,
    ];
    edge.post("/api/v1/auth/logout", &other.token, json!({})).await.must_be(200);
    let promote = json!({ "role": "moderator", "subscription_tier": "premium" });
    edge.put(&format!("/api/v1/admin/users/{}", user.id), &admin.token, promote).await.must_be(200);
    until_refused(edge, PROJECTS, &other, 401).await;
    for upload in uploads {
        let answer = upload.finish(r#""name":"x","template_id":"t"}"#).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_streams_ends_with_the_session() {
    let sandbox = Sandbox::start().await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    let bytes = 256 * 1024 * 1024;
    let request = format!(
        "GET {INSTANCES} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         x-stub-stream-bytes: {bytes}\r\n\r\n",
        user.token
    );
    let mut stream = TcpStream::connect(edge.authority()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut part = vec![0; 64 * 1024];
    let mut length = stream.read(&mut part).await.expect("an answer");
    assert!(part.starts_with(b"HTTP/1.1 200"));
    edge.post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    until_refused(edge, PROJECTS, &user, 401).await;
    // What is answered within a second arrives whole.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    while let Ok(more) = stream.read(&mut part).await
        && more > 0
    {
        length += more;
    }
    assert!(length < bytes, "all {length} bytes came");
}

#[tokio::test]
async fn what_a_restored_database_does_not_know_any_more_is_broken_off() {
    let sandbox = Sandbox::start().await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    let upload = Upload::of(edge, &user, "PUT /api/v1/echo/x", "{").await;
    let streamed = tokio::spawn(streamed(edge.clone(), user.clone()));
    sandbox.identity_command(&[], &["restored"]).await;
    until_refused(edge, PROJECTS, &user, 401).await;
    must_fail(&upload.finish("}").await, 401, "AUTH003", "the upload");
    assert!(!streamed.await.expect("read").ends_with("0\r\n\r\n"), "the stream came whole");
    let again = sandbox.log_in(&user).await;
    let upload = Upload::of(edge, &again, "PUT /api/v1/echo/x", "{").await;
    assert!(upload.finish("}").await.starts_with("HTTP/1.1 200"), "who is known goes on");
}

/// An answer of core-manager that takes five seconds.
async fn streamed(edge: Client, user: User) -> String {
    let request = format!(
        "GET {INSTANCES} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         x-stub-slow-body-ms: 5000\r\n\r\n",
        user.token
    );
    let mut stream = TcpStream::connect(edge.authority()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    Upload(stream).answer().await
}

#[tokio::test]
async fn an_upload_that_nobody_can_confirm_at_its_end_is_refused_as_a_new_one_is() {
    let settings = [("LIVE_CLAIMS_STALE_SECONDS", "2"), ("LIVE_CLAIMS_GRACE_SECONDS", "60")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let mut sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, user) = (sandbox.edge().clone(), sandbox.register().await);
    let mut uploads = Vec::new();
    for _ in 0..2 {
        uploads.push(Upload::of(&edge, &user, "PUT /api/v1/echo/x", "{").await);
    }
    sandbox.stop_identity();
    let put = async || edge.put("/api/v1/echo/x", &user.token, json!({})).await;
    until("writes are refused", async || put().await.status == 503).await;
    must_fail(&uploads.remove(0).finish("}").await, 503, "GW001", "the upload");
    sandbox.start_identity().await;
    until("writes pass", async || put().await.status == 200).await;
    assert!(uploads.remove(0).finish("}").await.starts_with("HTTP/1.1 200"), "it only had to wait");
}

/// A `Stripe-Signature` of now that nobody has made.
fn made_up() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    format!("t={now},v1={}", "0".repeat(64))
}

#[tokio::test]
async fn bodies_of_strangers_hold_only_so_much_memory_and_keep_nobody_out() {
    const WEBHOOKS: usize = 24;
    let sandbox = Sandbox::start().await;
    let (edge, user, signature) = (sandbox.edge(), sandbox.register().await, made_up());
    let (body, mut answers) = ("x".repeat(400 * 1024), JoinSet::new());
    for _ in 0..WEBHOOKS {
        let headers = [("stripe-signature", signature.as_str())];
        let upload = Upload::begin(edge, "POST /webhooks/stripe", &headers, &body).await;
        answers.spawn(upload.answer());
    }
    // Of 8 MiB for one address each takes 26 pieces of 16 KiB.
    for _ in 19..WEBHOOKS {
        let answer = answers.join_next().await.expect("an upload").expect("no panic");
        must_fail(&answer, 503, "GW003", "a webhook");
        assert!(answer.contains("retry-after"), "{answer}");
    }
    sandbox.log_in(&user).await;
    // More than what is left: who hangs gives way to who does not, also where they share an address.
    let mut hanging = Vec::new();
    for _ in 0..40 {
        hanging.push(Upload::begin(edge, "POST /api/v1/auth/login", &[], "{").await);
    }
    let login = json!({ "email": user.email, "password": user.password }).to_string();
    let (first, rest) = login.split_at(5);
    let upload = Upload::begin(edge, "POST /api/v1/auth/login", &[], first).await;
    let answer = upload.finish(rest).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_stripes_is_refused_before_its_body() {
    let sandbox = Sandbox::start().await;
    for signature in [made_up().replace("t=", "t=9"), made_up().replace("v1=", "v1=x")] {
        let headers = [("stripe-signature", signature.as_str())];
        let upload = Upload::begin(sandbox.edge(), "POST /webhooks/stripe", &headers, "{").await;
        must_fail(&upload.answer().await, 400, "Stripe-Signature", &signature);
    }
}

#[tokio::test]
async fn uploads_that_hang_keep_out_nobody_else() {
    const PLACES: usize = 64;
    let settings = vec![("GATEWAY_CONCURRENCY", PLACES.to_string())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, user, other) = (sandbox.edge(), sandbox.register().await, sandbox.register().await);
    let target = "PUT /api/v1/echo/x";
    let mut answers = JoinSet::new();
    for _ in 0..=PLACES {
        answers.spawn(Upload::of(edge, &user, target, "{").await.answer());
    }
    for _ in PLACES / 16..=PLACES {
        let answer = answers.join_next().await.expect("an upload").expect("no panic");
        must_fail(&answer, 503, "GW003", "one more than a sixteenth");
    }
    let put = async |user: &User| edge.put("/api/v1/echo/x", &user.token, json!({})).await;
    put(&user).await.must_fail(503, "GW003");
    edge.get(INSTANCES, &user.token).await.must_be(200);
    put(&other).await.must_be(200);
    answers.shutdown().await;
    until("those who leave make room", async || put(&user).await.status == 200).await;
}

#[tokio::test]
async fn uploads_that_hang_give_way_to_whoever_is_quick_however_many_users_they_are_of() {
    const PLACES: usize = 32;
    let settings = vec![("GATEWAY_CONCURRENCY", PLACES.to_string())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, honest) = (sandbox.edge(), sandbox.register().await);
    let target = "PUT /api/v1/echo/x";
    let mut hanging = JoinSet::new();
    for _ in 0..8 {
        let user = sandbox.register().await;
        for _ in 0..2 {
            hanging.spawn(Upload::of(edge, &user, target, "{").await.answer());
        }
    }
    let seen = async || {
        let seen = sandbox.stub.open_get("/stub/requests").await.must_be(200);
        seen.as_array().expect("a list").len() == PLACES / 2
    };
    until("they have taken half of all places", seen).await;
    edge.put("/api/v1/echo/x", &honest.token, json!({})).await.must_be(200);
    assert_eq!(bites(&sandbox, "uploads").await, 0, "what comes at once pushes nobody out");
    let quick = Upload::of(edge, &honest, target, "{").await;
    // One of those that wait hears of it at once.
    let gone = timeout(SOON, hanging.join_next()).await.expect("at once").expect("an upload");
    must_fail(&gone.expect("no panic"), 503, "GW003", "one that has waited for longer");
    let answer = quick.finish("}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Now there is room.
    let answer = Upload::of(edge, &honest, target, "{").await.finish("}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((hanging.len(), bites(&sandbox, "uploads").await), (PLACES / 2 - 1, 1));
}

#[tokio::test]
async fn uploads_that_stall_open_no_circuit() {
    let settings = vec![("GATEWAY_TIMEOUT_MS", "300".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    for _ in 0..12 {
        let upload = Upload::of(edge, &user, "PUT /api/v1/echo/x", "{").await;
        must_fail(&upload.answer().await, 400, "REQ001", "a stalled upload");
    }
    edge.get(INSTANCES, &user.token).await.must_be(200);
}
