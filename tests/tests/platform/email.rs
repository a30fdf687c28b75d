//! `/api/v1/auth/email`, and how mails are sent.

use std::time::{Duration, Instant};

use e2e::{Plan, RESET_PAGE, Sandbox, User, VERIFY_PAGE, token_in, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::json;

const RESEND: &str = "/api/v1/auth/email/resend";
const VERIFY: &str = "/api/v1/auth/email/verify";

async fn with_mail(settings: &[(&'static str, &str)]) -> Sandbox {
    let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Sandbox::planned(Plan { mail: true, settings, ..Plan::default() }).await
}

async fn is_verified(sandbox: &Sandbox, user: &User) -> bool {
    let profile = sandbox.edge().get("/api/v1/user/profile", &user.token).await.must_be(200);
    profile["email_verified"] == true
}

/// How many mails wait in the outbox.
pub async fn waiting(sandbox: &Sandbox) -> i64 {
    let mut connection = sandbox.connection().await;
    sqlx::query_scalar("SELECT COUNT(*) FROM mail_outbox").fetch_one(&mut connection).await.expect("counted")
}

#[tokio::test]
async fn a_new_user_is_sent_a_link_that_verifies_the_address_once() {
    let sandbox = with_mail(&[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let mail = sandbox.mail().nth(&user.email, 1).await;
    let (from, subject) = (&mail["from"], &mail["subject"]);
    assert_eq!((from, subject), (&json!("no-reply@example.com"), &json!("Confirm your e-mail address")));
    assert!(mail["text"].as_str().expect("a text").contains(&user.email), "{mail}");
    let token = token_in(&mail, VERIFY_PAGE);
    assert!(!is_verified(&sandbox, &user).await);
    edge.open_post(VERIFY, json!({ "token": "wrong" })).await.must_fail(401, "AUTH003");
    let tries = join_all((0..8).map(|_| edge.open_post(VERIFY, json!({ "token": token })))).await;
    let mut statuses: Vec<u16> = tries.iter().map(|reply| reply.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401]);
    assert!(is_verified(&sandbox, &user).await);
    let again = sandbox.log_in(&user).await;
    let known = edge.post("/api/v1/auth/validate", &again.token, json!({})).await.must_be(200);
    assert_eq!(known["user"]["email_verified"], true);
    // What is verified needs no further mail.
    edge.post(RESEND, &user.token, json!({})).await.must_be(200);
    assert_eq!(waiting(&sandbox).await, 0);
    let admin = sandbox.administrator().await;
    let log = edge.get(&format!("/api/v1/admin/users/{}/audit", user.id), &admin.token).await.must_be(200);
    let log = log.to_string();
    assert!(log.contains("\"email_verified\"") && log.contains("\"mail_sent\""), "{log}");
    assert_eq!(sandbox.mail().to(&user.email).await.len(), 1);
}

#[tokio::test]
async fn a_newer_link_makes_the_older_one_useless() {
    let sandbox = with_mail(&[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let first = token_in(&sandbox.mail().nth(&user.email, 1).await, VERIFY_PAGE);
    edge.post(RESEND, &user.token, json!({})).await.must_be(202);
    let second = token_in(&sandbox.mail().nth(&user.email, 2).await, VERIFY_PAGE);
    assert_ne!(first, second);
    edge.open_post(VERIFY, json!({ "token": first })).await.must_fail(401, "AUTH003");
    // A token of one purpose is none of another.
    let reset = json!({ "token": second, "new_password": "another good one" });
    edge.open_post("/api/v1/auth/password/reset", reset).await.must_fail(401, "AUTH003");
    edge.open_post(VERIFY, json!({ "token": second })).await.must_be(200);
}

#[tokio::test]
async fn an_expired_link_is_refused_and_a_new_one_works() {
    let sandbox = with_mail(&[("EMAIL_VERIFY_TTL_SECONDS", "3")]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let token = token_in(&sandbox.mail().nth(&user.email, 1).await, VERIFY_PAGE);
    tokio::time::sleep(Duration::from_secs(4)).await;
    edge.open_post(VERIFY, json!({ "token": token })).await.must_fail(401, "AUTH003");
    edge.post(RESEND, &user.token, json!({})).await.must_be(202);
    let token = token_in(&sandbox.mail().nth(&user.email, 2).await, VERIFY_PAGE);
    edge.open_post(VERIFY, json!({ "token": token })).await.must_be(200);
}

#[tokio::test]
async fn a_link_is_good_for_the_address_that_it_was_sent_to_alone() {
    let sandbox = with_mail(&[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let token = token_in(&sandbox.mail().nth(&user.email, 1).await, VERIFY_PAGE);
    let mut connection = sandbox.connection().await;
    sqlx::query("UPDATE users SET email = CONCAT('other-', email) WHERE id = ?")
        .bind(&user.id)
        .execute(&mut connection)
        .await
        .expect("changed");
    edge.open_post(VERIFY, json!({ "token": token })).await.must_fail(401, "AUTH003");
    assert!(!is_verified(&sandbox, &user).await);
}

#[tokio::test]
async fn asking_for_mails_again_and_again_must_wait() {
    let settings = [("MAILS_PER_ACCOUNT", "2"), ("MAILS_PER_ADDRESS", "4"), ("TRUSTED_PROXY_HOPS", "1")];
    let sandbox = with_mail(&settings).await;
    let (one, two, three) = (sandbox.register().await, sandbox.register().await, sandbox.register().await);
    let resend = async |user: &User, from: &str| {
        let headers = [("x-forwarded-for", from)];
        sandbox.edge().send(Method::POST, RESEND, Some(&user.token), &headers, Some(&json!({}))).await
    };
    let (here, elsewhere) = ("198.51.100.1", "203.0.113.9");
    // The two that are free, and the one that begins the wait.
    for _ in 0..3 {
        resend(&one, here).await.must_be(202);
    }
    for from in [here, elsewhere] {
        let reply = resend(&one, from).await;
        reply.must_fail(429, "AUTH005");
        let wait: u64 = reply.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((30..=60).contains(&wait), "{wait}");
    }
    for _ in 0..2 {
        resend(&two, here).await.must_be(202);
    }
    resend(&three, here).await.must_fail(429, "AUTH005");
    resend(&three, elsewhere).await.must_be(202);
    until("nothing waits any more", async || waiting(&sandbox).await == 0).await;
    // One older than one that was sent meanwhile is not sent any more.
    let mails = sandbox.mail().to(&one.email).await.len();
    assert!((2..=4).contains(&mails), "{mails}");
}

#[tokio::test]
async fn strangers_use_up_none_of_the_mails_that_the_owner_may_ask_for() {
    let sandbox = with_mail(&[("MAILS_PER_ACCOUNT", "2"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let user = sandbox.register().await;
    let post = async |path: &str, token: Option<&str>, from: &str| {
        let (headers, body) = ([("x-forwarded-for", from)], json!({ "email": user.email }));
        sandbox.edge().send(Method::POST, path, token, &headers, Some(&body)).await
    };
    for _ in 0..6 {
        post("/api/v1/auth/password/forgot", None, "198.51.100.1").await.must_be(202);
    }
    for _ in 0..3 {
        post(RESEND, Some(&user.token), "203.0.113.9").await.must_be(202);
    }
    post(RESEND, Some(&user.token), "203.0.113.9").await.must_fail(429, "AUTH005");
}

#[tokio::test]
async fn of_many_mails_asked_for_at_once_only_the_free_ones_are_sent() {
    let settings = vec![("MAILS_PER_ACCOUNT", "3".to_owned()), ("MAILS_PER_ADDRESS", "0".to_owned())];
    let sandbox = Sandbox::planned(Plan { mail: true, replicas: 2, settings, ..Plan::default() }).await;
    let (one, two) = (sandbox.register().await, sandbox.register().await);
    until("the first mails are sent", async || waiting(&sandbox).await == 0).await;
    sandbox.mail().door.set_open(false);
    let edge = |place: usize| &sandbox.edges[place % 2];
    // Each time those that are free, and the one that begins the wait.
    let forgot = json!({ "email": one.email });
    let asked =
        join_all((0..60).map(|place| edge(place).open_post("/api/v1/auth/password/forgot", forgot.clone())));
    assert!(asked.await.iter().all(|reply| reply.status == 202));
    // One older than one whose sending has begun is dropped.
    let queued = waiting(&sandbox).await;
    assert!((1..=4).contains(&queued), "{queued}");
    let asked = join_all((0..40).map(|place| edge(place).post(RESEND, &two.token, json!({})))).await;
    assert_eq!(asked.iter().filter(|reply| reply.status == 202).count(), 4);
    asked.iter().filter(|reply| reply.status != 202).for_each(|reply| reply.must_fail(429, "AUTH005"));
}

#[tokio::test]
async fn without_a_mail_server_resend_says_so_and_everything_else_goes_on() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let reply = edge.post(RESEND, &user.token, json!({})).await;
    reply.must_fail(503, "GW001");
    assert_eq!(reply.body["error"]["details"]["service"], "mail");
    let forgot = json!({ "email": user.email });
    edge.open_post("/api/v1/auth/password/forgot", forgot).await.must_be(202);
    assert!(sandbox.identity_processes[0].said().contains("mail is off"));
    assert_eq!(waiting(&sandbox).await, 0);
}

#[tokio::test]
async fn a_mail_arrives_when_the_mail_server_is_back_even_after_a_crash() {
    let mut sandbox = with_mail(&[]).await;
    sandbox.mail().door.set_open(false);
    let started = Instant::now();
    let user = sandbox.register().await;
    assert!(started.elapsed() < Duration::from_secs(5), "a mail server that is away holds nobody up");
    until("it was tried in vain", async || {
        sandbox.identity_processes[0].said().contains("a mail was not taken: away")
    })
    .await;
    sandbox.identity_processes[0].kill();
    assert_eq!(waiting(&sandbox).await, 1);
    // Should it have died in the middle of another try: the lease is over.
    sqlx::query("UPDATE mail_outbox SET due_at = due_at - INTERVAL 1 MINUTE")
        .execute(&mut sandbox.connection().await)
        .await
        .expect("a minute later");
    sandbox.mail().door.set_open(true);
    sandbox.restart_identity(0).await;
    let token = token_in(&sandbox.mail().nth(&user.email, 1).await, VERIFY_PAGE);
    sandbox.edge().open_post(VERIFY, json!({ "token": token })).await.must_be(200);
    until("the outbox is empty", async || waiting(&sandbox).await == 0).await;
}

#[tokio::test]
async fn mails_go_out_within_seconds_of_the_mail_server_being_back() {
    let sandbox = with_mail(&[]).await;
    sandbox.mail().door.set_open(false);
    let users = join_all((0..12).map(|_| sandbox.register())).await;
    // Long enough for the pauses to have grown as long as they grow.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(waiting(&sandbox).await, 12);
    sandbox.mail().door.set_open(true);
    let since = Instant::now();
    for user in &users {
        sandbox.mail().nth(&user.email, 1).await;
    }
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
}

#[tokio::test]
async fn two_replicas_send_each_mail_once() {
    let plan = Plan { mail: true, replicas: 2, ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    sandbox.mail().door.set_open(false);
    let users = join_all((0..30).map(|_| sandbox.register())).await;
    sandbox.mail().door.set_open(true);
    until("the outbox is empty", async || waiting(&sandbox).await == 0).await;
    for user in &users {
        sandbox.mail().nth(&user.email, 1).await;
    }
}

/// A process with one connection for what it is asked, which mails that are sent need as well.
#[tokio::test]
async fn mails_that_are_being_sent_keep_no_connection_that_others_wait_for() {
    let sandbox =
        with_mail(&[("AUTH_DB_CONNECTIONS", "2"), ("MAILS_PER_ACCOUNT", "0"), ("MAILS_PER_ADDRESS", "0")])
            .await;
    let user = sandbox.register().await;
    for _ in 0..100 {
        let body = json!({ "email": user.email });
        sandbox.edge().open_post("/api/v1/auth/password/forgot", body).await.must_be(202);
    }
    until("all are sent", async || waiting(&sandbox).await == 0).await;
}

#[tokio::test]
async fn a_mail_that_is_put_off_comes_later_and_one_that_is_refused_never() {
    let sandbox = with_mail(&[]).await;
    let register = async |email: &str| {
        let body = json!({ "email": email, "password": "correct horse battery", "client_id": "web" });
        sandbox.edge().open_post("/api/v1/auth/register", body).await.must_be(201)
    };
    register("refused@example.com").await;
    register("later@example.com").await;
    // Passes every rule for addresses, and cannot be written to.
    register("odd(address@example.com").await;
    sandbox.mail().nth("later@example.com", 1).await;
    until("nothing waits any more", async || waiting(&sandbox).await == 0).await;
    assert!(sandbox.mail().to("refused@example.com").await.is_empty());
    let said = sandbox.identity_processes[0].said();
    assert!(said.contains("\"code\":\"550\"") && said.contains("\"code\":\"451\""), "{said}");
    assert!(!said.contains("@example.com"), "no address in logs: {said}");
}

#[tokio::test]
async fn hostile_recipients_hold_up_no_other_mail() {
    let sandbox = with_mail(&[]).await;
    let register = async |email: String| {
        let body = json!({ "email": email, "password": "correct horse battery", "client_id": "web" });
        sandbox.edge().open_post("/api/v1/auth/register", body).await.must_be(201)
    };
    // Some are not answered for as long as anybody waits, with others the connection ends.
    for number in 0..6 {
        register(format!("silent{number}@example.com")).await;
        register(format!("closed{number}@example.com")).await;
    }
    let since = Instant::now();
    let users = join_all((0..10).map(|_| sandbox.register())).await;
    for user in &users {
        sandbox.mail().nth(&user.email, 1).await;
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let mut connection = sandbox.connection().await;
    until("each of them has its own pause", async || {
        let tried: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM mail_outbox WHERE refusals > 0")
            .fetch_one(&mut connection)
            .await
            .expect("counted");
        tried == 12
    })
    .await;
    let said = sandbox.identity_processes[0].said();
    assert!(said.contains("a mail was not taken: delayed"), "{said}");
    assert!(!said.contains("a mail was not taken: away"), "the server is there: {said}");
}

#[tokio::test]
async fn a_mail_that_cannot_be_sent_in_its_time_is_given_up() {
    let sandbox = with_mail(&[("EMAIL_VERIFY_TTL_SECONDS", "2")]).await;
    sandbox.mail().door.set_open(false);
    let user = sandbox.register().await;
    until("it is given up", async || waiting(&sandbox).await == 0).await;
    sandbox.mail().door.set_open(true);
    let next = sandbox.register().await;
    sandbox.mail().nth(&next.email, 1).await;
    assert!(sandbox.mail().to(&user.email).await.is_empty());
}

/// The columns of all tables that contain a text, which is looked for in hexadecimal digits: that works for every type.
async fn columns_with(sandbox: &Sandbox, text: &str) -> Vec<String> {
    let mut connection = sandbox.connection().await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT CONVERT(table_name USING utf8mb4), CONVERT(column_name USING utf8mb4)
         FROM information_schema.columns WHERE table_schema = DATABASE()",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the columns");
    let mut found = Vec::new();
    for (table, column) in columns {
        let count = format!("SELECT COUNT(*) FROM `{table}` WHERE LOCATE(HEX(?), HEX(`{column}`)) > 0");
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count))
            .bind(text)
            .fetch_one(&mut connection)
            .await
            .expect("looked");
        if count > 0 {
            found.push(format!("{table}.{column}"));
        }
    }
    found
}

#[tokio::test]
async fn a_token_is_in_the_mail_and_nowhere_else() {
    let sandbox = with_mail(&[("LOG_LEVEL", "trace")]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let verify = token_in(&sandbox.mail().nth(&user.email, 1).await, VERIFY_PAGE);
    edge.open_post("/api/v1/auth/password/forgot", json!({ "email": user.email })).await.must_be(202);
    let reset = token_in(&sandbox.mail().nth(&user.email, 2).await, RESET_PAGE);
    let known = columns_with(&sandbox, &user.email).await;
    assert!(
        known.iter().any(|column| column == "email_tokens.email"),
        "the search finds what is there: {known:?}"
    );
    for token in [&verify, &reset] {
        assert_eq!(columns_with(&sandbox, token).await, Vec::<String>::new());
    }
    edge.open_post(VERIFY, json!({ "token": verify })).await.must_be(200);
    let body = json!({ "token": reset, "new_password": "another good one" });
    edge.open_post("/api/v1/auth/password/reset", body).await.must_be(200);
    for process in sandbox.identity_processes.iter().chain(&sandbox.edge_processes) {
        let said = process.said();
        assert!(said.len() > 1000, "{said}");
        for secret in [verify.as_str(), reset.as_str(), "another good one"] {
            assert!(!said.contains(secret), "a secret is in a log");
        }
    }
}
