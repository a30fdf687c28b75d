//! Every route with every kind of credential.

use contract::token::{Claims, ISSUER, Signer};
use contract::{Role, Tier};
use e2e::{INTERNAL_TOKEN, JWT_SECRET, Process, Sandbox, until};
use http::Method;
use serde_json::json;
use uuid::Uuid;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Anybody,
    User,
    Admin,
}

use Who::{Admin, Anybody, User};

/// Every route of the public listener.
pub const ROUTES: [(&str, &str, Who); 72] = [
    ("POST", "/api/v1/auth/register", Anybody),
    ("POST", "/api/v1/auth/login", Anybody),
    ("POST", "/api/v1/auth/refresh", Anybody),
    ("POST", "/api/v1/auth/validate", User),
    ("POST", "/api/v1/auth/logout", User),
    ("GET", "/api/v1/auth/sessions", User),
    ("DELETE", "/api/v1/auth/sessions", User),
    ("DELETE", "/api/v1/auth/sessions/{id}", User),
    ("POST", "/api/v1/auth/email/resend", User),
    ("POST", "/api/v1/auth/email/verify", Anybody),
    ("POST", "/api/v1/auth/password/forgot", Anybody),
    ("POST", "/api/v1/auth/password/reset", Anybody),
    ("GET", "/api/v1/user/profile", User),
    ("PUT", "/api/v1/user/profile", User),
    ("POST", "/api/v1/user/password", User),
    ("DELETE", "/api/v1/user/delete", User),
    ("GET", "/api/v1/user/api-keys", User),
    ("POST", "/api/v1/user/api-keys", User),
    ("DELETE", "/api/v1/user/api-keys/{id}", User),
    ("GET", "/api/v1/projects", User),
    ("POST", "/api/v1/projects", User),
    ("GET", "/api/v1/projects/{id}", User),
    ("PUT", "/api/v1/projects/{id}", User),
    ("DELETE", "/api/v1/projects/{id}", User),
    ("GET", "/api/v1/subscription", User),
    ("GET", "/api/v1/subscription/usage", User),
    ("GET", "/api/v1/subscription/check-quota", User),
    ("GET", "/api/v1/subscription/tiers", Anybody),
    ("POST", "/api/v1/subscription/cancel", User),
    ("POST", "/api/v1/subscription/checkout", User),
    ("POST", "/webhooks/stripe", Anybody),
    ("GET", "/api/v1/admin/audit", Admin),
    ("GET", "/api/v1/admin/edges", Admin),
    ("GET", "/api/v1/admin/subscriptions", Admin),
    ("POST", "/api/v1/admin/subscriptions", Admin),
    ("PUT", "/api/v1/admin/subscriptions/{id}", Admin),
    ("GET", "/api/v1/admin/users", Admin),
    ("POST", "/api/v1/admin/users/bulk", Admin),
    ("POST", "/api/v1/admin/users/export", Admin),
    ("POST", "/api/v1/admin/users/import", Admin),
    ("GET", "/api/v1/admin/users/{id}", Admin),
    ("PUT", "/api/v1/admin/users/{id}", Admin),
    ("DELETE", "/api/v1/admin/users/{id}", Admin),
    ("POST", "/api/v1/admin/users/{id}/permissions", Admin),
    ("DELETE", "/api/v1/admin/users/{id}/permissions/{name}", Admin),
    ("GET", "/api/v1/admin/users/{id}/sessions", Admin),
    ("DELETE", "/api/v1/admin/users/{id}/sessions", Admin),
    ("GET", "/api/v1/admin/users/{id}/api-keys", Admin),
    ("DELETE", "/api/v1/admin/users/{id}/api-keys/{id}", Admin),
    ("POST", "/api/v1/admin/users/{id}/password", Admin),
    ("GET", "/api/v1/admin/users/{id}/audit", Admin),
    ("GET", "/api/v1/admin/users/{id}/usage", Admin),
    ("GET", "/.well-known/jwks.json", Anybody),
    ("GET", "/health", Anybody),
    ("GET", "/openapi.json", Anybody),
    ("GET", "/docs", Anybody),
    ("GET", "/docs/{file}", Anybody),
    ("GET", "/console", Anybody),
    ("GET", "/console/", Anybody),
    ("GET", "/console/{asset}", Anybody),
    ("GET", "/ws", User),
    ("GET", "/api/v1/templates", Admin),
    ("POST", "/api/v1/templates", Admin),
    ("GET", "/api/v1/templates/{id}", Admin),
    ("PUT", "/api/v1/templates/{id}", Admin),
    ("DELETE", "/api/v1/templates/{id}", Admin),
    ("GET", "/api/v1/personas/instances", User),
    ("POST", "/api/v1/personas/instances", User),
    ("GET", "/api/v1/personas/instances/{id}", User),
    ("PUT", "/api/v1/personas/instances/{id}", User),
    ("PATCH", "/api/v1/personas/instances/{id}", User),
    ("DELETE", "/api/v1/personas/instances/{id}", User),
];

