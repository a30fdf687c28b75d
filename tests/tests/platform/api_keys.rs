//! `/api/v1/user/api-keys`, and what a key may do.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use contract::identity::ValidateTokenRequest;
use contract::identity::auth_service_client::AuthServiceClient;
use e2e::{Client, INTERNAL_TOKEN, Plan, Sandbox, Socket, User, until};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const KEYS: &str = "/api/v1/user/api-keys";
const ECHO: &str = "/api/v1/echo/key";

/// Makes a key; gives its id and the key.
async fn key_of(edge: &Client, user: &User, permissions: &[&str]) -> (String, String) {
    let body = json!({ "name": "A machine", "permissions": permissions });
    let made = edge.post(KEYS, &user.token, body).await.must_be(201);
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

/// A header that core-manager got.
fn told<'a>(echoed: &'a Value, name: &str) -> Option<&'a str> {
    let pairs = echoed["headers"].as_array().expect("headers");
    pairs.iter().find(|pair| pair[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))?[1].as_str()
}

async fn two_edges() -> Sandbox {
    Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await
}

#[tokio::test]
async fn a_key_is_told_once_and_acts_for_its_account_on_every_edge() {
    let sandbox = two_edges().await;
    let user = sandbox.register().await;
    let edge = sandbox.edge();
    assert_eq!(edge.get(KEYS, &user.token).await.must_be(200), json!({ "api_keys": [], "count": 0 }));
    let (id, key) = key_of(edge, &user, &[]).await;
    let listed = edge.get(KEYS, &user.token).await.must_be(200);
    assert_eq!((&listed["count"], &listed["api_keys"][0]["id"]), (&json!(1), &json!(id)));
    assert_eq!(listed["api_keys"][0].get("last_used_at"), None, "{listed}");
    assert!(!listed.to_string().contains(&key), "{listed}");
    let start = listed["api_keys"][0]["start"].as_str().expect("a start");
    assert!(key.starts_with(start) && start.len() < 16, "{start}");
    for edge in &sandbox.edges {
        // The second time without a question to identity-svc.
        for _ in 0..2 {
            let echoed = edge.get(ECHO, &key).await.must_be(200);
            assert_eq!(told(&echoed, "x-user-id"), Some(user.id.as_str()));
            assert_eq!(told(&echoed, "authorization"), None, "a key is for us alone");
        }
        let valid = edge.post("/api/v1/auth/validate", &key, json!({})).await.must_be(200);
        assert_eq!(valid["user"]["id"], user.id.as_str());
    }
    let listed = edge.get(KEYS, &user.token).await.must_be(200);
    assert!(listed["api_keys"][0]["last_used_at"].is_string(), "{listed}");
    let project = edge.post("/api/v1/projects", &key, json!({ "name": "p" })).await.must_be(201);
    assert_eq!(project["owner_id"], user.id.as_str());
}

#[tokio::test]
async fn a_revoked_key_dies_on_every_edge_and_open_socket() {
    let sandbox = two_edges().await;
    let user = sandbox.register().await;
    let (id, key) = key_of(sandbox.edge(), &user, &[]).await;
    let (_, other) = key_of(sandbox.edge(), &user, &[]).await;
    let mut sockets = Vec::new();
    for edge in &sandbox.edges {
        sockets.push(Socket::connect(edge.authority(), &key).await);
        edge.get(ECHO, &key).await.must_be(200);
    }
    let path = format!("{KEYS}/{id}");
    assert_eq!(sandbox.edge().delete(&path, &user.token).await.status, 204);
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, 4403);
    }
    for edge in &sandbox.edges {
        until("the key is refused", async || edge.get(ECHO, &key).await.code() == "AUTH003").await;
        edge.get(ECHO, &other).await.must_be(200);
        edge.get(ECHO, &user.token).await.must_be(200);
        assert_eq!(
            Socket::open(edge.authority(), &[("authorization", &format!("Bearer {key}"))]).await.err(),
            Some(401)
        );
    }
    sandbox.edge().delete(&path, &user.token).await.must_fail(404, "REQ002");
    let stranger = sandbox.register().await;
    let (theirs, _) = key_of(sandbox.edge(), &stranger, &[]).await;
    let theirs = sandbox.edge().delete(&format!("{KEYS}/{theirs}"), &user.token).await;
    theirs.must_fail(404, "REQ002");
}

