use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::{Plan, Sandbox, until};
use http::Method;
use ring::digest::{SHA256, digest};
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::credentials::claims;

#[tokio::test]
async fn a_user_registers_signs_in_and_is_known() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let again = sandbox.log_in(&user).await;
    assert_eq!(again.id, user.id);
    let reply = sandbox.edge().post("/api/v1/auth/validate", &again.token, json!({})).await;
    assert_eq!(reply.headers["cache-control"], "no-store");
    let body = reply.must_be(200);
    assert_eq!(body["valid"], true);
    let expected = json!({
        "id": user.id, "email": user.email, "client_id": "web", "role": "user", "tier": "free",
        "email_verified": false, "permissions": [],
    });
    assert_eq!(body["user"], expected);
}

#[tokio::test]
async fn an_email_is_one_however_it_is_typed() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let typed = format!("  {} ", user.email.to_uppercase());
    let body = json!({ "email": typed, "password": user.password, "client_id": "web" });
    sandbox.edge().open_post("/api/v1/auth/register", body).await.must_fail(409, "USER002");
    let body = json!({ "email": typed, "password": user.password });
    let tokens = sandbox.edge().open_post("/api/v1/auth/login", body).await.must_be(200);
    assert_eq!(tokens["user"]["email"], user.email);
}

#[tokio::test]
async fn only_one_of_many_registrations_of_an_email_at_once_succeeds() {
    let sandbox = Sandbox::start().await;
    for round in 0..5 {
        let body = json!({ "email": format!("race{round}@example.com"), "password": "correct horse battery", "client_id": "web" });
        let tries = (0..8).map(|_| sandbox.edge().open_post("/api/v1/auth/register", body.clone()));
        let replies = futures_util::future::join_all(tries).await;
        let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    }
}

#[tokio::test]
async fn every_fault_of_a_registration_is_named_at_once() {
    let sandbox = Sandbox::start().await;
    let body = json!({ "email": "nobody", "password": "correct horse battery", "client_id": "a,b" });
    let reply = sandbox.edge().open_post("/api/v1/auth/register", body).await;
    reply.must_fail(400, "REQ001");
    let fields = &reply.body["error"]["details"]["fields"];
    assert!(fields["email"].is_string() && fields["client_id"].is_string(), "{fields}");
    let body = json!({ "email": "a@example.com", "client_id": "web" });
    let reply = sandbox.edge().open_post("/api/v1/auth/register", body).await;
    assert_eq!(reply.body["error"]["details"]["fields"]["password"], "is required");
}

#[tokio::test]
async fn unknown_wrong_and_disabled_get_the_same_answer() {
    let sandbox = Sandbox::start().await;
    let (user, disabled) = (sandbox.register().await, sandbox.register().await);
    let mut connection = sandbox.connection().await;
    sqlx::query("UPDATE users SET is_active = FALSE WHERE id = ?")
        .bind(&disabled.id)
        .execute(&mut connection)
        .await
        .expect("disabled");
    let mut answers = HashSet::new();
    for (email, password) in [
        ("nobody@example.com", user.password),
        (user.email.as_str(), "a wrong password"),
        (disabled.email.as_str(), disabled.password),
        ("no address", user.password),
        (user.email.as_str(), &"x".repeat(5000)),
    ] {
        let body = json!({ "email": email, "password": password });
        let mut reply = sandbox.edge().open_post("/api/v1/auth/login", body).await;
        reply.must_fail(401, "AUTH001");
        reply.body["request_id"].take();
        answers.insert(reply.body.to_string());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn a_logout_binds_on_the_token_that_is_already_issued() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let other = sandbox.log_in(&user).await;
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    until("the token is refused", async || {
        sandbox.edge().get("/api/v1/personas/instances", &user.token).await.code() == "AUTH003"
    })
    .await;
    let body = json!({ "refresh_token": user.refresh_token });
    sandbox.edge().open_post("/api/v1/auth/refresh", body).await.must_fail(401, "AUTH003");
    sandbox.edge().get("/api/v1/user/profile", &other.token).await.must_be(200);
}

#[tokio::test]
async fn a_body_that_is_not_plain_json_is_refused() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge().authority();
    let post = |media: &str, body: &str| {
        let request = format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        async move { e2e::raw(edge, &request).await }
    };
    let twice = r#"{"email":"a@b.c","email":"d@e.f","password":"x"}"#;
    assert!(post("application/json", twice).await.contains("twice"));
    let form = post("application/x-www-form-urlencoded", "email=a").await;
    assert!(form.starts_with("HTTP/1.1 415") && form.contains("REQ003"), "{form}");
    let big = post("application/json", &format!("{{\"email\":\"{}\"}}", "x".repeat(70_000))).await;
    assert!(big.starts_with("HTTP/1.1 413") && big.contains("REQ003"), "{big}");
    let reply = sandbox.edge().send(Method::GET, "/api/v1/auth/login", None, &[], None).await;
    reply.must_fail(405, "REQ002");
    assert_eq!(reply.headers["allow"], "POST");
}