fn expired(user: &e2e::User) -> String {
    let then = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs()
        as i64
        - 1000;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: "persona-platform".to_owned(),
        sub: user.id.clone(),
        jti: Uuid::now_v7().to_string(),
        iat: then,
        nbf: then,
        exp: then + 900,
        sid: Uuid::now_v7().to_string(),
        ver: 1,
        user_id: user.id.clone(),
        email: user.email.clone(),
        client_id: "web".to_owned(),
        role: Role::Admin,
        tier: Tier::Free,
        permissions: vec![],
        scope: None,
        key_exp: None,
    };
    Signer::hs256(&JWT_SECRET.to_owned().into()).sign(&claims).expect("signed")
}

#[tokio::test]
async fn no_route_admits_whom_it_should_not() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let (user, gone) = (sandbox.register().await, sandbox.register().await);
    edge.post("/api/v1/auth/logout", &gone.token, json!({})).await.must_be(200);
    until("the logout binds", async || {
        edge.get("/api/v1/user/profile", &gone.token).await.code() == "AUTH003"
    })
    .await;
    let (late, mangled) = (expired(&user), format!("{}x", user.token));
    let id = Uuid::now_v7().to_string();
    for (method, path, who) in ROUTES.into_iter().filter(|(_, _, who)| *who != Anybody) {
        let path = path.replace("{id}", &id).replace("{name}", "projects.manage");
        let method: Method = method.parse().expect("a method");
        let body = (method != Method::GET).then(|| json!({}));
        let ask = async |token| edge.send(method.clone(), &path, token, &[], body.as_ref()).await;
        let absent = ask(None).await;
        absent.must_fail(401, "AUTH003");
        assert!(absent.headers.contains_key("www-authenticate"));
        ask(Some(late.as_str())).await.must_fail(401, "AUTH002");
        ask(Some(gone.token.as_str())).await.must_fail(401, "AUTH003");
        ask(Some(mangled.as_str())).await.must_fail(401, "AUTH003");
        if who == Admin {
            ask(Some(user.token.as_str())).await.must_fail(403, "AUTH004");
        }
    }
    let reached = sandbox.stub.open_get("/stub/requests").await.must_be(200);
    assert_eq!(reached, json!([]), "nothing of all this may reach core-manager");
}

#[tokio::test]
async fn two_authorization_headers_are_none() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let token = format!("Bearer {}", user.token);
    let headers = [("authorization", token.as_str()), ("authorization", token.as_str())];
    let reply = sandbox.edge().send(Method::GET, "/api/v1/user/profile", None, &headers, None).await;
    reply.must_fail(401, "AUTH003");
}

/// The claims of a token, which anybody may read.
pub fn claims(token: &str) -> Claims {
    use base64::Engine;
    let part = token.split('.').nth(1).expect("claims");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("claims")
}

/// The claims of a token, signed again with another secret.
pub fn resigned(token: &str, secret: &str) -> String {
    Signer::hs256(&secret.to_owned().into()).sign(&claims(token)).expect("signed")
}

#[tokio::test]
async fn no_secret_is_in_a_log_a_metric_or_an_answer_that_does_not_give_it() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let user = sandbox.log_in(&sandbox.register().await).await;
    let wrong = "a wrong password that is typed";
    let mut answers = Vec::new();
    for (path, body) in [
        ("/api/v1/auth/login", json!({ "email": user.email, "password": wrong })),
        ("/api/v1/auth/register", json!({ "email": user.email, "password": wrong, "client_id": "web" })),
        ("/api/v1/auth/login", json!({ "email": user.email, "password": [wrong] })),
        ("/api/v1/auth/refresh", json!({ "refresh_token": format!("{}x", user.refresh_token) })),
    ] {
        answers.push(edge.open_post(path, body).await.text());
    }
    answers.push(edge.get("/api/v1/personas/instances", &user.token).await.text());
    answers.push(edge.get("/api/v1/user/profile", &format!("{}x", user.token)).await.text());
    // A service that fails has something to say.
    sandbox.database.set_open(false);
    answers.push(
        edge.open_post("/api/v1/auth/refresh", json!({ "refresh_token": user.refresh_token })).await.text(),
    );
    sandbox.database.set_open(true);
    until("the requests are in the log", async || {
        sandbox.edge_processes[0].said().matches("/api/v1/auth/refresh").count() >= 2
    })
    .await;
    let services = sandbox.identity_processes.iter().chain(&sandbox.subscription_processes);
    let logs: Vec<String> = sandbox.edge_processes.iter().chain(services).map(Process::said).collect();
    let line = |text: &str| logs.iter().any(|log| log.contains(text));
    assert!(line("/api/v1/auth/login") && line("\"status\":401"), "{logs:?}");
    for internal in sandbox.internals.iter().chain(&sandbox.identity_internals) {
        answers.push(internal.open_get("/internal/metrics").await.text());
        answers.push(internal.open_get("/internal/health").await.text());
    }
    for secret in [user.password, wrong, &user.token, &user.refresh_token, JWT_SECRET, INTERNAL_TOKEN] {
        for text in logs.iter().chain(&answers) {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    for log in &logs {
        assert!(!log.contains(&user.email), "{log}");
    }
}
