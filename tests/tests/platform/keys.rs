use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e2e::{Plan, Sandbox, until};
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