#[tokio::test]
async fn guessing_must_wait_on_every_replica_and_the_owner_elsewhere_need_not() {
    let settings =
        vec![("TRUSTED_PROXY_HOPS", "1".to_owned()), ("LOGIN_FAILURES_PER_ACCOUNT", "3".to_owned())];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let sign_in = async |edge: usize, email: &str, password: &str, from: &str| {
        let body = json!({ "email": email, "password": password });
        let headers = [("x-forwarded-for", from)];
        sandbox.edges[edge].send(Method::POST, "/api/v1/auth/login", None, &headers, Some(&body)).await
    };
    let (attacker, home) = ("198.51.100.1", "203.0.113.9");
    for email in [user.email.as_str(), "nobody@example.com"] {
        for guess in 0..4 {
            sign_in(guess % 2, email, "a wrong password", attacker).await.must_fail(401, "AUTH001");
        }
        for edge in 0..2 {
            let reply = sign_in(edge, email, user.password, attacker).await;
            reply.must_fail(429, "AUTH005");
            assert!(
                reply.headers["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds") >= 1
            );
        }
    }
    sign_in(0, &user.email, user.password, home).await.must_be(200);
    until("the wait is over", async || sign_in(0, &user.email, user.password, attacker).await.status == 200)
        .await;
}

#[tokio::test]
async fn neither_an_account_nor_an_address_has_every_hash_to_itself() {
    let settings = vec![
        ("TRUSTED_PROXY_HOPS", "1".to_owned()),
        ("PASSWORD_HASHES_PER_ADDRESS", "3".to_owned()),
        // So slow that those at once are at once.
        ("ARGON2_ITERATIONS", "30".to_owned()),
    ];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let sign_in = async |email: String, password: &str, from: String| {
        let body = json!({ "email": email, "password": password });
        let headers = [("x-forwarded-for", from.as_str())];
        sandbox.edge().send(Method::POST, "/api/v1/auth/login", None, &headers, Some(&body)).await
    };
    // With the right password, from anywhere.
    let tries = (0..12).map(|place| sign_in(user.email.clone(), user.password, format!("203.0.113.{place}")));
    let answers = futures_util::future::join_all(tries).await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|reply| reply.status == 200);
    assert_eq!((served.len(), refused.len()), (8, 4));
    // Many accounts from one address, whether there are such or not.
    let tries =
        (0..6).map(|place| sign_in(format!("nobody{place}@example.com"), "wrong", "203.0.113.99".into()));
    let answers = futures_util::future::join_all(tries).await;
    let (served, more): (Vec<_>, Vec<_>) = answers.iter().partition(|reply| reply.status == 401);
    assert_eq!((served.len(), more.len()), (3, 3));
    for refused in refused.into_iter().chain(more) {
        refused.must_fail(503, "GW003");
        assert!(refused.headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn whoever_registers_again_and_again_from_one_address_must_wait_on_every_replica() {
    let settings =
        vec![("TRUSTED_PROXY_HOPS", "1".to_owned()), ("REGISTRATIONS_PER_ADDRESS", "3".to_owned())];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let register = async |edge: usize, number: u32, from: &str| {
        let email = format!("user{number}@example.com");
        let body = json!({ "email": email, "password": "correct horse battery", "client_id": "web" });
        let headers = [("x-forwarded-for", from)];
        sandbox.edges[edge].send(Method::POST, "/api/v1/auth/register", None, &headers, Some(&body)).await
    };
    let (prober, other) = ("2001:db8:1:2::1", "203.0.113.9");
    register(0, 0, prober).await.must_be(201);
    // Asking whether an e-mail is taken counts as much as registering, from all of a customer's network.
    for (edge, from) in [(1, prober), (0, "2001:db8:1:2:ffff::9")] {
        register(edge, 0, from).await.must_fail(409, "USER002");
    }
    until("the wait is longer than what comes after it takes", async || {
        let reply = register(0, 0, prober).await;
        let wait = reply.headers.get("retry-after").and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
        wait.is_some_and(|wait| wait > 4)
    })
    .await;
    for edge in 0..2 {
        // Neither a taken e-mail nor a free one is told from the other any more.
        for number in [0, 1] {
            register(edge, number, prober).await.must_fail(429, "AUTH005");
        }
    }
    register(0, 2, other).await.must_be(201);
}

/// The probability that a random value of `a` is above one of `b`: a half when they cannot be told apart.
pub fn area_under_curve(a: &[u128], b: &[u128]) -> f64 {
    let wins: f64 = a
        .iter()
        .map(|a| b.iter().map(|b| if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 }).sum::<f64>())
        .sum();
    wins / (a.len() * b.len()) as f64
}

#[tokio::test]
async fn the_time_of_a_refused_login_does_not_tell_why() {
    const ROUNDS: usize = 700;
    let settings =
        ["LOGIN_FAILURES_PER_ACCOUNT", "LOGIN_FAILURES_PER_ADDRESS"].map(|name| (name, "0".to_owned()));
    let sandbox = Sandbox::planned(Plan { settings: settings.to_vec(), ..Plan::default() }).await;
    let (user, disabled) = (sandbox.register().await, sandbox.register().await);
    let mut connection = sandbox.connection().await;
    sqlx::query("UPDATE users SET is_active = FALSE WHERE id = ?")
        .bind(&disabled.id)
        .execute(&mut connection)
        .await
        .expect("disabled");
    let tries = [
        ("unknown", "nobody@example.com", user.password),
        ("wrong", user.email.as_str(), "a wrong password"),
        ("disabled", disabled.email.as_str(), disabled.password),
    ];
    let mut times = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for place in 0..3 {
            // In every order, so that nothing periodic falls on one of them.
            let place = (place + round) % 3;
            let (_, email, password) = tries[place];
            let body = json!({ "email": email, "password": password });
            let started = std::time::Instant::now();
            sandbox.edge().open_post("/api/v1/auth/login", body).await.must_fail(401, "AUTH001");
            times[place].push(started.elapsed().as_nanos());
        }
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let area = area_under_curve(&times[one], &times[other]);
        println!("{} against {}: AUC {area:.3}", tries[one].0, tries[other].0);
        assert!(
            (area - 0.5).abs() <= 0.05,
            "{} and {} can be told apart: {area}",
            tries[one].0,
            tries[other].0
        );
    }
}

