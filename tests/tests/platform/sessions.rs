use e2e::{Plan, Reply, Sandbox, User, until};
use futures_util::future::join_all;
use serde_json::{Value, json};

const PROFILE: &str = "/api/v1/user/profile";
const SESSIONS: &str = "/api/v1/auth/sessions";

async fn refresh(sandbox: &Sandbox, token: &str) -> Reply {
    sandbox.edge().open_post("/api/v1/auth/refresh", json!({ "refresh_token": token })).await
}

fn pair(tokens: &Value) -> (String, String) {
    let text = |name: &str| tokens[name].as_str().expect("a token").to_owned();
    (text("access_token"), text("refresh_token"))
}

/// Until the edge has told that it has seen the token.
async fn seen(sandbox: &Sandbox, user: &User) {
    let mut connection = sandbox.connection().await;
    until("the use of the access token is known", async || {
        let used: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM refresh_tokens JOIN sessions ON sessions.id = session_id
             WHERE user_id = ? AND used_at IS NOT NULL",
        )
        .bind(&user.id)
        .fetch_one(&mut connection)
        .await
        .expect("counted");
        used > 0
    })
    .await;
}

#[tokio::test]
async fn a_sign_in_too_many_ends_the_session_seen_the_longest_ago_and_its_tokens() {
    let settings = vec![("SESSIONS_PER_ACCOUNT", "2".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let first = sandbox.register().await;
    let second = sandbox.log_in(&first).await;
    let third = sandbox.log_in(&first).await;
    until("the access token dies", async || {
        sandbox.edge().get(PROFILE, &first.token).await.code() == "AUTH003"
    })
    .await;
    refresh(&sandbox, &first.refresh_token).await.must_fail(401, "AUTH003");
    for user in [&second, &third] {
        sandbox.edge().get(PROFILE, &user.token).await.must_be(200);
    }
    let list = sandbox.edge().get(SESSIONS, &third.token).await.must_be(200);
    assert_eq!(list["count"], 2);
}

#[tokio::test]
async fn a_spent_refresh_token_whose_child_was_used_ends_the_session_on_every_edge() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let (access, next) = pair(&refresh(&sandbox, &user.refresh_token).await.must_be(200));
    assert_ne!(next, user.refresh_token);
    sandbox.edge().get(PROFILE, &access).await.must_be(200);
    seen(&sandbox, &user).await;
    refresh(&sandbox, &user.refresh_token).await.must_fail(401, "AUTH003");
    refresh(&sandbox, &next).await.must_fail(401, "AUTH003");
    for edge in &sandbox.edges {
        until("the access token dies with its session", async || {
            edge.get(PROFILE, &access).await.code() == "AUTH003"
        })
        .await;
    }
    refresh(&sandbox, "not-a-token").await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn a_spent_refresh_token_whose_child_was_spent_ends_the_session() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let (_, second) = pair(&refresh(&sandbox, &user.refresh_token).await.must_be(200));
    let (_, third) = pair(&refresh(&sandbox, &second).await.must_be(200));
    refresh(&sandbox, &user.refresh_token).await.must_fail(401, "AUTH003");
    refresh(&sandbox, &third).await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn a_client_whose_answer_was_lost_asks_again_and_goes_on() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let (_, lost) = pair(&refresh(&sandbox, &user.refresh_token).await.must_be(200));
    let (access, next) = pair(&refresh(&sandbox, &user.refresh_token).await.must_be(200));
    assert_ne!(lost, next);
    sandbox.edge().get(PROFILE, &access).await.must_be(200);
    let (access, _) = pair(&refresh(&sandbox, &next).await.must_be(200));
    refresh(&sandbox, &lost).await.must_fail(401, "AUTH003");
    sandbox.edge().get(PROFILE, &access).await.must_be(200);
}

#[tokio::test]
async fn a_parent_comes_back_only_for_a_short_while() {
    let settings = vec![("REFRESH_RETRY_SECONDS", "0".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let (_, next) = pair(&refresh(&sandbox, &user.refresh_token).await.must_be(200));
    refresh(&sandbox, &user.refresh_token).await.must_fail(401, "AUTH003");
    refresh(&sandbox, &next).await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn parallel_refreshes_leave_one_live_branch_and_nobody_logged_out() {
    const TABS: usize = 50;
    const ROUNDS: usize = 100;
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    for round in 0..ROUNDS {
        let user = sandbox.register().await;
        let body = json!({ "refresh_token": user.refresh_token });
        let tabs =
            (0..TABS).map(|tab| sandbox.edges[tab % 2].open_post("/api/v1/auth/refresh", body.clone()));
        let answers: Vec<_> =
            join_all(tabs).await.into_iter().map(|reply| pair(&reply.must_be(200))).collect();
        // Whichever answer the browser kept, it goes on with it; the others are worth nothing from then on.
        let (access, kept) = &answers[(round * 7) % TABS];
        sandbox.edge().get(PROFILE, access).await.must_be(200);
        let (access, _) = pair(&refresh(&sandbox, kept).await.must_be(200));
        let others = answers.iter().filter(|(_, other)| other != kept);
        for refused in join_all(others.map(|(_, other)| refresh(&sandbox, other))).await {
            refused.must_fail(401, "AUTH003");
        }
        sandbox.edge().get(PROFILE, &access).await.must_be(200);
    }
}

#[tokio::test]
async fn a_user_sees_the_sessions_and_ends_one_or_all_others() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let (second, third) = (sandbox.log_in(&user).await, sandbox.log_in(&user).await);
    let stranger = sandbox.register().await;
    let list = sandbox.edge().get(SESSIONS, &user.token).await.must_be(200);
    assert_eq!(list["count"], 3);
    let sessions = list["sessions"].as_array().expect("a list");
    let current: Vec<_> = sessions.iter().filter(|session| session["current"] == true).collect();
    assert_eq!(current.len(), 1);
    for field in ["id", "created_at", "last_seen_at", "expires_at", "ip_address", "user_agent"] {
        assert!(sessions[0][field].is_string(), "{field}: {list}");
    }
    let of = async |user: &User| {
        let list = sandbox.edge().get(SESSIONS, &user.token).await.must_be(200);
        let all = list["sessions"].as_array().expect("a list");
        all.iter().find(|s| s["current"] == true).expect("it")["id"].as_str().expect("an id").to_owned()
    };
    let path = format!("{SESSIONS}/{}", of(&second).await);
    sandbox.edge().delete(&path, &stranger.token).await.must_fail(404, "REQ002");
    sandbox.edge().get(PROFILE, &second.token).await.must_be(200);
    sandbox.edge().delete(&path, &user.token).await.must_be(204);
    sandbox.edge().delete(&path, &user.token).await.must_be(204);
    let mut socket = sandbox.socket(&third).await;
    sandbox.edge().delete(SESSIONS, &user.token).await.must_be(204);
    for edge in &sandbox.edges {
        for gone in [&second, &third] {
            until("the ended session is refused", async || {
                edge.get(PROFILE, &gone.token).await.code() == "AUTH003"
            })
            .await;
        }
    }
    assert_eq!(socket.closed().await, 4403);
    let list = sandbox.edge().get(SESSIONS, &user.token).await.must_be(200);
    assert_eq!((&list["count"], &list["sessions"][0]["current"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn a_session_that_is_not_refreshed_expires_and_one_that_is_expires_in_the_end() {
    let settings =
        vec![("SESSION_IDLE_TTL_SECONDS", "2".to_owned()), ("SESSION_MAX_TTL_SECONDS", "5".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (idle, mut busy) = (sandbox.register().await, sandbox.register().await);
    let started = std::time::Instant::now();
    until("the idle session has expired", async || {
        let (_, next) = pair(&refresh(&sandbox, &busy.refresh_token).await.must_be(200));
        busy.refresh_token = next;
        let list = sandbox.edge().get(SESSIONS, &idle.token).await;
        // Its list is empty: what has expired is no session.
        list.status == 200 && list.body["count"] == 0
    })
    .await;
    refresh(&sandbox, &idle.refresh_token).await.must_fail(401, "AUTH002");
    until("the absolute end has come", async || {
        let reply = refresh(&sandbox, &busy.refresh_token).await;
        if reply.status == 200 {
            busy.refresh_token = pair(&reply.body).1;
        }
        reply.code() == "AUTH002"
    })
    .await;
    assert!(started.elapsed().as_secs() >= 4);
}
