//! `/api/v1/admin/users/export` and `/import`.

use std::time::{Duration, Instant};

use e2e::{Client, Plan, Reply, Sandbox, User, until};
use futures_util::future::{join, join_all};
use http::Method;
use serde_json::{Value, json};
use sqlx::MySqlConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

const IMPORT: &str = "/api/v1/admin/users/import";
const EXPORT: &str = "/api/v1/admin/users/export";
const USERS: &str = "/api/v1/admin/users";
/// `correct horse battery`, hashed elsewhere at a low cost.
const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$HASH";

async fn upload(edge: &Client, admin: &User, query: &str, csv: &str) -> Reply {
    let parts = [("file", Some("users.csv"), csv), ("client_id", None, "shop")];
    edge.post_form(&format!("{IMPORT}{query}"), &admin.token, &[], &parts).await
}

/// How many rows were made, were there, were refused, and were in the file.
fn counts(body: &Value) -> [i64; 4] {
    ["created", "unchanged", "failed", "total"].map(|name| body[name].as_i64().expect(name))
}

#[tokio::test]
async fn an_import_makes_what_is_not_there_and_a_second_changes_nothing() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let rows: String =
        (0..3000).map(|n| format!("User{n}@Example.com,\"Name, {n}\",{},{n}\n", n % 2 == 0)).collect();
    let csv = format!("email,first_name,email_verified,shoe_size\n{rows}");
    let dry = upload(edge, &admin, "?dry_run=true", &csv).await.must_be(200);
    assert_eq!((counts(&dry), &dry["dry_run"]), ([3000, 0, 0, 3000], &json!(true)));
    let first = upload(edge, &admin, "", &csv).await.must_be(200);
    assert_eq!((counts(&first), &first["dry_run"]), ([3000, 0, 0, 3000], &json!(false)));
    let second = upload(edge, &admin, "", &csv).await.must_be(200);
    assert_eq!(counts(&second), [0, 3000, 0, 3000]);

    let page = edge.get("/api/v1/admin/users?email=user2999@", &admin.token).await.must_be(200);
    let user = &page["users"][0];
    assert_eq!((&user["email"], &user["client_id"]), (&json!("user2999@example.com"), &json!("shop")));
    assert_eq!(
        (&user["profile"]["first_name"], &user["email_verified"]),
        (&json!("Name, 2999"), &json!(false))
    );
    assert_eq!((&user["role"], &user["permissions"]), (&json!("user"), &json!([])));
    let id = user["id"].as_str().expect("an id");
    let log = edge.get(&format!("/api/v1/admin/users/{id}/audit"), &admin.token).await.must_be(200);
    assert_eq!(
        (&log["entries"][0]["action"], &log["entries"][0]["actor_id"]),
        (&json!("account_imported"), &json!(admin.id))
    );

    let filters = json!({ "client_id": "shop" });
    let body = json!({ "format": "csv", "filters": filters, "fields": ["email", "first_name"] });
    let reply = edge.post(EXPORT, &admin.token, body).await;
    assert!(reply.headers["content-type"].to_str().expect("text").starts_with("text/csv"));
    let name = reply.headers["content-disposition"].to_str().expect("text");
    assert!(name.starts_with("attachment; filename=\"users-"), "{name}");
    let text = String::from_utf8(reply.bytes.to_vec()).expect("UTF-8");
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!((lines.len(), lines[0]), (3001, "email,first_name"));
    assert!(lines.contains(&"user1234@example.com,\"Name, 1234\""));
    // What was exported can be imported: everything is there already.
    let again = upload(edge, &admin, "", &text).await.must_be(200);
    assert_eq!(counts(&again), [0, 3000, 0, 3000]);

    let body = json!({ "format": "json", "filters": filters });
    let users = edge.post(EXPORT, &admin.token, body).await.must_be(200);
    let users = users.as_array().expect("a list");
    assert_eq!(users.len(), 3000);
    assert_eq!(users[0].as_object().map(|user| user.len()), Some(16));
    let all =
        String::from_utf8(edge.post(EXPORT, &admin.token, json!({ "format": "json" })).await.bytes.to_vec());
    assert!(!all.expect("UTF-8").contains("argon2"), "no password hash leaves");
    let log = edge.get(&format!("/api/v1/admin/users/{}/audit", admin.id), &admin.token).await.must_be(200);
    assert_eq!(log["entries"][1]["action"], "users_exported");
    assert_eq!(log["entries"][1]["details"]["filters"]["client_id"], "shop");
}

