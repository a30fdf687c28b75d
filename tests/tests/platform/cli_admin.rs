//! `persona`: accounts, sessions, keys, tokens, import and export, as administrators and developers do them.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use e2e::{Ended, Plan, Process, Sandbox, User, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a command that succeeds prints as JSON.
async fn told(sandbox: &Sandbox, who: &User, arguments: &[&str]) -> Value {
    told_with(sandbox, &who.token, arguments, "").await
}

async fn told_with(sandbox: &Sandbox, token: &str, arguments: &[&str], input: &str) -> Value {
    let arguments: Vec<&str> = ["--output", "json"].iter().chain(arguments).copied().collect();
    let ended = sandbox.persona(Some(token), &arguments, input).await;
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {ended:?}"))
}

/// The error of a command that is refused, in the one shape that errors have.
fn refusal(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    serde_json::from_str(&ended.stderr).unwrap_or_else(|_| panic!("{ended:?}"))
}

#[tokio::test]
async fn an_administrator_makes_changes_suspends_and_deletes_an_account() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let (email, password) = ("Grace@Example.com", "a password of hers");
    let create = ["user", "create", email, "--client-id", "shop", "--role", "moderator", "--password-stdin"];
    let made = told_with(&sandbox, &admin.token, &create, &format!("{password}\n")).await;
    assert_eq!(
        (&made["email"], &made["role"], &made["client_id"]),
        (&json!("grace@example.com"), &json!("moderator"), &json!("shop"))
    );
    let login = async || {
        let body = json!({ "email": email, "password": password });
        sandbox.edge().open_post("/api/v1/auth/login", body).await
    };
    let tokens = login().await.must_be(200);
    let token = tokens["access_token"].as_str().expect("a token").to_owned();
    let again =
        sandbox.persona(Some(&admin.token), &["user", "create", email, "--client-id", "shop"], "").await;
    assert!(again.code == Some(1) && again.stderr.contains("USER002: there is an account"), "{again:?}");
    let silent = sandbox.persona(Some(&admin.token), &create, "\n").await;
    assert!(silent.code == Some(2) && silent.stderr.contains("no password on stdin"), "{silent:?}");

    let shown = told(&sandbox, &admin, &["user", "show", "grace@example.com"]).await;
    assert_eq!((&shown["user"]["id"], &shown["stats"]["active_sessions"]), (&made["id"], &json!(1)));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(told(&sandbox, &admin, &["user", "set-role", id, "admin"]).await["role"], "admin");
    assert_eq!(
        told(&sandbox, &admin, &["user", "set-tier", email, "premium"]).await["subscription_tier"],
        "premium"
    );
    let profile = async || sandbox.edge().get("/api/v1/user/profile", &token).await;
    assert_eq!(told(&sandbox, &admin, &["user", "suspend", email]).await["is_active"], false);
    until("the token is refused", async || profile().await.code() == "AUTH003").await;
    assert_eq!(told(&sandbox, &admin, &["user", "activate", id]).await["is_active"], true);
    login().await.must_be(200);

    let unsure = sandbox.persona(Some(&admin.token), &["user", "delete", email], "").await;
    assert!(unsure.code == Some(2) && unsure.stderr.contains("--yes"), "{unsure:?}");
    assert_eq!(told(&sandbox, &admin, &["user", "delete", email, "--yes"]).await["deleted"], true);
    login().await.must_fail(401, "AUTH001");
    let gone = sandbox.persona(Some(&admin.token), &["user", "show", email], "").await;
    assert!(gone.code == Some(1) && gone.stderr.contains("USER001: there is no account"), "{gone:?}");
}

#[tokio::test]
async fn all_pages_are_listed_and_every_account_once() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let empty = told(&sandbox, &admin, &["user", "list", "--search", "nobody@"]).await;
    assert_eq!(empty, json!([]));
    let (folder, file) = accounts(250);
    told(&sandbox, &admin, &["import", &path(&file), "--client-id", "shop"]).await;
    let listed = told(&sandbox, &admin, &["user", "list"]).await;
    let ids: HashSet<&str> =
        listed.as_array().expect("a list").iter().filter_map(|user| user["id"].as_str()).collect();
    assert_eq!((ids.len(), listed.as_array().map(Vec::len)), (251, Some(251)));
    let few = told(&sandbox, &admin, &["user", "list", "--client-id", "shop", "--limit", "120"]).await;
    assert!(
        few.as_array()
            .is_some_and(|few| few.len() == 120 && few.iter().all(|user| user["client_id"] == "shop"))
    );
    let text = sandbox.persona(Some(&admin.token), &["user", "list", "--search", "user7@"], "").await;
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("ID") && lines[1].contains("user7@example.com"),
        "{text:?}"
    );
    drop(folder);
}

