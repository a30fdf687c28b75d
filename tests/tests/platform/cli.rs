//! `persona doctor` and `persona config`: what is wrong is named once, with its remedy, and nothing that is secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use e2e::{Authority, Ended, INTERNAL_TOKEN, JWT_SECRET, Plan, Process, Sandbox, until};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Settings = Vec<(&'static str, String)>;

/// The settings with others in their place.
fn with(settings: &Settings, changes: &[(&'static str, &str)]) -> Settings {
    let is_changed = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
    let kept = settings.iter().filter(|(name, _)| !is_changed(name)).cloned();
    kept.chain(changes.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
}

async fn doctor(settings: &Settings, more: &[&str]) -> Ended {
    let arguments: Vec<&str> = ["doctor"].iter().chain(more).copied().collect();
    let ended = Process::end("persona", settings, &arguments, "").await;
    let value =
        |wanted: &str| settings.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
    // A server of developers may have the name of its user for a password, which is printed.
    let password = value("AUTH_DB_PASSWORD").filter(|password| Some(*password) != value("AUTH_DB_USER"));
    let secrets = [JWT_SECRET, INTERNAL_TOKEN].into_iter().chain(password);
    for secret in secrets.filter(|secret| !secret.is_empty()) {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{ended:?}");
    }
    ended
}

/// The lines of what was found, which end with a remedy.
fn findings(ended: &Ended) -> Vec<&str> {
    let is_finding = |line: &&str| line.starts_with("fault ") || line.starts_with("warning ");
    ended.stdout.lines().filter(is_finding).collect()
}

/// What was found is this alone.
#[track_caller]
fn must_find(ended: &Ended, begins: &str, says: &str, remedy: &str) {
    let found = findings(ended);
    let [line] = found[..] else { panic!("{begins}, {says}: {}\n{}", ended.stdout, ended.stderr) };
    let (what, told) = line.split_once(" → ").unwrap_or_else(|| panic!("no remedy: {line}"));
    assert!(line.starts_with(begins) && what.contains(says) && told.contains(remedy), "{line}");
    assert_eq!(ended.code, Some(i32::from(begins.starts_with("fault"))), "{line}");
}

async fn healthy() -> (Sandbox, Settings) {
    let sandbox = Sandbox::start().await;
    let internal = sandbox.subscription_internals[0].clone();
    until("subscription-svc sees identity-svc", async || {
        internal.open_get("/internal/health").await.body["status"] == "healthy"
    })
    .await;
    let settings = sandbox.settings();
    (sandbox, settings)
}

#[tokio::test]
async fn a_healthy_platform_is_told_to_be_well_and_nothing_else() {
    let (_sandbox, settings) = healthy().await;
    let ended = doctor(&settings, &["--strict"]).await;
    let lines: Vec<&str> = ended.stdout.lines().take_while(|line| !line.is_empty()).collect();
    assert!(lines.len() > 12 && lines.iter().all(|line| line.starts_with("ok ")), "{ended:?}");
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stdout.contains(&format!("{} ok, 0 warnings, 0 faults, 0 skipped", lines.len())),
        "{ended:?}"
    );
    for told in [
        "settings",
        "database",
        "tables",
        "privileges",
        "identity-svc",
        "edge",
        "core-manager",
        "token key",
        "clocks",
    ] {
        assert!(ended.stdout.contains(&format!("ok       {told} ")), "{told}: {}", ended.stdout);
    }
    let ended = doctor(&settings, &["--output", "json"]).await;
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(report["summary"]["ok"], lines.len());
    let checks = report["checks"].as_array().expect("checks");
    assert!(checks.iter().all(|check| check["status"] == "ok" && check["remedy"].is_null()), "{report}");
    // In the environment of a single process nothing is asked of the others.
    let ended = doctor(&settings, &["--process", "identity-svc"]).await;
    assert!(ended.code == Some(0) && !ended.stdout.contains("core-manager"), "{ended:?}");
}

#[tokio::test]
async fn a_healthy_platform_with_certificates_and_key_pairs_is_told_to_be_well() {
    let settings = vec![("JWT_ALGORITHM", "EdDSA".to_owned())];
    let authority = Some(Arc::new(Authority::default()));
    let sandbox = Sandbox::planned(Plan { authority, settings, ..Plan::default() }).await;
    let settings = sandbox.settings();
    let key = settings.iter().find(|(name, _)| *name == "GRPC_TLS_KEY_FILE").expect("a key");
    std::fs::set_permissions(&key.1, std::fs::Permissions::from_mode(0o600)).expect("closed");
    let ended = doctor(&settings, &["--strict"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    for told in [
        "https://127.0.0.1:",
        "2 are good, the first until ",
        "tokens are signed with key pairs",
        "files             1 with secrets",
    ] {
        assert!(ended.stdout.contains(told), "{told}: {}", ended.stdout);
    }
    let user = sandbox.register().await;
    let edge = format!("http://{}", sandbox.edge().authority());
    let settings = with(&settings, &[("PERSONA_EDGE", &edge)]);
    let explained = Process::end("persona", &settings, &["token", "explain", "-"], &user.token).await;
    assert!(
        explained.stdout.contains("EdDSA") && explained.stdout.contains("made with a key that is good here"),
        "{explained:?}"
    );
}

#[tokio::test]
async fn a_setting_that_is_wrong_is_named_once_for_all_who_have_it() {
    let (sandbox, settings) = healthy().await;
    let found = async |changes: &[(&'static str, &str)]| doctor(&with(&settings, changes), &[]).await;
    let short = found(&[("JWT_SECRET_KEY", "short")]).await;
    must_find(
        &short,
        "fault    settings",
        "edge and identity-svc: JWT_SECRET_KEY is 5 bytes long",
        "`persona keys secret`",
    );
    let malformed = found(&[("GATEWAY_TIMEOUT_MS", "soon")]).await;
    must_find(
        &malformed,
        "fault    settings",
        "edge: GATEWAY_TIMEOUT_MS",
        "set GATEWAY_TIMEOUT_MS: Milliseconds",
    );
    let misspelt = found(&[("SESIONS_PER_ACCOUNT", "5")]).await;
    must_find(
        &misspelt,
        "warning  settings",
        "SESIONS_PER_ACCOUNT is no setting",
        "call it SESSIONS_PER_ACCOUNT",
    );
    let strict = doctor(&with(&settings, &[("SESIONS_PER_ACCOUNT", "5")]), &["--strict"]).await;
    assert_eq!(strict.code, Some(1));
    let gone = found(&[("AUTH_DB_PASSWORD", ""), ("AUTH_DB_PASSWORD_FILE", "/nonexistent/password")]).await;
    let named: Vec<&str> = findings(&gone);
    assert_eq!(
        named.iter().filter(|line| line.contains("/nonexistent/password: No such file")).count(),
        1,
        "{named:?}"
    );
    drop(sandbox);
}

#[tokio::test]
async fn a_secret_that_the_running_processes_do_not_have_is_named() {
    let (sandbox, settings) = healthy().await;
    let found = async |changes: &[(&'static str, &str)]| doctor(&with(&settings, changes), &[]).await;
    let token = found(&[("INTERNAL_GRPC_TOKEN", "another-internal-token-0123456789abcdef")]).await;
    must_find(
        &token,
        "fault    internal token",
        "refused by identity-svc and subscription-svc",
        "set INTERNAL_GRPC_TOKEN to the same",
    );
    let key = found(&[("JWT_SECRET_KEY", "another-signing-key-0123456789abcdef")]).await;
    must_find(
        &key,
        "fault    token key",
        "identity-svc and edge verify tokens with another JWT_SECRET_KEY",
        "restart those",
    );
    let audience = found(&[("JWT_AUDIENCE", "elsewhere")]).await;
    let rotated = sandbox.identity_command(&[], &["keys", "rotate"]).await;
    assert!(rotated.contains("signs from now on"), "{rotated}");
    let well = found(&[]).await;
    assert_eq!(findings(&well), [""; 0], "with a key that follows from the secret");
    let key_again = found(&[("JWT_SECRET_KEY", "another-signing-key-0123456789abcdef")]).await;
    must_find(&key_again, "fault    token key", "identity-svc and edge", "restart those");
    must_find(&audience, "fault    token key", "JWT_AUDIENCE", "the same");
}

#[tokio::test]
async fn settings_in_files_of_their_own_are_compared() {
    let (_sandbox, settings) = healthy().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, settings: &Settings| {
        let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        closed(&folder.path().join(name), &lines)
    };
    let other = with(&settings, &[("JWT_SECRET_KEY", "another-signing-key-0123456789abcdef")]);
    let (edge, identity) = (file("edge.env", &settings), file("identity-svc.env", &other));
    let (edge, identity) = (format!("edge={edge}"), format!("identity-svc={identity}"));
    // The environment has nothing to say then.
    let noise = with(&settings, &[("CORE_MANAGER_URL", "nowhere")]);
    let each = vec!["--env-file", &edge, "--env-file", &identity];
    let folder = vec!["--env-file", folder.path().to_str().expect("UTF-8")];
    for files in [each, folder] {
        let ended = doctor(&noise, &[vec!["--offline"], files].concat()).await;
        must_find(
            &ended,
            "fault    agreement",
            "the edge does not have the JWT_SECRET_KEY",
            "set JWT_SECRET_KEY to the same",
        );
    }
}

#[tokio::test]
async fn a_service_where_another_is_said_to_be_is_named() {
    let (sandbox, settings) = healthy().await;
    let found = async |changes: &[(&'static str, &str)]| doctor(&with(&settings, changes), &[]).await;
    let identity = format!("http://{}", sandbox.identity[0]);
    must_find(
        &found(&[("SUBSCRIPTION_URL", &identity)]).await,
        "fault    subscription-svc",
        "another service listens there",
        "correct where subscription-svc is said to be",
    );
    let place = elsewhen(TimeDelta::zero()).await;
    must_find(
        &found(&[("EDGE_LISTEN", &place)]).await,
        "fault    edge",
        "another server listens there",
        "correct EDGE_LISTEN",
    );
}

/// Writes a file that others cannot read, and gives its path.
fn closed(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("closed");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn open_files_and_expired_certificates_are_named() {
    let (_sandbox, settings) = healthy().await;
    let folder = tempfile::tempdir().expect("a folder");
    let open = folder.path().join("open");
    closed(&open, JWT_SECRET);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("opened");
    let path = open.to_str().expect("UTF-8");
    let ended = doctor(&with(&settings, &[("JWT_SECRET_KEY", ""), ("JWT_SECRET_KEY_FILE", path)]), &[]).await;
    must_find(&ended, "warning  files", "(JWT_SECRET_KEY_FILE) is open to everybody", "chmod o= ");

    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 2, 3));
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let certificate = closed(&folder.path().join("cert.pem"), &pem);
    let key = closed(&folder.path().join("key.pem"), &key.serialize_pem());
    let files = [("GRPC_TLS_CERT_FILE", certificate.as_str()), ("GRPC_TLS_KEY_FILE", key.as_str())];
    let ended = doctor(&with(&settings, &files), &[]).await;
    must_find(
        &ended,
        "fault    certificates",
        "GRPC_TLS_CERT of edge, identity-svc and subscription-svc has expired on 2021-02-03",
        "renew it",
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_why() {
    let (sandbox, settings) = healthy().await;
    let found = async |changes: &[(&'static str, &str)]| doctor(&with(&settings, changes), &[]).await;
    let password = found(&[("AUTH_DB_PASSWORD", "a-wrong-password")]).await;
    must_find(&password, "fault    database", "Access denied", "set AUTH_DB_USER and AUTH_DB_PASSWORD");
    let schema = found(&[("AUTH_DB_NAME", "no_such_schema")]).await;
    must_find(&schema, "fault    database", "no_such_schema", "make the schema");

    let mut connection = sandbox.connection().await;
    let empty =
        format!("{}_empty", settings.iter().find(|(name, _)| *name == "AUTH_DB_NAME").expect("a name").1);
    let sql = |statement: &str| sqlx::AssertSqlSafe(format!("{statement} {empty}"));
    connection.execute(sql("CREATE DATABASE")).await.expect("a schema");
    let bare = found(&[("AUTH_DB_NAME", &empty)]).await;
    connection.execute(sql("DROP DATABASE")).await.expect("dropped");
    must_find(
        &bare,
        "fault    tables",
        "identity-svc: 0 of ",
        "run `identity-svc migrate`, then run `subscription-svc migrate`",
    );

    sandbox.database.set_open(false);
    let away = doctor(&settings, &[]).await;
    sandbox.database.set_open(true);
    must_find(&away, "fault    database", "identity-svc and subscription-svc, as ", "start the server");
}

#[tokio::test]
async fn a_database_user_without_its_grants_is_named() {
    let (sandbox, settings) = healthy().await;
    let mut connection = sandbox.connection().await;
    let user = format!("d{}", &uuid::Uuid::new_v4().simple().to_string()[..20]);
    for statement in [
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'a-password-of-its-own'"),
        // Without a single right it would not be let into the schema.
        format!("GRANT SELECT ON users TO '{user}'@'%'"),
    ] {
        connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("done");
    }
    let login = [("AUTH_DB_USER", user.as_str()), ("AUTH_DB_PASSWORD", "a-password-of-its-own")];
    let ended = doctor(&with(&settings, &login), &["--process", "identity-svc"]).await;
    let drop = sqlx::AssertSqlSafe(format!("DROP USER '{user}'@'%'"));
    connection.execute(drop).await.expect("dropped");
    must_find(&ended, "fault    privileges", "the user of identity-svc lacks ", "deploy/database/grants.sql");
    assert!(ended.stdout.contains("skipped  tables            identity-svc: not known"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_process_that_is_down_is_named_once_and_what_needs_it_is_skipped() {
    let (mut sandbox, settings) = healthy().await;
    let redis = "redis://:a-secret-of-redis@127.0.0.1:1/0";
    let ended = doctor(&with(&settings, &[("RATE_LIMIT_REDIS_URL", redis)]), &[]).await;
    must_find(
        &ended,
        "warning  redis",
        "127.0.0.1:1 does not listen: Connection refused",
        "RATE_LIMIT_REDIS_URL",
    );
    assert!(!ended.stdout.contains("a-secret-of-redis"), "{}", ended.stdout);
    sandbox.stub_process.kill();
    let ended = doctor(&settings, &[]).await;
    must_find(&ended, "fault    core-manager", "does not answer: Connection refused", "CORE_MANAGER_URL");
    sandbox.restart_stub();
    sandbox.freeze_subscription(0);
    let ended = doctor(&settings, &[]).await;
    must_find(&ended, "fault    subscription-svc", "does not answer within 4 s", "look at its log");
    sandbox.thaw_subscription(0);
    sandbox.subscription_processes[0].kill();
    let ended = doctor(&settings, &[]).await;
    must_find(&ended, "fault    subscription-svc", &sandbox.subscription[0], "start subscription-svc");
    sandbox.restart_subscription(0);
    sandbox.ready().await;
    sandbox.identity_processes[0].kill();
    let ended = doctor(&settings, &[]).await;
    must_find(&ended, "fault    identity-svc", &sandbox.identity[0], "start identity-svc");
    assert!(ended.stdout.contains("skipped  token key"), "{}", ended.stdout);
    sandbox.restart_identity(0).await;
    sandbox.edge_processes[0].kill();
    let ended = doctor(&settings, &[]).await;
    must_find(&ended, "fault    edge", "does not answer: Connection refused", "start edge");
}

/// Says that it is well, at another time.
async fn elsewhen(ahead: TimeDelta) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let date = (Utc::now() + ahead).format("%a, %d %b %Y %H:%M:%S GMT");
            let answer = format!(
                "HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
    let (_sandbox, settings) = healthy().await;
    let place = elsewhen(TimeDelta::seconds(300)).await;
    let ended = doctor(&with(&settings, &[("EDGE_INTERNAL_LISTEN", &place)]), &[]).await;
    must_find(&ended, "fault    clocks", "the clock of edge is ", "NTP");
    let place = elsewhen(TimeDelta::seconds(-20)).await;
    let ended = doctor(&with(&settings, &[("IDENTITY_INTERNAL_LISTEN", &place)]), &[]).await;
    must_find(&ended, "warning  clocks", "behind this machine's", "NTP");
}

#[tokio::test]
async fn settings_are_printed_with_where_they_come_from_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = "a-canary-0123456789abcdef0123456789abcdef";
    let file = closed(&folder.path().join("secret"), &format!("{secret}\n"));
    let settings: Settings = vec![
        ("JWT_SECRET_KEY_FILE", file.clone()),
        ("INTERNAL_GRPC_TOKEN", secret.to_owned()),
        ("CORE_MANAGER_URL", "http://127.0.0.1:8082".to_owned()),
        ("RATE_LIMIT_REDIS_URL", format!("redis://:{secret}@127.0.0.1:6379/0")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://user:{secret}@collector:4317")),
    ];
    let print = ["config", "print", "--process", "edge"];
    let ended = Process::end("persona", &settings, &print, "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let row =
        |name: &str| ended.stdout.lines().find(|line| line.starts_with(&format!("{name} "))).expect("a row");
    assert!(row("JWT_SECRET_KEY").contains("(set, 41 characters)") && row("JWT_SECRET_KEY").ends_with(&file));
    assert!(row("INTERNAL_GRPC_TOKEN").ends_with("environment") && row("EDGE_LISTEN").ends_with("default"));
    let json: Vec<&str> = print.iter().chain(&["--output", "json"]).copied().collect();
    let described = Process::end("persona", &settings, &json, "").await.stdout;
    for printed in [&ended.stdout, &described] {
        assert!(!printed.contains("canary"), "{printed}");
    }
    let edge: Value = serde_json::from_str(&described).expect("JSON");
    let all = edge[0]["settings"].as_array().expect("settings");
    assert!(
        all.iter().any(|setting| setting["name"] == "EDGE_LISTEN" && setting["value"] == "0.0.0.0:8081"),
        "{edge}"
    );
    let broken = with(&settings, &[("EDGE_LISTEN", "nowhere"), ("CORE_MANAGER_URL", "")]);
    let ended = Process::end("persona", &broken, &print, "").await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("fault: EDGE_LISTEN: ")
            && ended.stdout.contains("fault: CORE_MANAGER_URL is not set")
    );
    let wrong = Process::end("persona", &settings, &["config", "print", "--process", "nothing"], "").await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let wrong = Process::end("persona", &settings, &["--output", "json", "config", "prints"], "").await;
    let error: Value = serde_json::from_str(&wrong.stderr).expect("JSON");
    assert!(
        wrong.code == Some(2)
            && error["error"]["message"].as_str().is_some_and(|text| text.contains("prints"))
    );
}
