use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e2e::{Client, JWT_SECRET, Plan, Process, Reply, Sandbox, User, local, until};
use http::Method;
use serde_json::{Value, json};

/// The header of a token, which anybody may read.
fn header(token: &str) -> Value {
    use base64::Engine;
    let part = token.split('.').next().expect("a header");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

async fn rotate_under_load(sandbox: Sandbox, algorithm: &str) {
    let sandbox = Arc::new(sandbox);
    let user = sandbox.register().await;
    let before = header(&user.token);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..6).map(|client| {
        let (sandbox, stop, served, mut user) = (sandbox.clone(), stop.clone(), served.clone(), user.clone());
        tokio::spawn(async move {
            user = sandbox.log_in(&user).await;
            for round in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let edge = &sandbox.edges[(client + round) % 2];
                edge.get("/api/v1/personas/instances", &user.token).await.must_be(200);
                if round % 20 == 19 {
                    let body = json!({ "refresh_token": user.refresh_token });
                    let tokens = edge.open_post("/api/v1/auth/refresh", body).await.must_be(200);
                    user = e2e::User::of(&tokens, user.email.clone());
                    // On the other edge at once: it knew the new key before the key signed.
                    let other = &sandbox.edges[(client + round + 1) % 2];
                    other.get("/api/v1/personas/instances", &user.token).await.must_be(200);
                }
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    until("the load is on", async || served.load(Ordering::Relaxed) > 100).await;
    let said = sandbox.identity_command(&[("JWT_ALGORITHM", algorithm)], &["keys", "rotate"]).await;
    assert!(said.contains("signs from now on"), "{said}");
    until("every replica signs with the new key", async || {
        let mut new = 0;
        for _ in 0..4 {
            let token = sandbox.log_in(&user).await.token;
            let header = header(&token);
            new += u32::from(header["kid"] != before["kid"] && header["alg"] == algorithm);
        }
        new == 4
    })
    .await;
    let (at, more) = (served.load(Ordering::Relaxed), 300);
    until("the load has gone on", async || served.load(Ordering::Relaxed) > at + more).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    // A token of the old key lives its life.
    sandbox.edge().get("/api/v1/user/profile", &user.token).await.must_be(200);
    let listed = sandbox.identity_command(&[], &["keys", "list"]).await;
    assert!(listed.contains(r#""state":"active""#) && listed.contains(r#""state":"retired""#), "{listed}");
}

#[tokio::test]
async fn keys_of_one_secret_rotate_under_load_without_a_refused_request() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    rotate_under_load(sandbox, "HS256").await;
}

#[tokio::test]
async fn key_pairs_rotate_under_load_and_their_public_halves_are_published() {
    let settings = vec![("JWT_ALGORITHM", "EdDSA".to_owned())];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let jwks = sandbox.edge().open_get("/.well-known/jwks.json").await;
    assert_eq!(jwks.headers["cache-control"], "public, max-age=60");
    let keys = jwks.must_be(200);
    assert_eq!(keys["keys"][0]["kid"], header(&user.token)["kid"]);
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]), (&json!("OKP"), &json!("EdDSA")));
    assert!(keys["keys"][0].get("d").is_none(), "never the private half");
    rotate_under_load(sandbox, "EdDSA").await;
}

#[tokio::test]
async fn one_algorithm_gives_way_to_another_by_a_rotation() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    assert_eq!(sandbox.edge().open_get("/.well-known/jwks.json").await.must_be(200), json!({ "keys": [] }));
    rotate_under_load(sandbox, "ES256").await;
}

#[tokio::test]
async fn a_key_does_not_sign_before_every_live_edge_has_it() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let frozen = &sandbox.edge_processes[1];
    frozen.freeze();
    let arguments = ["keys", "rotate", "--wait", "2"];
    let refused = sandbox.identity_command_fails(&arguments).await;
    assert!(refused.contains("Waiting for edge") && refused.contains("goes on signing"), "{refused}");
    let user = sandbox.register().await;
    assert_eq!(header(&user.token)["kid"], Value::Null, "the old key goes on signing");
    frozen.thaw();
    let said = sandbox.identity_command(&[], &["keys", "rotate"]).await;
    assert!(said.contains("signs from now on"), "{said}");
}

#[tokio::test]
async fn a_key_that_was_sealed_with_another_secret_never_signs() {
    let settings = vec![("JWT_ALGORITHM", "EdDSA".to_owned())];
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    sandbox.set("JWT_SECRET_KEY", "a-foreign-secret-of-at-least-32-bytes");
    let refused = sandbox.identity_command_fails(&["keys", "rotate", "--wait", "3"]).await;
    assert!(refused.contains("Waiting for identity-svc") && refused.contains("goes on signing"), "{refused}");
    sandbox.set("JWT_SECRET_KEY", JWT_SECRET);
    let said = sandbox.identity_command(&[], &["keys", "rotate"]).await;
    assert!(said.contains("signs from now on"), "{said}");
    // One that starts now can read the key that signs.
    restart_identities(&mut sandbox, &mut vec![user.clone()]).await;
    let again = sandbox.log_in(&user).await;
    assert_ne!(header(&again.token)["kid"], header(&user.token)["kid"]);
    sandbox.edge().get("/api/v1/user/profile", &again.token).await.must_be(200);
}