#[tokio::test]
async fn a_key_holds_no_more_than_it_was_made_for_whatever_becomes_of_its_account() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let (owner, manager) = (sandbox.register().await, sandbox.register().await);
    let theirs = format!("/api/v1/projects/{}", sandbox.project(&owner).await);
    let permissions = format!("/api/v1/admin/users/{}/permissions", manager.id);
    let granted = json!({ "permission_name": "projects.manage" });
    edge.post(&permissions, &admin.token, granted).await;
    until("the permission binds", async || edge.get(&theirs, &manager.token).await.status == 200).await;
    let (_, plain) = key_of(edge, &manager, &[]).await;
    let (_, managing) = key_of(edge, &manager, &["projects.manage"]).await;
    edge.get(&theirs, &plain).await.must_fail(404, "PROJ001");
    assert_eq!(edge.get("/api/v1/projects", &plain).await.must_be(200)["count"], 0);
    edge.get(&theirs, &managing).await.must_be(200);
    assert_eq!(edge.get("/api/v1/projects", &managing).await.must_be(200)["count"], 1);

    let account = format!("/api/v1/admin/users/{}", manager.id);
    edge.put(&account, &admin.token, json!({ "role": "admin" })).await.must_be(200);
    until("the role binds", async || edge.get(&account, &manager.token).await.status == 200).await;
    for (key, held) in [(&plain, ""), (&managing, "projects.manage")] {
        let echoed = edge.get(ECHO, key).await.must_be(200);
        assert_eq!(told(&echoed, "x-user-role"), Some("user"));
        assert_eq!(told(&echoed, "x-user-permissions").unwrap_or_default(), held);
        edge.get(&account, key).await.must_fail(403, "AUTH004");
        let valid = edge.post("/api/v1/auth/validate", key, json!({})).await.must_be(200);
        assert_eq!(
            (&valid["user"]["role"], valid["user"]["permissions"].to_string().contains('*')),
            (&json!("user"), false)
        );
    }
    let (_, every) = key_of(edge, &manager, &["*"]).await;
    edge.get(&account, &every).await.must_be(200);

    edge.put(&account, &admin.token, json!({ "role": "user" })).await.must_be(200);
    until("the role binds", async || edge.get(&account, &every).await.code() == "AUTH004").await;
    edge.delete(&format!("{permissions}/projects.manage"), &admin.token).await;
    until("the permission is gone", async || edge.get(&theirs, &managing).await.code() == "PROJ001").await;
}

