//! A database that is set back to a backup, under running services or while they are stopped.

use std::time::{Duration, Instant};

use e2e::{Backup, Plan, Sandbox, User, until};
use serde_json::json;

const READ: &str = "/api/v1/personas/instances";

/// Waits until every edge refuses the user's token, which must be soon.
async fn is_refused(sandbox: &Sandbox, user: &User) {
    let since = Instant::now();
    for edge in &sandbox.edges {
        until("the token is refused", async || {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{} goes on at {}",
                user.email,
                edge.authority()
            );
            edge.get(READ, &user.token).await.code() == "AUTH003"
        })
        .await;
    }
}

async fn is_served(sandbox: &Sandbox, user: &User) {
    for edge in &sandbox.edges {
        edge.get(READ, &user.token).await.must_be(200);
    }
}

async fn log_out(sandbox: &Sandbox, user: &User) {
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
}

/// Changes the user's role, and waits until every edge tells core-manager of it, which must be soon.
async fn promote(sandbox: &Sandbox, admin: &User, user: &User) {
    let account = format!("/api/v1/admin/users/{}", user.id);
    // An edge that could not ask a moment ago does not ask again at once.
    until("the services are back", async || {
        sandbox.edge().put(&account, &admin.token, json!({ "role": "moderator" })).await.status == 200
    })
    .await;
    let since = Instant::now();
    for edge in &sandbox.edges {
        until("core-manager is told of the new role", async || {
            assert!(since.elapsed() < Duration::from_secs(5), "the former role at {}", edge.authority());
            let told = edge.get("/api/v1/echo/restored", &user.token).await.text();
            told.contains(r#"["x-user-role","moderator"]"#)
        })
        .await;
    }
}

async fn ban(sandbox: &Sandbox, admin: &User, user: &User) {
    let account = format!("/api/v1/admin/users/{}", user.id);
    sandbox.edge().put(&account, &admin.token, json!({ "is_active": false })).await.must_be(200);
}

/// Raises the version of the user's claims, and gives the account with a token of that version.
async fn raised(sandbox: &Sandbox, admin: &User, user: &User) -> User {
    let account = format!("/api/v1/admin/users/{}", user.id);
    for role in ["moderator", "user", "moderator", "user"] {
        sandbox.edge().put(&account, &admin.token, json!({ "role": role })).await.must_be(200);
    }
    let body = json!({ "refresh_token": user.refresh_token });
    let tokens = sandbox.edge().open_post("/api/v1/auth/refresh", body).await.must_be(200);
    User::of(&tokens, user.email.clone())
}

#[tokio::test]
async fn after_a_restore_under_running_services_what_was_refused_stays_so_and_what_ends_binds() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let mut connection = sandbox.connection().await;
    let admin = sandbox.administrator().await;
    let [leaves, stays, banned, left] = [
        sandbox.register().await,
        sandbox.register().await,
        sandbox.register().await,
        sandbox.register().await,
    ];
    let backup = Backup::of(&mut connection).await;
    let newcomer = sandbox.register().await;
    ban(&sandbox, &admin, &banned).await;
    log_out(&sandbox, &left).await;
    for _ in 0..4 {
        log_out(&sandbox, &sandbox.log_in(&stays).await).await;
    }
    let raised = raised(&sandbox, &admin, &stays).await;
    for user in [&banned, &left] {
        is_refused(&sandbox, user).await;
    }
    let mut socket = sandbox.socket(&leaves).await;
    backup.restore(&mut connection).await;
    // Nobody told the edges of it: they are as ready as ever. The tables know nothing of this one.
    is_refused(&sandbox, &newcomer).await;
    assert_eq!(socket.closed().await, 1013);
    for user in [&banned, &left] {
        is_refused(&sandbox, user).await;
    }
    is_served(&sandbox, &leaves).await;
    is_served(&sandbox, &raised).await;
    drop(sandbox.socket(&leaves).await);
    log_out(&sandbox, &leaves).await;
    is_refused(&sandbox, &leaves).await;
    // With a lower version than the token has.
    ban(&sandbox, &admin, &raised).await;
    is_refused(&sandbox, &raised).await;
}

#[tokio::test]
async fn after_the_command_nobody_of_before_goes_on_and_everybody_can_sign_in() {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let mut connection = sandbox.connection().await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let backup = Backup::of(&mut connection).await;
    let raised = raised(&sandbox, &admin, &user).await;
    let later = sandbox.log_in(&user).await;
    sandbox.stop_identity();
    backup.restore(&mut connection).await;
    let said = sandbox.identity_command(&[], &["restored"]).await;
    assert!(said.contains("3 sessions were ended"), "{said}");
    sandbox.start_identity().await;
    for former in [&admin, &user, &raised, &later] {
        is_refused(&sandbox, former).await;
        let body = json!({ "refresh_token": former.refresh_token });
        sandbox.edge().open_post("/api/v1/auth/refresh", body).await.must_fail(401, "AUTH003");
    }
    let (admin, user) = (sandbox.log_in(&admin).await, sandbox.log_in(&user).await);
    is_served(&sandbox, &user).await;
    ban(&sandbox, &admin, &user).await;
    is_refused(&sandbox, &user).await;
}

/// The database is set back behind a user's token while the services are stopped, perhaps with a command before they start
/// again; then what is changed binds on that token.
async fn changes_bind_after(command: &[&str]) {
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let mut connection = sandbox.connection().await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let backup = Backup::of(&mut connection).await;
    let raised = raised(&sandbox, &admin, &user).await;
    sandbox.stop_identity();
    backup.restore(&mut connection).await;
    if !command.is_empty() {
        sandbox.identity_command(&[], command).await;
    }
    sandbox.start_identity().await;
    is_served(&sandbox, &raised).await;
    promote(&sandbox, &admin, &raised).await;
    ban(&sandbox, &admin, &raised).await;
    is_refused(&sandbox, &raised).await;
}

#[tokio::test]
async fn what_changes_after_a_restore_binds_on_tokens_of_a_higher_version() {
    changes_bind_after(&["restored", "--keep-sessions"]).await;
}

/// As long as the table has not passed again what edges have heard.
#[tokio::test]
async fn edges_that_come_back_tell_services_that_the_database_was_set_back() {
    changes_bind_after(&[]).await;
}
