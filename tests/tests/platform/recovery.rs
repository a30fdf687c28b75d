//! `/api/v1/auth/password`.

use std::time::{Duration, Instant};

use e2e::{Plan, RESET_PAGE, Reply, Sandbox, User, token_in, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::auth::area_under_curve;
use crate::email::waiting;

const FORGOT: &str = "/api/v1/auth/password/forgot";
const RESET: &str = "/api/v1/auth/password/reset";
const PROFILE: &str = "/api/v1/user/profile";
const NEW: &str = "a wholly new password";

async fn with_mail(replicas: usize, settings: &[(&'static str, &str)]) -> Sandbox {
    let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Sandbox::planned(Plan { mail: true, replicas, settings, ..Plan::default() }).await
}

/// A new user who has got the first mail.
async fn register(sandbox: &Sandbox) -> User {
    let user = sandbox.register().await;
    sandbox.mail().nth(&user.email, 1).await;
    user
}

async fn forgot(sandbox: &Sandbox, email: &str) -> Reply {
    sandbox.edge().open_post(FORGOT, json!({ "email": email })).await
}

async fn reset(sandbox: &Sandbox, token: &str, new: &str) -> Reply {
    sandbox.edge().open_post(RESET, json!({ "token": token, "new_password": new })).await
}

async fn log_in(sandbox: &Sandbox, email: &str, password: &str) -> Reply {
    sandbox.edge().open_post("/api/v1/auth/login", json!({ "email": email, "password": password })).await
}

/// The token of the link that the user asks for, in the user's mail number `count`.
async fn link(sandbox: &Sandbox, user: &User, count: usize) -> String {
    forgot(sandbox, &user.email).await.must_be(202);
    token_in(&sandbox.mail().nth(&user.email, count).await, RESET_PAGE)
}

#[tokio::test]
async fn a_reset_sets_the_password_and_ends_every_session_on_every_edge() {
    let sandbox = with_mail(2, &[]).await;
    let (user, bystander) = (register(&sandbox).await, sandbox.register().await);
    let other = sandbox.log_in(&user).await;
    let mut socket = sandbox.socket(&other).await;
    let token = link(&sandbox, &user, 2).await;
    // A password that the rules refuse leaves the link as good as it was.
    reset(&sandbox, &token, "password1").await.must_fail(400, "USER003");
    reset(&sandbox, &token, &user.email).await.must_fail(400, "USER003");
    reset(&sandbox, &token, NEW).await.must_be(200);
    for edge in &sandbox.edges {
        for session in [&user, &other] {
            until("every session has ended", async || {
                edge.get(PROFILE, &session.token).await.code() == "AUTH003"
            })
            .await;
        }
        edge.get(PROFILE, &bystander.token).await.must_be(200);
    }
    assert_eq!(socket.closed().await, 4403);
    let refresh = json!({ "refresh_token": other.refresh_token });
    sandbox.edge().open_post("/api/v1/auth/refresh", refresh).await.must_fail(401, "AUTH003");
    reset(&sandbox, &token, "yet another one").await.must_fail(401, "AUTH003");
    log_in(&sandbox, &user.email, user.password).await.must_fail(401, "AUTH001");
    let tokens = log_in(&sandbox, &user.email, NEW).await.must_be(200);
    assert_eq!(tokens["user"]["email_verified"], true, "the mail has arrived there");
    assert_eq!(sandbox.mail().nth(&user.email, 3).await["subject"], "Your password was changed");
    let admin = sandbox.administrator().await;
    let path = format!("/api/v1/admin/users/{}/audit", user.id);
    let log = sandbox.edge().get(&path, &admin.token).await.must_be(200).to_string();
    assert!(log.contains("\"password_reset\"") && log.contains("\"sessions_ended\""), "{log}");
}

#[tokio::test]
async fn a_reset_ends_the_keys_of_whoever_had_the_account_before() {
    let sandbox = with_mail(2, &[]).await;
    // Somebody who registered the address of another and made a key.
    let user = register(&sandbox).await;
    let made = sandbox.edge().post("/api/v1/user/api-keys", &user.token, json!({ "name": "mine" })).await;
    let made = made.must_be(201);
    let key = made["key"].as_str().expect("a key");
    for edge in &sandbox.edges {
        edge.get(PROFILE, key).await.must_be(200);
    }
    let token = link(&sandbox, &user, 3).await;
    reset(&sandbox, &token, NEW).await.must_be(200);
    for edge in &sandbox.edges {
        until("the key has ended", async || edge.get(PROFILE, key).await.code() == "AUTH003").await;
    }
    let owner = log_in(&sandbox, &user.email, NEW).await.must_be(200);
    let token = owner["access_token"].as_str().expect("a token");
    let keys = sandbox.edge().get("/api/v1/user/api-keys", token).await.must_be(200);
    assert_eq!(keys, json!({ "api_keys": [], "count": 0 }));
}

#[tokio::test]
async fn of_many_resets_with_one_link_at_once_one_succeeds() {
    let sandbox = with_mail(2, &[]).await;
    let user = register(&sandbox).await;
    let token = link(&sandbox, &user, 2).await;
    let tries = (0..8).map(|place| {
        let body = json!({ "token": token, "new_password": format!("{NEW} {place}") });
        sandbox.edges[place % 2].open_post(RESET, body)
    });
    let tries = join_all(tries).await;
    let won: Vec<usize> = (0..8).filter(|place| tries[*place].status == 200).collect();
    let [won] = won.as_slice() else { panic!("{tries:?}") };
    for (_, reply) in tries.iter().enumerate().filter(|(place, _)| place != won) {
        reply.must_fail(401, "AUTH003");
    }
    log_in(&sandbox, &user.email, &format!("{NEW} {won}")).await.must_be(200);
}

#[tokio::test]
async fn a_link_dies_of_age_of_a_newer_one_and_of_another_change_of_the_password() {
    let sandbox = with_mail(1, &[("PASSWORD_RESET_TTL_SECONDS", "5"), ("MAILS_PER_ACCOUNT", "0")]).await;
    let user = register(&sandbox).await;
    let first = link(&sandbox, &user, 2).await;
    let second = link(&sandbox, &user, 3).await;
    reset(&sandbox, &first, NEW).await.must_fail(401, "AUTH003");
    let change = json!({ "current_password": user.password, "new_password": NEW });
    sandbox.edge().post("/api/v1/user/password", &user.token, change).await.must_be(200);
    reset(&sandbox, &second, "yet another one").await.must_fail(401, "AUTH003");
    assert_eq!(sandbox.mail().nth(&user.email, 4).await["subject"], "Your password was changed");
    let third = link(&sandbox, &user, 5).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    reset(&sandbox, &third, "yet another one").await.must_fail(401, "AUTH003");
    log_in(&sandbox, &user.email, NEW).await.must_be(200);
}

#[tokio::test]
async fn a_disabled_account_gets_no_link_and_uses_none() {
    let sandbox = with_mail(1, &[]).await;
    let user = register(&sandbox).await;
    let token = link(&sandbox, &user, 2).await;
    let admin = sandbox.administrator().await;
    let path = format!("/api/v1/admin/users/{}", user.id);
    sandbox.edge().put(&path, &admin.token, json!({ "is_active": false })).await.must_be(200);
    reset(&sandbox, &token, NEW).await.must_fail(401, "AUTH003");
    forgot(&sandbox, &user.email).await.must_be(202);
    until("nothing waits any more", async || waiting(&sandbox).await == 0).await;
    assert_eq!(sandbox.mail().to(&user.email).await.len(), 2);
}

#[tokio::test]
async fn a_password_that_an_administrator_sets_is_told_to_the_owner() {
    let sandbox = with_mail(1, &[]).await;
    let (user, admin) = (register(&sandbox).await, sandbox.administrator().await);
    let token = link(&sandbox, &user, 2).await;
    let path = format!("/api/v1/admin/users/{}/password", user.id);
    let set = sandbox.edge().post(&path, &admin.token, json!({ "new_password": NEW })).await;
    assert!(set.status.is_success(), "{set:?}");
    assert_eq!(sandbox.mail().nth(&user.email, 3).await["subject"], "Your password was changed");
    reset(&sandbox, &token, "yet another one").await.must_fail(401, "AUTH003");
}

#[tokio::test]
async fn whether_an_account_exists_shows_neither_in_the_answer_nor_in_its_time() {
    const ROUNDS: usize = 500;
    let sandbox = with_mail(1, &[("MAILS_PER_ACCOUNT", "0"), ("MAILS_PER_ADDRESS", "0")]).await;
    let user = register(&sandbox).await;
    let emails = [user.email.as_str(), "nobody@example.com"];
    let shape = |reply: Reply| {
        let names: Vec<String> = reply.headers.keys().map(ToString::to_string).collect();
        (reply.status.as_u16(), names, reply.bytes)
    };
    let known = shape(forgot(&sandbox, emails[0]).await);
    assert_eq!(known.0, 202);
    assert_eq!(known, shape(forgot(&sandbox, emails[1]).await));
    assert_eq!(known, shape(forgot(&sandbox, "no address").await));
    let mut times = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        // Each as often after the other as after itself, so that what one leaves to do falls on both.
        for place in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let started = Instant::now();
            forgot(&sandbox, emails[place]).await.must_be(202);
            times[place].push(started.elapsed().as_nanos());
        }
    }
    let area = area_under_curve(&times[0], &times[1]);
    println!("known against unknown: AUC {area:.3}");
    assert!((area - 0.5).abs() <= 0.05, "an account can be told from none: {area}");
}

#[tokio::test]
async fn whoever_asks_too_often_gets_the_same_answer_and_no_more_mails() {
    let sandbox = with_mail(1, &[("MAILS_PER_ACCOUNT", "2"), ("MAILS_PER_ADDRESS", "0")]).await;
    let user = register(&sandbox).await;
    let first = forgot(&sandbox, &user.email).await;
    for _ in 0..9 {
        let next = forgot(&sandbox, &user.email).await;
        assert_eq!((next.status, next.bytes), (first.status, first.bytes.clone()));
    }
    until("nothing waits any more", async || waiting(&sandbox).await == 0).await;
    // The two that are free and the one that begins the wait, unless a newer one was sent before it.
    let mails = sandbox.mail().to(&user.email).await.len() - 1;
    assert!((1..=3).contains(&mails), "{mails}");
}

#[tokio::test]
async fn a_reset_is_the_way_in_while_strangers_guess() {
    let settings = [
        ("TRUSTED_PROXY_HOPS", "1"),
        ("LOGIN_FAILURES_PER_ACCOUNT", "1"),
        ("LOGIN_FAILURES_PER_ADDRESS", "5"),
    ];
    let sandbox = with_mail(1, &settings).await;
    let user = register(&sandbox).await;
    let send = async |path: &str, body: Value, from: &str| {
        let headers = [("x-forwarded-for", from)];
        sandbox.edge().send(Method::POST, path, None, &headers, Some(&body)).await
    };
    let sign_in = async |password: &str, from: &str| {
        let body = json!({ "email": user.email, "password": password });
        send("/api/v1/auth/login", body, from).await
    };
    // From ever new addresses, until the wait is longer than what comes after it takes.
    let guess = async |from: u32| {
        let mut place = from;
        let waits = |reply: &Reply| {
            let wait = reply.headers.get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
            wait.unwrap_or(0)
        };
        until("strangers have to wait", async || {
            place += 1;
            let from = format!("198.51.{}.{}", place / 200, place % 200 + 1);
            waits(&sign_in("a wrong password", &from).await) >= 8_u64
        })
        .await;
    };
    let owner = "203.0.113.9";
    guess(0).await;
    sign_in(user.password, owner).await.must_fail(429, "AUTH005");
    let token = link(&sandbox, &user, 2).await;
    send(RESET, json!({ "token": token, "new_password": NEW }), owner).await.must_be(200);
    guess(10_000).await;
    sign_in(NEW, "203.0.113.77").await.must_fail(429, "AUTH005");
    sign_in(NEW, owner).await.must_be(200);
}