#[tokio::test]
async fn where_there_is_an_administrator_a_start_makes_none_and_opens_no_key() {
    let settings = vec![("JWT_ALGORITHM", "EdDSA".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    sandbox.administrator().await;
    let another = [("JWT_SECRET_KEY", "another secret than the key was sealed with")];
    let arguments = ["admin", "create", "--if-none", "--email", "admin@example.com", "--password-stdin"];
    let said = sandbox.identity_command(&another, &arguments).await;
    assert!(said.contains("nothing was done"), "{said}");
}

#[tokio::test]
async fn tokens_of_a_former_secret_are_good_until_they_expire() {
    let former = "a-former-secret-of-at-least-32-bytes".to_owned();
    let settings = vec![("JWT_PREVIOUS_SECRET_KEYS", former.clone())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let resigned = super::credentials::resigned(&user.token, &former);
    sandbox.edge().get("/api/v1/user/profile", &resigned).await.must_be(200);
    // By identity-svc as well, which must know a secret before another replica of it signs with it.
    sandbox.edge().post("/api/v1/auth/validate", &resigned, json!({})).await.must_be(200);
    let foreign = super::credentials::resigned(&user.token, "a-foreign-secret-of-at-least-32-bytes");
    sandbox.edge().get("/api/v1/user/profile", &foreign).await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn an_edge_with_another_secret_or_audience_is_not_ready_and_says_why() {
    let sandbox = Sandbox::start().await;
    for (name, other) in
        [("JWT_SECRET_KEY", "another-signing-key-0123456789abcdef"), ("JWT_AUDIENCE", "another-platform")]
    {
        let mut settings = sandbox.settings();
        let internal = Client::new(format!("http://{}", local()));
        settings.extend([
            (name, other.to_owned()),
            ("EDGE_LISTEN", "127.0.0.1:0".to_owned()),
            ("EDGE_INTERNAL_LISTEN", internal.authority().to_owned()),
        ]);
        let edge = Process::start("edge", &settings);
        until("the edge says why it is not ready", async || {
            let ready = internal.try_send(Method::GET, "/readyz", None, &[], None).await;
            ready.is_some_and(|ready| {
                assert_ne!(ready.status, 200, "ready, with another {name}");
                ready.text().contains("JWT_SECRET_KEY or JWT_AUDIENCE")
            })
        })
        .await;
        let said = || edge.said().matches("tokens of identity-svc cannot be verified").count();
        until("its log says so", async || said() > 0).await;
        assert_eq!(said(), 1);
        let metrics = internal.open_get("/internal/metrics").await.text().to_owned();
        assert!(metrics.contains("edge_token_keys_known 0"), "{metrics}");
    }
}

/// Whether a call came through. One that was on its way to a replica which ended did not, and says nothing of tokens.
fn came_through(reply: &Reply) -> bool {
    reply.status == 200 || {
        assert_eq!(reply.code(), "GW001", "{reply:?}");
        false
    }
}

/// Tokens that were given out before and those that are now are good at every replica of everything.
async fn everybody_is_known(sandbox: &Sandbox, users: &mut Vec<User>) {
    let login = json!({ "email": users[0].email, "password": users[0].password });
    // Calls go round the replicas of identity-svc.
    for _ in 0..3 {
        let fresh = RefCell::new(None);
        until("somebody signs in", async || {
            let reply = sandbox.edge().open_post("/api/v1/auth/login", login.clone()).await;
            came_through(&reply)
                && fresh.replace(Some(User::of(&reply.body, users[0].email.clone()))).is_none()
        })
        .await;
        users.extend(fresh.into_inner());
    }
    for edge in &sandbox.edges {
        for user in users.iter() {
            for _ in 0..2 {
                until("a token is known", async || {
                    came_through(&edge.post("/api/v1/auth/validate", &user.token, json!({})).await)
                })
                .await;
            }
            edge.get("/api/v1/personas/instances", &user.token).await.must_be(200);
        }
    }
}

async fn restart_identities(sandbox: &mut Sandbox, users: &mut Vec<User>) {
    for place in 0..sandbox.identity.len() {
        // As a roll-out does.
        assert_eq!(sandbox.identity_processes[place].terminate().await, Some(0));
        sandbox.restart_identity(place).await;
        everybody_is_known(sandbox, users).await;
    }
}

async fn restart_edges(sandbox: &mut Sandbox, users: &mut Vec<User>) {
    for place in 0..sandbox.edges.len() {
        sandbox.restart_edge(place).await;
        everybody_is_known(sandbox, users).await;
    }
}

/// In the order of docs/operations.md.
async fn replace_secret(algorithm: &str) {
    let fresh = "a-fresh-secret-of-at-least-32-bytes-x";
    let settings = vec![("JWT_ALGORITHM", algorithm.to_owned())];
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let mut users = vec![sandbox.register().await];
    sandbox.set("JWT_PREVIOUS_SECRET_KEYS", fresh);
    restart_identities(&mut sandbox, &mut users).await;
    restart_edges(&mut sandbox, &mut users).await;
    sandbox.set("JWT_SECRET_KEY", fresh);
    sandbox.set("JWT_PREVIOUS_SECRET_KEYS", JWT_SECRET);
    restart_identities(&mut sandbox, &mut users).await;
    restart_edges(&mut sandbox, &mut users).await;
    if algorithm != "HS256" {
        sandbox.identity_command(&[], &["keys", "rotate"]).await;
    }
    // What was given out before has expired by then.
    users = vec![sandbox.log_in(&users[0]).await];
    sandbox.set("JWT_PREVIOUS_SECRET_KEYS", "");
    restart_identities(&mut sandbox, &mut users).await;
    restart_edges(&mut sandbox, &mut users).await;
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_refused_token() {
    replace_secret("HS256").await;
}

#[tokio::test]
async fn a_secret_that_seals_a_key_pair_is_replaced_without_a_refused_token() {
    replace_secret("EdDSA").await;
}