#[tokio::test]
async fn a_refresh_token_is_random_kept_as_a_hash_and_bound_to_user_client_and_session() {
    let sandbox = Sandbox::start().await;
    let (user, other) = (sandbox.register().await, sandbox.register().await);
    let random = URL_SAFE_NO_PAD.decode(&user.refresh_token).expect("nothing but Base64");
    assert_eq!(random.len(), 32, "256 bits");

    // Nothing that is stored is the token, and its hash is that of the session.
    let mut connection = sandbox.connection().await;
    let hash = digest(&SHA256, user.refresh_token.as_bytes());
    let (owner, session): (String, String) = sqlx::query_as(
        "SELECT user_id, id FROM sessions JOIN refresh_tokens ON session_id = id WHERE token_hash = ?",
    )
    .bind(hash.as_ref())
    .fetch_one(&mut connection)
    .await
    .expect("its hash");
    assert_eq!((&owner, &session), (&user.id, &claims(&user.token).sid));
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR) FROM information_schema.columns
         WHERE table_schema = DATABASE()",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the columns");
    assert!(columns.len() > 50, "{columns:?}");
    for (table, column) in columns {
        let look = format!("SELECT COUNT(*) FROM `{table}` WHERE INSTR(CAST(`{column}` AS BINARY), ?) > 0");
        for secret in [user.refresh_token.as_bytes(), &random] {
            let found: i64 = sqlx::query_scalar(AssertSqlSafe(look.clone()))
                .bind(secret)
                .fetch_one(&mut connection)
                .await
                .expect("counted");
            assert_eq!(found, 0, "{table}.{column}");
        }
    }

    // What it gives is for the same user, client and session, whoever presents it.
    let body = json!({ "refresh_token": user.refresh_token });
    let refreshed = sandbox.edge().post("/api/v1/auth/refresh", &other.token, body).await.must_be(200);
    let (before, after) = (claims(&user.token), claims(refreshed["access_token"].as_str().expect("a token")));
    assert_eq!((before.user_id, before.client_id, before.sid), (after.user_id, after.client_id, after.sid));
}