#[tokio::test]
async fn who_may_not_is_refused_and_who_says_nothing_is_told_what_to_say() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let list = ["--output", "json", "user", "list"];
    let refused = refusal(&sandbox.persona(Some(&user.token), &list, "").await);
    assert_eq!(refused["error"]["code"], "AUTH004");
    assert!(refused["request_id"].is_string(), "{refused}");
    let text = sandbox.persona(Some(&user.token), &["user", "list"], "").await;
    assert!(text.stderr.starts_with("persona: AUTH004: ") && text.stderr.contains("(request "), "{text:?}");
    let nobody = sandbox.persona(None, &["user", "list"], "").await;
    assert!(nobody.code == Some(2) && nobody.stderr.contains("PERSONA_TOKEN"), "{nobody:?}");
    let wrong = sandbox.persona(Some(&user.token), &["user", "set-role", &user.id, "king"], "").await;
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("must be one of user, moderator, admin"),
        "{wrong:?}"
    );
    let away = vec![("PERSONA_EDGE", "http://127.0.0.1:1".to_owned()), ("PERSONA_TOKEN", "x".to_owned())];
    let away = refusal(&Process::end("persona", &away, &list, "").await);
    assert!(
        away["error"]["message"].as_str().is_some_and(|says| says.contains("Connection refused")),
        "{away}"
    );
    assert_eq!(away["error"]["code"], "CLI003");
    // In clear a token goes nowhere else.
    let clear =
        vec![("PERSONA_EDGE", "http://edge.example.com".to_owned()), ("PERSONA_TOKEN", "x".to_owned())];
    let clear = Process::end("persona", &clear, &["user", "list"], "").await;
    assert!(clear.code == Some(2) && clear.stderr.contains("PERSONA_ALLOW_HTTP"), "{clear:?}");
    let unread = vec![("PERSONA_CA_FILE", "/nonexistent".to_owned()), ("PERSONA_TOKEN", "x".to_owned())];
    let unread = Process::end("persona", &unread, &["user", "list"], "").await;
    assert!(unread.code == Some(2) && unread.stderr.contains("PERSONA_CA_FILE: /nonexistent"), "{unread:?}");
    // The token may stand in a file.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{}\n", user.token)).expect("written");
    let settings = vec![
        ("PERSONA_EDGE", format!("http://{}", sandbox.edge().authority())),
        ("PERSONA_TOKEN_FILE", path(&file)),
    ];
    let ended = Process::end("persona", &settings, &["session", "list"], "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_ones_own_and_others() {
    let sandbox = Sandbox::start().await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let other = sandbox.log_in(&user).await;
    let listed = told(&sandbox, &user, &["session", "list"]).await;
    let sessions = listed.as_array().expect("a list");
    assert_eq!(sessions.len(), 2);
    let foreign = sessions.iter().find(|session| session["current"] == false).expect("the other one");
    told(&sandbox, &user, &["session", "end", foreign["id"].as_str().expect("an id")]).await;
    let is_refused =
        async |token: &str| sandbox.edge().get("/api/v1/user/profile", token).await.code() == "AUTH003";
    until("the other one has ended", async || is_refused(&other.token).await).await;
    let third = sandbox.log_in(&user).await;
    told(&sandbox, &user, &["session", "end-all"]).await;
    until("all others have ended", async || is_refused(&third.token).await).await;
    assert!(!is_refused(&user.token).await);
    let seen = told(&sandbox, &admin, &["session", "list", &user.email]).await;
    assert_eq!(seen.as_array().map(Vec::len), Some(1));
    told(&sandbox, &admin, &["session", "end-all", &user.id]).await;
    until("all have ended", async || is_refused(&user.token).await).await;
}