#[tokio::test]
async fn who_was_imported_signs_in_with_the_old_password_or_the_given_one() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let mut connection = sandbox.connection().await;
    let hash: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = ?")
        .bind(&admin.id)
        .fetch_one(&mut connection)
        .await
        .expect("a hash");
    let csv = format!(
        "email,password_hash,password,is_active,created_at\n\
         hash@example.com,\"{hash}\",,,2020-02-29T01:02:03Z\n\
         given@example.com,,a password of mine,true,\n\
         none@example.com,,,,\n\
         off@example.com,,a password of mine,false,\n"
    );
    let body = upload(edge, &admin, "", &csv).await.must_be(200);
    assert_eq!(counts(&body), [4, 0, 0, 4], "{body}");
    let login = async |email: &str, password: &str| {
        edge.open_post("/api/v1/auth/login", json!({ "email": email, "password": password })).await
    };
    let tokens = login("hash@example.com", admin.password).await.must_be(200);
    let token = tokens["access_token"].as_str().expect("a token");
    let profile = edge.get("/api/v1/user/profile", token).await.must_be(200);
    assert_eq!(profile["created_at"], "2020-02-29T01:02:03.000000Z");
    edge.get("/api/v1/subscription", token).await.must_be(200);
    login("given@example.com", "a password of mine").await.must_be(200);
    login("none@example.com", "").await.must_fail(401, "AUTH001");
    login("off@example.com", "a password of mine").await.must_fail(401, "AUTH001");
}

#[tokio::test]
async fn rows_that_cannot_be_imported_are_named_and_the_others_are_made() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let costly =
        HASH.replace("m=64", "m=4000000").replace("HASH", "iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A");
    let csv = format!(
        "email,password_hash,password,role,first_name,created_at\n\
         good@example.com,,,user,,\n\
         nobody,,,,,\n\
         a@example.com,$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW,,,,\n\
         b@example.com,\"{costly}\",,,,\n\
         c@example.com,,password1,,,\n\
         d@example.com,,,admin,,\n\
         e@example.com,,,,{},3020-01-01T00:00:00Z\n\
         {},,,,,\n\
         GOOD@example.com,,,,,\n\
         f@example.com,\"{HASH}\",\"a password of mine\",,,\n",
        "x".repeat(101),
        user.email,
    );
    let dry = upload(edge, &admin, "?dry_run=true", &csv).await.must_be(200);
    let body = upload(edge, &admin, "", &csv).await.must_be(200);
    assert_eq!((counts(&body), &dry["errors"]), ([1, 0, 9, 10], &body["errors"]));
    assert_eq!(counts(&dry), counts(&body));
    let errors = body["errors"].as_array().expect("errors");
    let named: Vec<(i64, &str)> = errors
        .iter()
        .map(|error| (error["row"].as_i64().expect("a row"), error["field"].as_str().expect("a field")))
        .collect();
    let expected = [
        (3, "email"),
        (4, "password_hash"),
        (5, "password_hash"),
        (6, "password"),
        (7, "role"),
        (8, "first_name"),
        (8, "created_at"),
        (9, "email"),
        (10, "email"),
        (11, "password"),
    ];
    assert_eq!(named, expected, "{body}");
    assert!(errors[2]["message"].as_str().expect("a message").contains("costs too much"), "{body}");

    let bad: String = (0..1500).map(|n| format!("bad{n}\n")).collect();
    let body = upload(edge, &admin, "", &format!("email\n{bad}")).await.must_be(200);
    assert_eq!(counts(&body), [0, 0, 1500, 1500]);
    assert_eq!(body["errors"].as_array().map(Vec::len), Some(1000), "errors are bounded, counts are not");
}

#[tokio::test]
async fn progress_is_told_line_by_line() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let rows: String = (0..1200).map(|n| format!("u{n}@example.com\n")).collect();
    let parts = [("client_id", None, "shop"), ("file", Some("users.csv"), &format!("email\n{rows}bad\n"))];
    let accept = [("accept", "application/x-ndjson")];
    let reply = edge.post_form(IMPORT, &admin.token, &accept, &parts).await;
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(reply.bytes.to_vec()).expect("UTF-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (result, progress) = lines.split_last().expect("lines");
    assert_eq!(counts(&result["result"]), [1200, 0, 1, 1201]);
    assert_eq!(result["result"]["errors"][0]["row"], 1202);
    let totals: Vec<i64> =
        progress.iter().map(|line| line["progress"]["total"].as_i64().expect("a total")).collect();
    assert_eq!(totals, [1000, 1201]);
}

