//! The signature of the identity headers, as the examples in the docs verify it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use e2e::{Plan, Sandbox};
use http::Method;
use serde_json::{Value, json};

#[path = "../../../docs/examples/verify.rs"]
mod verify;

use verify::Seen;

const SECRET: &str = "an-e2e-identity-key-0123456789abcdef";
const FORMER: &str = "a-former-identity-key-0123456789abcdef";
const KEYS: [(&str, &str); 2] = [("2026-10", FORMER), ("2026-11", SECRET)];

/// A request as core-manager got it.
#[derive(Clone, Debug)]
struct Got {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Got {
    fn of(seen: &Value) -> Got {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let headers = seen["headers"].as_array().expect("a list");
        let headers = headers.iter().map(|header| (text(&header[0]), text(&header[1]))).collect();
        Got { method: text(&seen["method"]), target: text(&seen["path"]), headers }
    }

    fn with(&self, name: &str, value: &str) -> Got {
        let mut other = self.clone();
        let header = other.headers.iter_mut().find(|(given, _)| given == name);
        header.unwrap_or_else(|| panic!("no {name}")).1 = value.to_owned();
        other
    }

    fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(given, _)| given == name);
        let (Some((_, value)), None) = (values.next(), values.next()) else { panic!("{name}: {self:?}") };
        value
    }

    fn verified(&self, keys: &[(&str, &str)], now: u64) -> bool {
        let seen = Seen { method: &self.method, target: &self.target, headers: &self.headers };
        verify::verify(&seen, keys, now).is_ok()
    }

    /// What the examples in other languages read.
    fn as_json(&self, now: u64) -> Value {
        let keys: serde_json::Map<_, _> =
            KEYS.iter().map(|(id, key)| ((*id).into(), (*key).into())).collect();
        json!({ "method": self.method, "target": self.target, "headers": self.headers, "keys": keys, "now": now })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

async fn signing() -> Sandbox {
    let settings =
        vec![("GATEWAY_SIGNING_KEY", SECRET.to_owned()), ("GATEWAY_SIGNING_KEY_ID", "2026-11".to_owned())];
    Sandbox::planned(Plan { settings, ..Plan::default() }).await
}

/// A request with a query, and headers that a client would like to be taken for ours.
async fn got(sandbox: &Sandbox) -> Got {
    let user = sandbox.register().await;
    let forged = [
        ("x-identity-signature", "edge=:AAAA:"),
        ("x-identity-signature-input", "edge=();created=1"),
        ("x-user-role", "admin"),
        ("x-request-id", "my-id-1"),
    ];
    let path = "/api/v1/echo/a%20b?c=d&e=%2f";
    let reply = sandbox.edge().send(Method::PUT, path, Some(&user.token), &forged, None).await;
    let got = Got::of(&reply.must_be(200));
    assert_eq!((got.header("x-user-id"), got.header("x-request-id")), (user.id.as_str(), "my-id-1"));
    got
}

/// What was signed, changed in each way.
fn tampered(got: &Got) -> Vec<Got> {
    let input = got.header("x-identity-signature-input");
    let less = input.replace(" \"x-user-role\"", "");
    let mut all = vec![
        Got { method: "GET".to_owned(), ..got.clone() },
        Got { target: got.target.replace("a%20b", "a%20c"), ..got.clone() },
        Got { target: got.target.replace("c=d", "c=x"), ..got.clone() },
        Got { target: got.target.replace('?', "/"), ..got.clone() },
        got.with("x-user-id", "0199c0de-0000-7000-8000-000000000001"),
        got.with("x-client-id", "other"),
        got.with("x-user-role", "admin"),
        got.with("x-user-tier", "enterprise"),
        got.with("x-user-email", "a@example.com"),
        got.with("x-user-permissions", "*"),
        got.with("x-request-id", "my-id-2"),
        got.with("x-identity-signature-input", &less),
        got.with("x-identity-signature-input", &input.replace("2026-11", "2026-10")),
        got.with("x-identity-signature-input", &input.replace("2026-11", "2026-12")),
        got.with("x-identity-signature-input", &input.replace("created=1", "created=2")),
        got.with("x-identity-signature", "edge=:AAAA:"),
    ];
    let mut twice = got.clone();
    twice.headers.push(("X-User-Role".to_owned(), "admin".to_owned()));
    all.push(twice);
    all
}

#[tokio::test]
async fn core_manager_can_tell_that_a_request_is_the_edges_and_unchanged() {
    let sandbox = signing().await;
    let got = got(&sandbox).await;
    assert!(got.verified(&KEYS, now()), "{got:?}");
    for changed in tampered(&got) {
        assert!(!changed.verified(&KEYS, now()), "{changed:?}");
    }
    // A replay is good for a minute, and only with a key that is still known.
    assert!(!got.verified(&KEYS, now() + 120) && !got.verified(&KEYS, now() - 120));
    assert!(got.verified(&KEYS[1..], now()) && !got.verified(&KEYS[..1], now()));
}

#[tokio::test]
async fn the_handshake_of_a_socket_to_core_manager_is_signed_too() {
    let sandbox = signing().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    socket.send(json!({ "type": "hello", "id": "1", "data": {} })).await;
    let mut handshake = None;
    e2e::until("core-manager has the socket", async || {
        let seen = sandbox.stub.open_get("/stub/requests").await.body;
        handshake = seen.as_array().expect("a list").iter().find(|seen| seen["path"] == "/ws").map(Got::of);
        handshake.is_some()
    })
    .await;
    let handshake = handshake.expect("a handshake");
    assert!(handshake.verified(&KEYS, now()), "{handshake:?}");
    assert!(!handshake.with("x-user-id", "other").verified(&KEYS, now()));
}

#[tokio::test]
async fn nothing_is_signed_by_default() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let echo = sandbox.edge().get("/api/v1/echo/a", &user.token).await.must_be(200);
    let names: Vec<String> = Got::of(&echo).headers.into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.starts_with("x-identity")), "{names:?}");
}

/// Runs an example on a request; whether it takes it for the edge's.
fn takes(program: &[&str], request: &Value) -> bool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(folder).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
    child.stdin.take().expect("piped").write_all(request.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.starts_with("refused: "), "{program:?}: {said}");
    output.status.success()
}

/// Each language that is there; a machine without it says so.
#[tokio::test]
async fn the_examples_in_other_languages_verify_the_same() {
    let sandbox = signing().await;
    let got = got(&sandbox).await;
    let folder_of_go = tempfile::tempdir().expect("a folder");
    let built = folder_of_go.path().join("verify");
    let built = built.to_str().expect("UTF-8");
    let is_there = |program: &str, version: &str| {
        let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let found = found.is_ok_and(|status| status.success());
        if !found {
            println!("{program} is not installed: its example was not run");
        }
        found
    };
    let mut programs = Vec::new();
    if is_there("python3", "--version") {
        programs.push(vec!["python3", "verify.py"]);
    }
    if is_there("go", "version") {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
        let mut build = Command::new("go");
        build.args(["build", "-o", built, "verify.go"]).current_dir(folder);
        assert!(build.status().expect("started").success(), "verify.go");
        programs.push(vec![built]);
    }
    for program in programs {
        assert!(takes(&program, &got.as_json(now())), "{program:?}: {got:?}");
        assert!(!takes(&program, &got.as_json(now() + 120)) && !takes(&program, &got.as_json(now() - 120)));
        for changed in tampered(&got) {
            assert!(!takes(&program, &changed.as_json(now())), "{program:?}: {changed:?}");
        }
    }
}