#[tokio::test]
async fn a_key_is_printed_once_and_ends_when_it_is_revoked() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    assert_eq!(told(&sandbox, &user, &["keys", "list"]).await, json!([]));
    let made = sandbox.persona(Some(&user.token), &["keys", "create", "nightly", "--days", "7"], "").await;
    let key = made.stdout.trim_end();
    assert!(contract::api_key::is_well_formed(key) && made.stderr.contains("nightly"), "{made:?}");
    assert!(!made.stderr.contains(key), "{made:?}");
    let profile = async || sandbox.edge().get("/api/v1/echo/x", key).await;
    profile().await.must_be(200);
    let listed = told(&sandbox, &user, &["keys", "list"]).await;
    assert!(listed[0]["name"] == "nightly" && !listed.to_string().contains(key), "{listed}");
    let explained = sandbox.persona(Some(key), &["token", "explain"], "").await;
    assert!(
        explained.code == Some(0) && explained.stdout.contains("an API key that begins with persona_"),
        "{explained:?}"
    );
    let people =
        sandbox.persona(Some(key), &["token", "explain", "--path", "/api/v1/user/api-keys"], "").await;
    assert!(lines(&people, "fault    route")[0].contains("this is an API key (AUTH004)"), "{people:?}");
    let mistaken = sandbox.persona(Some(&user.token), &["keys", "revoke", key], "").await;
    assert!(mistaken.code == Some(2) && !mistaken.stderr.contains(key), "{mistaken:?}");
    told(&sandbox, &user, &["keys", "revoke", listed[0]["id"].as_str().expect("an id")]).await;
    until("the key is refused", async || profile().await.code() == "AUTH003").await;
    let one = sandbox.persona(None, &["keys", "secret"], "").await;
    let other = sandbox.persona(None, &["keys", "secret", "--rotation"], "").await;
    assert!(one.stdout.trim_end().len() == 43 && one.stdout != other.stdout, "{one:?}");
    assert!(other.stderr.contains("JWT_PREVIOUS_SECRET_KEYS"), "{other:?}");
    let both = told(&sandbox, &user, &["keys", "secret", "--rotation"]).await;
    assert!(both["rotation"].as_str().is_some_and(|steps| steps.contains("1. all edges and identity-svc")));
}

#[tokio::test]
async fn an_administrator_sees_and_ends_the_keys_of_an_account() {
    let sandbox = Sandbox::start().await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let made = told(&sandbox, &user, &["keys", "create", "nightly"]).await;
    let key = made["key"].as_str().expect("a key");
    sandbox.edge().get("/api/v1/echo/x", key).await.must_be(200);
    let listed = told(&sandbox, &admin, &["keys", "list", &user.email]).await;
    assert_eq!(listed[0]["id"], made["id"], "{listed}");
    let id = made["id"].as_str().expect("an id");
    told(&sandbox, &admin, &["keys", "revoke", id, "--of", &user.id]).await;
    let is_refused = async || sandbox.edge().get("/api/v1/echo/x", key).await.code() == "AUTH003";
    until("the key is refused", is_refused).await;
    let denied = sandbox.persona(Some(&user.token), &["keys", "list", &admin.email], "").await;
    assert!(denied.code == Some(1) && denied.stderr.contains("AUTH004"), "{denied:?}");
}

/// The lines of an explanation that begin so.
fn lines<'e>(ended: &'e Ended, begin: &str) -> Vec<&'e str> {
    ended.stdout.lines().filter(|line| line.starts_with(begin)).collect()
}