#[tokio::test]
async fn what_is_no_import_is_refused_and_changes_nothing() {
    let plan = Plan { settings: vec![("EDGE_IMPORT_LIMIT_BYTES", "4096".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let file = ("file", Some("users.csv"), "email\na@example.com\n");
    let client = ("client_id", None, "shop");
    let sizes = [5000, 200_000].map(|size| format!("email\n{}", "x".repeat(size)));
    let send = async |parts: &[_]| edge.post_form(IMPORT, &admin.token, &[], parts).await;
    let fields = |reply: Reply| reply.body["error"]["details"]["fields"].clone();
    let reply = send(&[]).await;
    reply.must_fail(400, "REQ001");
    let missing = fields(reply);
    assert!(missing["file"].is_string() && missing["client_id"].is_string(), "{missing}");
    for (parts, field) in [
        (vec![file], "client_id"),
        (vec![file, client, client], "client_id"),
        (vec![file, ("client_id", None, "a,b")], "client_id"),
        (vec![client, ("file", None, "name\nAda\n")], "file"),
    ] {
        let reply = send(&parts).await;
        reply.must_fail(400, "REQ001");
        assert!(fields(reply)[field].is_string(), "{field}");
    }
    for large in &sizes {
        // A connection of its own, which is closed rather than read to the end of what is too large.
        let once = Client::new(format!("http://{}", edge.authority()));
        let parts = [client, ("file", None, large)];
        once.post_form(IMPORT, &admin.token, &[], &parts).await.must_fail(413, "REQ003");
    }
    edge.post(IMPORT, &admin.token, json!({})).await.must_fail(415, "REQ003");
    let broken = "POST /api/v1/admin/users/import HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer TOKEN\r\n\
                  content-type: multipart/form-data; boundary=b\r\ncontent-length: 70\r\n\r\n\
                  --b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nemail\nz@y.org\n";
    let answer = e2e::raw(edge.authority(), &broken.replace("TOKEN", &admin.token)).await;
    assert!(answer.contains("REQ001"), "{answer}");
    let page = edge.get("/api/v1/admin/users", &admin.token).await.must_be(200);
    assert_eq!(page["total_count"], 1);
    send(&[file, client]).await.must_be(200);
}

/// Many accounts with long names, past the services.
async fn seed(connection: &mut MySqlConnection, thousands: usize) {
    let digits = "(SELECT 0 AS d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
                  UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
    for thousand in 0..thousands {
        let users = format!(
            "INSERT INTO users (id, email, password_hash, role, client_id, created_at, updated_at)
             SELECT UUID(), CONCAT('{thousand}-', a.d, b.d, c.d, '@example.com'), 'x', 'user', 'seeded', NOW(), NOW()
             FROM {digits} AS a, {digits} AS b, {digits} AS c"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(users)).execute(&mut *connection).await.expect("seeded");
    }
    let profiles = "INSERT INTO user_profiles (user_id, first_name, company, avatar_url, preferences, created_at, updated_at)
         SELECT id, '=HYPERLINK(1)', REPEAT('c', 255), REPEAT('u', 500), '{}', NOW(), NOW() FROM users
         WHERE client_id = 'seeded'";
    sqlx::raw_sql(profiles).execute(&mut *connection).await.expect("seeded");
}

/// An export that has begun, of much more than fits on the way to whoever reads it.
async fn begun_export(sandbox: &Sandbox, admin: &User) -> TcpStream {
    let body = json!({ "format": "csv" }).to_string();
    let request = format!(
        "POST {EXPORT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        admin.token,
        body.len()
    );
    let mut stream = TcpStream::connect(sandbox.edge().authority()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begun = vec![0; 4096];
    stream.read_exact(&mut begun).await.expect("a beginning");
    let begun = String::from_utf8_lossy(&begun).into_owned();
    assert!(begun.starts_with("HTTP/1.1 200") && begun.contains("'=HYPERLINK(1)"), "{begun}");
    stream
}

async fn must_break_off(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the last chunk of a chunked body was sent");
}

#[tokio::test]
async fn an_export_that_breaks_off_cannot_be_taken_for_a_whole_one() {
    let sandbox = Sandbox::start().await;
    seed(&mut sandbox.connection().await, 30).await;
    let stream = begun_export(&sandbox, &sandbox.administrator().await).await;
    sandbox.database.set_open(false);
    must_break_off(stream).await;
    sandbox.database.set_open(true);
}

#[tokio::test]
async fn exports_that_are_read_slowly_hold_up_nothing_else() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    seed(&mut sandbox.connection().await, 30).await;
    let mut reading = JoinSet::new();
    for mut export in join_all((0..16).map(|_| begun_export(&sandbox, &admin))).await {
        reading.spawn(async move {
            let mut some = vec![0; 20_000];
            while let Ok(1..) = export.read(&mut some).await {
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let since = Instant::now();
        sandbox.log_in(&user).await;
        edge.get(USERS, &admin.token).await.must_be(200);
        slowest = slowest.max(since.elapsed());
        sleep(Duration::from_millis(500)).await;
    }
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    assert!(reading.try_join_next().is_none(), "they were still being read");
}

#[tokio::test]
async fn an_export_and_an_import_end_with_the_session() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    seed(&mut sandbox.connection().await, 30).await;
    let export = begun_export(&sandbox, &admin).await;
    let beginning = format!(
        "POST {IMPORT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n\
         --b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nemail\nz@y.org\n",
        admin.token
    );
    let mut import = TcpStream::connect(edge.authority()).await.expect("a connection");
    import.write_all(beginning.as_bytes()).await.expect("sent");
    edge.post("/api/v1/auth/logout", &admin.token, json!({})).await.must_be(200);
    until("the logout binds", async || edge.get(USERS, &admin.token).await.code() == "AUTH003").await;
    must_break_off(export).await;
    // Long before it is whole.
    import.write_all(b"y@y.org\n").await.expect("sent");
    let mut answer = vec![0; 1024];
    let length = import.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("AUTH003"), "{answer}");
}

#[tokio::test]
async fn an_export_and_an_import_end_when_the_database_is_restored() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    seed(&mut sandbox.connection().await, 30).await;
    let export = begun_export(&sandbox, &admin).await;
    let rows: String = (0..50_000).map(|n| format!("many{n}@example.com\n")).collect();
    let file = format!("email\n{rows}");
    let restore = async {
        until("the import has begun", async || {
            let page = edge.get(&format!("{USERS}?email=many1@example.com"), &admin.token).await.must_be(200);
            page["total_count"] == 1
        })
        .await;
        sandbox.identity_command(&[], &["restored"]).await;
    };
    let (import, ()) = join(upload(edge, &admin, "", &file), restore).await;
    import.must_fail(401, "AUTH003");
    must_break_off(export).await;
}

#[tokio::test]
async fn memory_stays_flat_however_many_accounts_come_and_go() {
    const ROWS: usize = 100_000;
    /// Less than the file (53 MB), or the accounts, would take if they were held. Code that is first run now and the
    /// arenas of the allocator take a part of it.
    const GROWTH_KIB: u64 = 40 * 1024;
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let company = "c".repeat(255);
    let file = |from: usize, count: usize| {
        let rows: String =
            (from..from + count).map(|n| format!("u{n}@example.com,{company},{company}\n")).collect();
        format!("email,passed_over,company\n{rows}")
    };
    let export = json!({ "format": "json" });
    let peaks =
        || [&sandbox.edge_processes[0], &sandbox.identity_processes[0]].map(|process| process.peak_kib());
    // What every import and export needs is needed now.
    upload(edge, &admin, "", &file(0, 1000)).await.must_be(200);
    edge.post(EXPORT, &admin.token, export.clone()).await.must_be(200);
    let before = peaks();
    let body = upload(edge, &admin, "", &file(1000, ROWS)).await.must_be(200);
    // Rows that identity-svc wrote too late for its answer are sent again, and are there already.
    assert_eq!(
        body["created"].as_u64().zip(body["unchanged"].as_u64()).map(|(new, old)| new + old),
        Some(ROWS as u64),
        "{body}"
    );
    let users = edge.send(Method::POST, EXPORT, Some(&admin.token), &[], Some(&export)).await.must_be(200);
    assert_eq!(users.as_array().map(Vec::len), Some(ROWS + 1001));
    for (before, after) in before.into_iter().zip(peaks()) {
        assert!(after < before + GROWTH_KIB, "{before} KiB became {after} KiB");
    }
}

#[tokio::test]
async fn imported_accounts_have_subscriptions_that_administrators_see_before_they_look() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let rows: String = (0..2500).map(|n| format!("user{n}@example.com\n")).collect();
    upload(edge, &admin, "", &format!("email\n{rows}")).await.must_be(200);
    until("every account has its subscription", async || {
        let page = edge.get("/api/v1/admin/subscriptions?tier=free", &admin.token).await.must_be(200);
        page["total_count"] == 2501
    })
    .await;
    let mut connection = sandbox.connection().await;
    until("all of them are known", async || {
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM newcomers")
            .fetch_one(&mut connection)
            .await
            .expect("a count");
        left == 0
    })
    .await;
}

#[tokio::test]
async fn long_rows_are_refused_one_by_one_and_never_the_whole_file() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let company = "x".repeat(60_000);
    let rows: String = (0..100).map(|n| format!("long{n}@example.com,{company}\n")).collect();
    let csv = format!("email,company\n{rows}short@example.com,Acme\n");
    let body = upload(edge, &admin, "", &csv).await.must_be(200);
    assert_eq!(counts(&body), [1, 0, 100, 101]);
    assert_eq!((&body["errors"][99]["row"], &body["errors"][99]["field"]), (&json!(101), &json!("company")));
}
