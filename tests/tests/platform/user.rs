use e2e::{Plan, Sandbox, until};
use serde_json::json;

#[tokio::test]
async fn a_profile_is_changed_field_by_field() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let change =
        json!({ "first_name": "Ada", "phone": "+44 1", "preferences": { "theme": "dark" }, "role": "admin" });
    edge.put("/api/v1/user/profile", &user.token, change).await.must_be(200);
    let body = edge.put("/api/v1/user/profile", &user.token, json!({ "phone": "" })).await.must_be(200);
    assert_eq!(body["profile"]["first_name"], "Ada");
    assert_eq!(body["profile"]["phone"], json!(null));
    assert_eq!(body["profile"]["preferences"], json!({ "theme": "dark" }));
    assert_eq!(body["role"], "user", "a role is never one's own to set");
    assert_eq!(body["email"], user.email);
    assert!(body["last_login_at"].is_string());
    let bad = json!({ "avatar_url": "javascript:alert(1)", "first_name": "x".repeat(101) });
    let reply = edge.put("/api/v1/user/profile", &user.token, bad).await;
    reply.must_fail(400, "REQ001");
    let fields = &reply.body["error"]["details"]["fields"];
    assert!(fields["avatar_url"].is_string() && fields["first_name"].is_string(), "{fields}");
}

#[tokio::test]
async fn an_empty_name_is_none_when_it_is_registered_as_when_it_is_set() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let body = json!({ "email": "a@example.com", "password": "correct horse battery", "client_id": "web",
        "first_name": "", "last_name": "", "company": "" });
    let tokens = edge.open_post("/api/v1/auth/register", body).await.must_be(201);
    let token = tokens["access_token"].as_str().expect("a token");
    let profile = edge.get("/api/v1/user/profile", token).await.must_be(200)["profile"].clone();
    for field in ["first_name", "last_name", "company"] {
        assert_eq!(profile[field], json!(null), "{field}");
    }
}

#[tokio::test]
async fn a_password_change_ends_the_other_sessions() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let other = sandbox.log_in(&user).await;
    let change = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    let wrong = edge.post("/api/v1/user/password", &user.token, change("wrong", "another good one")).await;
    wrong.must_fail(401, "AUTH001");
    let weak = edge.post("/api/v1/user/password", &user.token, change(user.password, "password1")).await;
    weak.must_fail(400, "USER003");
    edge.post("/api/v1/user/password", &user.token, change(user.password, "another good one"))
        .await
        .must_be(200);
    until("the other session ends", async || {
        edge.get("/api/v1/user/profile", &other.token).await.code() == "AUTH003"
    })
    .await;
    edge.get("/api/v1/user/profile", &user.token).await.must_be(200);
    let body = json!({ "email": user.email, "password": user.password });
    edge.open_post("/api/v1/auth/login", body).await.must_fail(401, "AUTH001");
}

#[tokio::test]
async fn guessing_the_current_password_with_a_stolen_token_must_wait_on_every_replica() {
    let settings = vec![("LOGIN_FAILURES_PER_ACCOUNT", "3".to_owned())];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let (user, other) = (sandbox.register().await, sandbox.register().await);
    let change = async |edge: usize, token: &str, current: &str| {
        let body = json!({ "current_password": current, "new_password": "another good one" });
        sandbox.edges[edge].post("/api/v1/user/password", token, body).await
    };
    // The sixth guess makes the next one wait for four seconds.
    let mut guesses = 0;
    until("six guesses were taken", async || {
        guesses +=
            u32::from(change(guesses as usize % 2, &user.token, "a wrong guess").await.code() == "AUTH001");
        guesses == 6
    })
    .await;
    for edge in 0..2 {
        let reply = change(edge, &user.token, user.password).await;
        reply.must_fail(429, "AUTH005");
        assert!(reply.headers.contains_key("retry-after"));
    }
    change(0, &other.token, other.password).await.must_be(200);
    // Signing in is counted by itself: the owner is not kept out.
    let again = sandbox.log_in(&user).await;
    until("the wait is over", async || change(0, &again.token, user.password).await.status == 200).await;
}

#[tokio::test]
async fn a_deleted_account_is_gone_with_all_its_tokens() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    sandbox.project(&user).await;
    edge.get("/api/v1/subscription", &user.token).await.must_be(200);
    edge.delete("/api/v1/user/delete", &user.token).await.must_be(200);
    until("its token dies", async || {
        edge.get("/api/v1/personas/instances", &user.token).await.code() == "AUTH003"
    })
    .await;
    let body = json!({ "email": user.email, "password": user.password });
    edge.open_post("/api/v1/auth/login", body).await.must_fail(401, "AUTH001");
}

#[tokio::test]
async fn the_last_administrator_cannot_be_deleted_even_by_two_at_once() {
    let sandbox = Sandbox::start().await;
    let (one, two) = (sandbox.administrator().await, sandbox.administrator().await);
    let edge = sandbox.edge();
    let (a, b) = tokio::join!(
        edge.delete("/api/v1/user/delete", &one.token),
        edge.delete("/api/v1/user/delete", &two.token)
    );
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{a:?} {b:?}");
}