#[tokio::test]
async fn a_token_is_explained_by_its_claims_its_signature_and_what_the_platform_says() {
    let plan = Plan {
        settings: vec![("RATE_LIMITS", "free=60,basic=300,premium=1000,enterprise=unlimited".to_owned())],
        ..Plan::default()
    };
    let sandbox = Sandbox::planned(plan).await;
    let user = sandbox.register().await;
    let explain = async |settings: &[(&'static str, String)], token: &str, more: &[&str]| {
        let arguments: Vec<&str> = ["token", "explain", "-"].iter().chain(more).copied().collect();
        let mut settings = settings.to_vec();
        settings.push(("PERSONA_EDGE", format!("http://{}", sandbox.edge().authority())));
        Process::end("persona", &settings, &arguments, token).await
    };
    let all = sandbox.settings();
    let good = explain(&all, &user.token, &["--path", "/api/v1/personas/instances"]).await;
    assert!(good.code == Some(0) && good.stdout.trim_end().ends_with("let in"), "{good:?}");
    for (begin, says) in [
        ("ok       kind", "an access token, HS256"),
        ("ok       signature", "made with a key that is good here"),
        ("ok       time", "good for "),
        ("ok       live claims", &user.email),
        ("ok       edge", &user.email),
        ("ok       rate limit", " of 60 requests a minute left"),
        ("ok       route", "GET /api/v1/personas/instances is for every user"),
        ("ok       answer", "200"),
    ] {
        assert!(lines(&good, begin).iter().any(|line| line.contains(says)), "{begin}: {}", good.stdout);
    }
    assert!(!good.stdout.contains(&user.token) && !good.stderr.contains(&user.token));
    let counted =
        explain(&all, &user.token, &["--method", "POST", "--path", "/api/v1/personas/instances"]).await;
    assert!(
        counted.stdout.contains("0 of 1 personas used") && counted.stdout.contains("POST is not sent"),
        "{counted:?}"
    );
    let admins = explain(&all, &user.token, &["--path", "/api/v1/templates"]).await;
    assert!(
        admins.code == Some(1)
            && lines(&admins, "fault    route")[0]
                .contains("is for administrators, the role here is user (AUTH004)")
    );
    let nothing = explain(&all, &user.token, &["--path", "/api/v1/nothing"]).await;
    assert!(
        nothing.code == Some(1) && nothing.stdout.contains("the edge has no GET /api/v1/nothing (REQ002)"),
        "{nothing:?}"
    );

    let foreign = super::credentials::resigned(&user.token, "a-foreign-secret-of-at-least-32-bytes");
    let foreign = explain(&all, &foreign, &[]).await;
    assert!(foreign.code == Some(1) && foreign.stdout.trim_end().ends_with("refused"), "{foreign:?}");
    for begin in ["fault    signature", "fault    live claims", "fault    edge"] {
        assert!(lines(&foreign, begin)[0].contains("AUTH003"), "{begin}: {}", foreign.stdout);
    }
    // A change is seen by who asks, while the token says what it said.
    let admin = sandbox.administrator().await;
    told(&sandbox, &admin, &["user", "set-role", &user.id, "moderator"]).await;
    let changed = explain(&all, &user.token, &[]).await;
    assert!(
        lines(&changed, "ok       live claims")[0].contains("role [user] is now [moderator]"),
        "{changed:?}"
    );
    told(&sandbox, &admin, &["session", "end-all", &user.id]).await;
    let ended = explain(&all, &user.token, &[]).await;
    assert!(lines(&ended, "fault    live claims")[0].contains("The session has ended"), "{ended:?}");
    // Without any setting, what can be said is said.
    let bare = explain(&[], &admin.token, &[]).await;
    assert!(bare.code == Some(0) && lines(&bare, "skipped").len() == 2, "{bare:?}");
    let wrong = explain(&[], &admin.token, &["--path", ".example.com/"]).await;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("must begin with /"), "{wrong:?}");
    // When nobody is there who decides, nobody knows.
    let away = vec![("PERSONA_EDGE", "http://127.0.0.1:1".to_owned())];
    let explain_json = ["--output", "json", "token", "explain", "-"];
    let away = Process::end("persona", &away, &explain_json, &admin.token).await;
    let verdict: Value = serde_json::from_str(&away.stdout).expect("JSON");
    assert!(away.code == Some(1) && verdict["allowed"].is_null() && verdict["token"].is_object(), "{away:?}");
    let none = explain(&[], "nonsense", &[]).await;
    assert!(none.code == Some(1) && lines(&none, "fault    kind")[0].contains("is no token"), "{none:?}");
}