#[tokio::test]
async fn a_key_cannot_change_who_may_act_for_its_account() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let (id, key) = key_of(edge, &admin, &["*"]).await;
    let (one, session) = (format!("{KEYS}/{id}"), format!("/api/v1/auth/sessions/{id}"));
    let passwords = json!({ "current_password": admin.password, "new_password": "another good password" });
    for (method, path, body) in [
        (Method::GET, KEYS, None),
        (Method::POST, KEYS, Some(json!({ "name": "another" }))),
        (Method::DELETE, one.as_str(), None),
        (Method::GET, "/api/v1/auth/sessions", None),
        (Method::DELETE, "/api/v1/auth/sessions", None),
        (Method::DELETE, session.as_str(), None),
        (Method::POST, "/api/v1/auth/logout", Some(json!({}))),
        (Method::POST, "/api/v1/auth/email/resend", Some(json!({}))),
        (Method::POST, "/api/v1/user/password", Some(passwords)),
        (Method::PUT, "/api/v1/user/profile", Some(json!({ "company": "x" }))),
        (Method::DELETE, "/api/v1/user/delete", None),
        (Method::POST, "/api/v1/subscription/cancel", Some(json!({}))),
        (
            Method::POST,
            "/api/v1/subscription/checkout",
            Some(json!({ "tier": "basic", "interval": "month" })),
        ),
    ] {
        edge.send(method, path, Some(&key), &[], body.as_ref()).await.must_fail(403, "AUTH004");
    }
    edge.get("/api/v1/user/profile", &key).await.must_be(200);
    edge.get("/api/v1/user/profile", &admin.token).await.must_be(200);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_key_that_is_asked_for_is_said() {
    let settings = vec![("API_KEYS_PER_ACCOUNT", "2".to_owned()), ("API_KEY_MAX_DAYS", "10".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    let in_days = |days: u64| {
        (Utc::now() + Duration::from_secs(24 * 3600 * days)).to_rfc3339_opts(SecondsFormat::Secs, true)
    };
    for (body, fields) in [
        (json!({}), vec!["name"]),
        (
            json!({ "name": " ", "permissions": ["fly"], "expires_at": in_days(11) }),
            vec!["expires_at", "name", "permissions"],
        ),
        (json!({ "name": "x".repeat(101) }), vec!["name"]),
        (json!({ "name": "a\u{7}" }), vec!["name"]),
        (json!({ "name": "a", "permissions": ["projects.manage"] }), vec!["permissions"]),
        (json!({ "name": "a", "permissions": ["*"] }), vec!["permissions"]),
        (json!({ "name": "a", "expires_at": "2020-01-01T00:00:00Z" }), vec!["expires_at"]),
        (json!({ "name": "a", "expires_at": "soon" }), vec!["expires_at"]),
    ] {
        let reply = edge.post(KEYS, &user.token, body.clone()).await;
        reply.must_fail(400, "REQ001");
        let named = reply.body["error"]["details"]["fields"].as_object().expect("fields").keys();
        assert_eq!(named.collect::<Vec<_>>(), fields, "{body}");
    }
    let made =
        edge.post(KEYS, &user.token, json!({ "name": " a ", "expires_at": in_days(9) })).await.must_be(201);
    assert_eq!((&made["name"], &made["permissions"]), (&json!("a"), &json!([])));
    key_of(edge, &user, &[]).await;
    let full = edge.post(KEYS, &user.token, json!({ "name": "one too many" })).await;
    full.must_fail(403, "SUB002");
    let facts = &full.body["error"]["details"];
    assert_eq!(facts, &json!({ "resource": "api_keys", "limit": 2, "used": 2 }), "{facts}");
}

#[tokio::test]
async fn a_key_is_good_until_it_expires_and_while_its_account_is() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let user = sandbox.register().await;
    let end = (Utc::now() + Duration::from_secs(3)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let short =
        edge.post(KEYS, &user.token, json!({ "name": "short", "expires_at": end })).await.must_be(201);
    let (_, long) = key_of(edge, &user, &[]).await;
    let short = short["key"].as_str().expect("a key");
    for key in [short, &long] {
        edge.get(ECHO, key).await.must_be(200);
    }
    until("the key has expired", async || edge.get(ECHO, short).await.code() == "AUTH002").await;
    edge.get(ECHO, &long).await.must_be(200);

    let account = format!("/api/v1/admin/users/{}", user.id);
    edge.put(&account, &admin.token, json!({ "is_active": false })).await.must_be(200);
    until("the key is dead", async || edge.get(ECHO, &long).await.code() == "AUTH003").await;
    edge.put(&account, &admin.token, json!({ "is_active": true })).await.must_be(200);
    let user = sandbox.log_in(&user).await;
    until("the account is back", async || edge.get("/api/v1/user/profile", &user.token).await.status == 200)
        .await;
    edge.get(ECHO, &long).await.must_fail(401, "AUTH003");
    let (_, other) = key_of(edge, &user, &[]).await;
    edge.get(ECHO, &other).await.must_be(200);
    edge.delete("/api/v1/user/delete", &user.token).await.must_be(200);
    until("the key is gone", async || edge.get(ECHO, &other).await.code() == "AUTH003").await;
}

#[tokio::test]
async fn a_password_that_an_administrator_sets_ends_keys_and_one_that_the_owner_changes_does_not() {
    let sandbox = two_edges().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let user = sandbox.register().await;
    let (id, key) = key_of(edge, &user, &[]).await;
    let (other_id, other) = key_of(edge, &user, &[]).await;
    let mut socket = Socket::connect(edge.authority(), &key).await;
    for edge in &sandbox.edges {
        edge.get(ECHO, &key).await.must_be(200);
    }
    let other_session = sandbox.log_in(&user).await;
    let change = json!({ "current_password": user.password, "new_password": "another good password" });
    edge.post("/api/v1/user/password", &user.token, change).await.must_be(200);
    until("the other session has ended", async || {
        edge.get("/api/v1/user/profile", &other_session.token).await.code() == "AUTH003"
    })
    .await;
    for edge in &sandbox.edges {
        edge.get(ECHO, &key).await.must_be(200);
    }
    let account = format!("/api/v1/admin/users/{}", user.id);
    let set = json!({ "new_password": "yet another good password" });
    edge.post(&format!("{account}/password"), &admin.token, set).await.must_be(200);
    assert_eq!(socket.closed().await, 4403);
    for edge in &sandbox.edges {
        for key in [&key, &other] {
            until("the key is dead", async || edge.get(ECHO, key).await.code() == "AUTH003").await;
        }
    }
    let keys = edge.get(&format!("{account}/api-keys"), &admin.token).await.must_be(200);
    assert_eq!(keys, json!({ "api_keys": [], "count": 0 }));
    let path = format!("/api/v1/admin/audit?action=api_key_revoked&target_id={}", user.id);
    let log = edge.get(&path, &admin.token).await.must_be(200);
    let mut ended = log["entries"][0]["details"]["api_key_ids"].as_array().expect("ids").clone();
    ended.sort_by_key(Value::to_string);
    let mut made = [json!(id), json!(other_id)];
    made.sort_by_key(Value::to_string);
    assert_eq!(ended, made, "{log}");
}

#[tokio::test]
async fn an_administrator_sees_and_ends_the_keys_of_an_account() {
    let sandbox = two_edges().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let (user, stranger) = (sandbox.register().await, sandbox.register().await);
    let keys = |user: &str| format!("/api/v1/admin/users/{user}/api-keys");
    let listed = async |user: &str| edge.get(&keys(user), &admin.token).await.must_be(200);
    assert_eq!(listed(&user.id).await, json!({ "api_keys": [], "count": 0 }));
    let ((id, key), (_, other)) = (key_of(edge, &user, &[]).await, key_of(edge, &user, &[]).await);
    let (theirs, _) = key_of(edge, &stranger, &[]).await;
    let seen = listed(&user.id).await;
    assert_eq!((&seen["count"], &seen["api_keys"][1]["id"]), (&json!(2), &json!(id)));
    assert!(!seen.to_string().contains(&key), "{seen}");
    for edge in &sandbox.edges {
        edge.get(ECHO, &key).await.must_be(200);
    }
    let one = format!("{}/{id}", keys(&user.id));
    edge.delete(&one, &stranger.token).await.must_fail(403, "AUTH004");
    edge.delete(&format!("{}/{theirs}", keys(&user.id)), &admin.token).await.must_fail(404, "REQ002");
    assert_eq!(edge.delete(&one, &admin.token).await.status, 204);
    for edge in &sandbox.edges {
        until("the key is refused", async || edge.get(ECHO, &key).await.code() == "AUTH003").await;
        edge.get(ECHO, &other).await.must_be(200);
    }
    edge.delete(&one, &admin.token).await.must_fail(404, "REQ002");
    let nobody = Uuid::now_v7().to_string();
    edge.get(&keys(&nobody), &admin.token).await.must_fail(404, "USER001");
    edge.delete(&format!("{}/{id}", keys(&nobody)), &admin.token).await.must_fail(404, "USER001");
    edge.delete(&format!("{}/x", keys(&user.id)), &admin.token).await.must_fail(400, "REQ001");
    let path = format!("/api/v1/admin/audit?action=api_key_revoked&target_id={}", user.id);
    let entry = edge.get(&path, &admin.token).await.must_be(200)["entries"][0].clone();
    assert_eq!((&entry["actor_id"], &entry["details"]), (&json!(admin.id), &json!({ "api_key_id": id })));
}

#[tokio::test]
async fn a_key_makes_its_own_account_no_more_than_it_is() {
    let sandbox = Sandbox::start().await;
    let (edge, admin) = (sandbox.edge(), sandbox.administrator().await);
    let (id, key) = key_of(edge, &admin, &["*"]).await;
    let own = format!("/api/v1/admin/users/{}", admin.id);
    let (permissions, password) = (format!("{own}/permissions"), format!("{own}/password"));
    let (role, granted) = (json!({ "role": "admin" }), json!({ "permission_name": "admin.users" }));
    edge.put(&own, &key, role.clone()).await.must_fail(403, "AUTH004");
    edge.post(&permissions, &key, granted.clone()).await.must_fail(403, "AUTH004");
    edge.delete(&format!("{permissions}/admin.users"), &key).await.must_fail(403, "AUTH004");
    edge.delete(&format!("{own}/api-keys/{id}"), &key).await.must_fail(403, "AUTH004");
    let set = json!({ "new_password": "chosen by a thief" });
    for token in [&key, &admin.token] {
        edge.post(&password, token, set.clone()).await.must_fail(400, "REQ001");
    }
    let subscription = format!("/api/v1/admin/subscriptions/{}", admin.id);
    let (tier, new) = (json!({ "tier": "premium" }), json!({ "user_id": admin.id, "tier": "premium" }));
    edge.put(&subscription, &key, tier.clone()).await.must_fail(403, "AUTH004");
    edge.post("/api/v1/admin/subscriptions", &key, new).await.must_fail(403, "AUTH004");
    // Of others it may, and the person may of itself.
    let other = sandbox.register().await;
    let others = format!("/api/v1/admin/users/{}", other.id);
    edge.post(&format!("{others}/password"), &key, set).await.must_be(200);
    edge.put(&others, &key, json!({ "role": "moderator" })).await.must_be(200);
    let both = json!({
        "user_ids": [admin.id, other.id], "operation": "upgrade_tier", "params": { "tier": "basic" },
    });
    let done = edge.post("/api/v1/admin/users/bulk", &key, both).await.must_be(200);
    assert_eq!(done["succeeded"], json!([other.id]));
    assert_eq!(
        (&done["failed"][0]["user_id"], &done["failed"][0]["error"]["code"]),
        (&json!(admin.id), &json!("AUTH004"))
    );
    edge.put(&subscription, &admin.token, tier).await.must_be(200);
    edge.put(&own, &admin.token, role).await.must_be(200);
    edge.post(&permissions, &admin.token, granted).await.must_be(200);
    sandbox.log_in(&admin).await;
}

#[tokio::test]
async fn the_owner_is_told_of_new_keys_and_not_without_end() {
    let settings = vec![("MAILS_PER_ACCOUNT", "1".to_owned())];
    let sandbox = Sandbox::planned(Plan { mail: true, settings, ..Plan::default() }).await;
    let (edge, user) = (sandbox.edge(), sandbox.register().await);
    sandbox.mail().nth(&user.email, 1).await;
    let name = "Dear owner, call 0900 1234";
    edge.post(KEYS, &user.token, json!({ "name": name })).await.must_be(201);
    let mail = sandbox.mail().nth(&user.email, 2).await;
    assert_eq!(mail["subject"], "An API key was made for your account");
    assert!(!mail.to_string().contains(name), "{mail}");
    for _ in 1..12 {
        key_of(edge, &user, &[]).await;
    }
    let metrics = sandbox.identity_internals[0].open_get("/internal/metrics").await.text();
    // Those that are free, and the one that begins the wait.
    let queued = "identity_mails_total{kind=\"api_key_created\",outcome=\"queued\"} 9";
    assert!(metrics.contains(queued), "{metrics}");
}

/// How many questions an edge has asked about keys.
async fn asked(internal: &Client) -> u64 {
    let metrics = internal.open_get("/internal/metrics").await.text();
    let counts = metrics.lines().filter(|line| line.starts_with("edge_api_keys_redeemed_total{"));
    counts.map(|line| line.rsplit_once(' ').expect("a count").1.parse::<u64>().expect("a number")).sum()
}

#[tokio::test]
async fn known_keys_and_no_keys_cost_no_question_and_unknown_ones_wait_for_identity() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let (_, known) = key_of(sandbox.edge(), &user, &[]).await;
    let (_, fresh) = key_of(sandbox.edge(), &user, &[]).await;
    let edge = sandbox.edge().clone();
    // All at once, and one question.
    let first = (0..20).map(|_| edge.get(ECHO, &known));
    for reply in futures_util::future::join_all(first).await {
        reply.must_be(200);
    }
    let mut mistyped = known.clone();
    mistyped.pop();
    for none in ["persona_", "persona_x", mistyped.as_str(), "persona_%00"] {
        edge.get(ECHO, none).await.must_fail(401, "AUTH003");
    }
    assert_eq!(asked(&sandbox.internals[0]).await, 1);
    sandbox.identity_processes[0].kill();
    edge.get(ECHO, &known).await.must_be(200);
    edge.get(ECHO, &fresh).await.must_fail(503, "GW001");
    sandbox.restart_identity(0).await;
    until("the other key is known, too", async || edge.get(ECHO, &fresh).await.status == 200).await;
}

#[tokio::test]
async fn internal_services_may_ask_what_a_key_is_worth() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let (id, key) = key_of(sandbox.edge(), &user, &[]).await;
    let address = format!("http://{}", sandbox.identity[0]);
    let mut client = AuthServiceClient::connect(address).await.expect("a connection");
    let mut validate = async |access_token: &str| {
        let mut request = tonic::Request::new(ValidateTokenRequest { access_token: access_token.to_owned() });
        let bearer = format!("Bearer {INTERNAL_TOKEN}").parse().expect("a value");
        request.metadata_mut().insert("authorization", bearer);
        client.validate_token(request).await
    };
    let known = validate(&key).await.expect("valid").into_inner();
    assert_eq!((known.user.expect("a user").id, known.session_id), (user.id.clone(), id.clone()));
    assert_eq!(sandbox.edge().delete(&format!("{KEYS}/{id}"), &user.token).await.status, 204);
    assert!(validate(&key).await.is_err());
}