fn path(path: &std::path::Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A file of accounts.
fn accounts(count: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.csv");
    let rows: String = (0..count).map(|n| format!("user{n}@example.com,Name {n},\"two\nlines\"\n")).collect();
    std::fs::write(&file, format!("email,first_name,passed_over\n{rows}")).expect("written");
    (folder, file)
}

#[tokio::test]
async fn an_import_is_looked_at_first_and_a_faulty_row_is_named_by_its_line() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let (_folder, file) = accounts(700);
    let good = std::fs::read_to_string(&file).expect("read");
    // Each row but the first has two lines.
    std::fs::write(&file, format!("{good}nobody,x,\nUSER1@example.com,again,\n")).expect("written");
    let import = ["import", &path(&file), "--client-id", "shop"];
    let ended = sandbox.persona(Some(&admin.token), &import, "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("nothing was imported") && ended.stdout.contains("2 faulty"), "{ended:?}");
    let named: Vec<&str> = ended.stderr.lines().collect();
    assert!(
        named.len() == 2
            && named[0].contains("users.csv:1402: email ")
            && named[1].contains(":1403: email stands twice"),
        "{named:?}"
    );
    let count = async || {
        told(&sandbox, &admin, &["user", "list", "--client-id", "shop"]).await.as_array().map(Vec::len)
    };
    assert_eq!(count().await, Some(0));
    let arguments = ["--output", "json", "import", import[1], "--client-id", "shop", "--skip-faulty"];
    let skipped = sandbox.persona(Some(&admin.token), &arguments, "").await;
    assert_eq!(skipped.code, Some(1), "faulty rows are a finding: {skipped:?}");
    let result: Value = serde_json::from_str(&skipped.stdout).expect("JSON");
    assert_eq!(
        (&result["created"], &result["failed"], &result["total"]),
        (&json!(700), &json!(2), &json!(702))
    );
    assert_eq!(result["faults"].as_array().map(Vec::len), Some(2), "{result}");
    assert_eq!(count().await, Some(700));
    std::fs::write(&file, good).expect("written");
    let again = told(&sandbox, &admin, &import).await;
    assert_eq!((&again["unchanged"], &again["failed"]), (&json!(700), &json!(0)));
    let left: Vec<_> = std::fs::read_dir(file.parent().expect("a folder")).expect("read").collect();
    assert_eq!(left.len(), 1, "no note is left behind");
}

#[tokio::test]
async fn an_import_that_broke_off_goes_on_where_it_was() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let (_folder, file) = accounts(4000);
    let note = file.with_added_extension("persona-import");
    let settings = vec![
        ("PERSONA_EDGE", format!("http://{}", sandbox.edge().authority())),
        ("PERSONA_TOKEN", admin.token.clone()),
    ];
    let file = path(&file);
    let import = ["--output", "json", "import", &file, "--client-id", "shop", "--rows", "20"];
    let mut running = Process::begin("persona", &settings, &import);
    let done = || -> u64 {
        let note = std::fs::read(&note).ok();
        note.and_then(|note| serde_json::from_slice::<Value>(&note).ok()?["tally"]["total"].as_u64())
            .unwrap_or(0)
    };
    until("a part is imported", async || done() >= 200).await;
    running.kill();
    let done = done();
    assert!((200..4000).contains(&done), "{done}");
    let ended = Process::end("persona", &settings, &import, "").await;
    let notice: Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    let says = notice["notice"]["message"].as_str().expect("a message");
    assert!(ended.code == Some(0) && says.starts_with(&format!("goes on after row {done} ")), "{ended:?}");
    let result: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let sum = result["created"].as_u64().zip(result["unchanged"].as_u64()).map(|(new, old)| new + old);
    assert_eq!((&result["total"], sum, &result["failed"]), (&json!(4000), Some(4000), &json!(0)));
    assert!(!note.exists());
    let listed = told(&sandbox, &admin, &["user", "list", "--client-id", "shop"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(4000));
}

#[tokio::test]
async fn an_import_waits_for_a_service_that_is_away() {
    let mut sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let (_folder, file) = accounts(400);
    sandbox.subscription_processes[0].kill();
    sandbox.identity_processes[0].kill();
    let settings = vec![
        ("PERSONA_EDGE", format!("http://{}", sandbox.edge().authority())),
        ("PERSONA_TOKEN", admin.token.clone()),
    ];
    let file = path(&file);
    let importing = tokio::spawn(async move {
        Process::end("persona", &settings, &["import", &file, "--client-id", "shop"], "").await
    });
    let edge = &sandbox.edge_processes[0];
    until("the edge has refused a part", async || {
        edge.said().lines().any(|line| line.contains("users/import") && line.contains("\"status\":503"))
    })
    .await;
    assert!(!importing.is_finished());
    sandbox.restart_subscription(0);
    sandbox.restart_identity(0).await;
    let ended = importing.await.expect("joined");
    assert!(ended.code == Some(0) && ended.stdout.contains("400 accounts made"), "{ended:?}");
}

#[tokio::test]
async fn an_export_is_whole_or_not_there() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.administrator().await;
    let (folder, file) = accounts(1200);
    told(&sandbox, &admin, &["import", &path(&file), "--client-id", "shop"]).await;
    let csv =
        sandbox.persona(Some(&admin.token), &["export", "--field", "email", "--client-id", "shop"], "").await;
    let lines: HashSet<&str> = csv.stdout.split_terminator("\r\n").collect();
    assert!(
        csv.code == Some(0) && lines.len() == 1201 && lines.contains("user1199@example.com"),
        "{:?}",
        csv.stderr
    );
    let target = path(&folder.path().join("all.json"));
    let told = told(&sandbox, &admin, &["export", &target, "--format", "json"]).await;
    let written = std::fs::read(&target).expect("a file");
    assert_eq!(told["bytes"], written.len());
    let mode = std::fs::metadata(&target).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for nobody else");
    let device = sandbox.persona(Some(&admin.token), &["export", "/dev/null"], "").await;
    assert!(device.code == Some(2) && device.stderr.contains("no regular file"), "{device:?}");
    let all: Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(1201));
    let other = path(&folder.path().join("none.csv"));
    let user = sandbox.register().await;
    let refused = sandbox.persona(Some(&user.token), &["export", &other], "").await;
    assert!(refused.code == Some(1) && refused.stderr.contains("AUTH004"), "{refused:?}");
    assert!(!std::path::Path::new(&other).exists());
}

#[tokio::test]
async fn an_export_that_breaks_off_leaves_what_was_there_before() {
    let edge = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let settings = [
        ("PERSONA_EDGE", format!("http://{}", edge.local_addr().expect("an address"))),
        ("PERSONA_TOKEN", "any".to_owned()),
    ];
    tokio::spawn(async move {
        let (mut stream, _) = edge.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await;
        let begun = b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n7\r\nemail\r\n\r\n";
        let _ = stream.write_all(begun).await;
    });
    let folder = TempDir::new().expect("a folder");
    let target = folder.path().join("all.csv");
    std::fs::write(&target, "before").expect("written");
    let ended = Process::end("persona", &settings, &["export", &path(&target)], "").await;
    assert!(ended.code == Some(1) && ended.stderr.contains("broke off"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&target).expect("a file"), "before");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "no half of it is left");
}

#[tokio::test]
async fn another_web_server_is_not_taken_for_the_platform() {
    let (folder, file) = accounts(3);
    let (file, export) = (path(&file), path(&folder.path().join("all.csv")));
    let commands: [&[&str]; 6] = [
        &["user", "list"],
        &["user", "set-tier", "0199c0de-0000-7000-8000-000000000001", "basic"],
        &["session", "list"],
        &["keys", "create", "nightly"],
        &["import", &file, "--client-id", "shop"],
        &["export", &export],
    ];
    for body in ["<html>", "{}", r#"{"created":3,"unchanged":0,"failed":0,"total":3,"dry_run":false}"#] {
        let settings = [("PERSONA_EDGE", stranger(body).await), ("PERSONA_TOKEN", "any".to_owned())];
        for command in commands {
            let arguments = [&["--output", "json"], command].concat();
            let refused = refusal(&Process::end("persona", &settings, &arguments, "").await);
            assert_eq!(refused["error"]["code"], "CLI003", "{body} {command:?}: {refused}");
        }
    }
    let left = std::fs::read_dir(folder.path()).expect("read").count();
    assert_eq!(left, 1, "neither a note nor an export");
}

/// Answers everything with this, and gives its URL.
async fn stranger(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64 * 1024]).await;
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn shells_are_told_every_command() {
    let bash = Process::end("persona", &[], &["completions", "bash"], "").await;
    for command in ["doctor", "config", "token", "user", "session", "keys", "import", "export", "completions"]
    {
        assert!(bash.stdout.contains(command), "{command}");
    }
    let none = Process::end("persona", &[], &[], "").await;
    assert_eq!(none.code, Some(2), "{none:?}");
}
