//! `/api/v1/admin/users`: seeing and changing accounts.

use e2e::{Reply, Sandbox, User, until};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const PATH: &str = "/api/v1/admin/users";

fn one(user: &User) -> String {
    format!("{PATH}/{}", user.id)
}

fn ids(page: &Value) -> Vec<String> {
    let users = page["users"].as_array().expect("users");
    users.iter().map(|user| user["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn accounts_are_listed_filtered_and_sorted_page_by_page() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let mut users = Vec::new();
    for n in 0..5 {
        let body = json!({ "email": format!("u{n}_%x@example.com"), "password": "correct horse battery",
            "client_id": if n < 3 { "shop" } else { "web" }, "first_name": format!("N{n}") });
        let made = edge.open_post("/api/v1/auth/register", body).await.must_be(201);
        users.push(made["user"]["id"].as_str().expect("an id").to_owned());
    }
    edge.put(&format!("{PATH}/{}", users[0]), &admin.token, json!({ "is_active": false })).await.must_be(200);
    edge.put(&format!("{PATH}/{}", users[1]), &admin.token, json!({ "role": "moderator" }))
        .await
        .must_be(200);
    let ask = async |query: &str| edge.get(&format!("{PATH}?{query}"), &admin.token).await.must_be(200);

    let all = ask("").await;
    assert_eq!((&all["total_count"], &all["page"], &all["page_size"]), (&json!(6), &json!(1), &json!(20)));
    let newest: Vec<String> = users.iter().rev().cloned().chain([admin.id.clone()]).collect();
    assert_eq!(ids(&all), newest, "newest first");
    assert_eq!(all["users"][0]["profile"]["first_name"], "N4");
    assert_eq!(all["users"][5]["permissions"], json!(["*"]));

    let mut walked = Vec::new();
    for page in 1..=3 {
        let page = ask(&format!("page={page}&page_size=2&sort_by=email&sort_order=asc&client_id=shop")).await;
        assert_eq!((&page["total_count"], &page["total_pages"]), (&json!(3), &json!(2)));
        walked.extend(ids(&page));
    }
    assert_eq!(walked, users[..3]);
    assert_eq!(ids(&ask("is_active=false").await), users[..1]);
    assert_eq!(ids(&ask("role=moderator&tier=free").await), users[1..2]);
    assert_eq!(ids(&ask("tier=premium").await), Vec::<String>::new());
    assert_eq!(ids(&ask("email=U3_").await), users[3..4], "a part, whatever its case");
    assert_eq!(ids(&ask("email=%25x%40").await).len(), 5);
    assert_eq!(ids(&ask("email=%25").await).len(), 5, "a percent sign is one, and not a wildcard");
    assert_eq!(ids(&ask("email=u_%25").await).len(), 0, "nor is an underscore");

    let bad =
        "page=0&page_size=101&role=root&tier=gold&is_active=perhaps&sort_by=password_hash&sort_order=up";
    let reply = edge.get(&format!("{PATH}?{bad}"), &admin.token).await;
    reply.must_fail(400, "REQ001");
    let fields = reply.body["error"]["details"]["fields"].as_object().expect("fields");
    assert_eq!(fields.len(), 7, "{fields:?}");
    edge.get(&format!("{PATH}?client_id=a,b"), &admin.token).await.must_fail(400, "REQ001");
}

#[tokio::test]
async fn an_account_is_seen_with_its_numbers() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    sandbox.project(&user).await;
    let other = sandbox.log_in(&user).await;
    let wrong = json!({ "email": user.email, "password": "a wrong one" });
    edge.open_post("/api/v1/auth/login", wrong).await.must_fail(401, "AUTH001");
    let body = edge.get(&one(&user), &admin.token).await.must_be(200);
    assert_eq!((&body["user"]["id"], &body["user"]["email"]), (&json!(user.id), &json!(user.email)));
    let stats = &body["stats"];
    assert_eq!((&stats["projects_count"], &stats["personas_count"]), (&json!(1), &json!(0)));
    assert_eq!(stats["failed_sign_ins"], 1);
    assert_eq!((&stats["active_sessions"], stats["last_login_at"].is_string()), (&json!(2), true));

    let open = edge.get(&format!("{}/sessions", one(&user)), &admin.token).await.must_be(200);
    assert_eq!((&open["count"], &open["sessions"][0]["current"]), (&json!(2), &json!(false)));
    assert!(open["sessions"][0]["ip_address"].is_string(), "{open}");
    let own = edge.get(&format!("{}/sessions", one(&admin)), &admin.token).await.must_be(200);
    assert_eq!(own["sessions"][0]["current"], true);
    edge.delete(&format!("{}/sessions", one(&user)), &admin.token).await.must_be(204);
    for token in [&user.token, &other.token] {
        until("the sessions end", async || edge.get("/api/v1/user/profile", token).await.code() == "AUTH003")
            .await;
    }
    let refresh = json!({ "refresh_token": user.refresh_token });
    edge.open_post("/api/v1/auth/refresh", refresh).await.must_fail(401, "AUTH003");
    let open = edge.get(&format!("{}/sessions", one(&user)), &admin.token).await.must_be(200);
    assert_eq!(open["count"], 0);
    let nobody = format!("{PATH}/{}", Uuid::now_v7());
    for path in [nobody.clone(), format!("{nobody}/sessions"), format!("{nobody}/audit")] {
        edge.get(&path, &admin.token).await.must_fail(404, "USER001");
    }
    edge.put(&nobody, &admin.token, json!({ "role": "user" })).await.must_fail(404, "USER001");
    edge.put(&nobody, &admin.token, json!({ "subscription_tier": "basic" })).await.must_fail(404, "USER001");
    edge.delete(&nobody, &admin.token).await.must_fail(404, "USER001");
    edge.get(&format!("{PATH}/NOT-AN-ID"), &admin.token).await.must_fail(400, "REQ001");
}

/// What core-manager is told of a caller.
async fn seen(sandbox: &Sandbox, token: &str, header: &str) -> String {
    let echo = [("x-stub-echo", "1")];
    let path = "/api/v1/personas/instances";
    let reply = sandbox.edge().send(Method::GET, path, Some(token), &echo, None).await.must_be(200);
    let headers = reply["headers"].as_array().expect("headers");
    let found = headers.iter().find(|pair| pair[0] == header);
    found.and_then(|pair| pair[1].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn each_change_binds_on_the_next_request_of_a_token_that_is_already_issued() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let change = async |body| edge.put(&one(&user), &admin.token, body).await.must_be(200);

    let body =
        change(json!({ "role": "moderator", "subscription_tier": "premium", "email_verified": true })).await;
    assert_eq!(
        (&body["role"], &body["subscription_tier"], &body["email_verified"]),
        (&json!("moderator"), &json!("premium"), &json!(true))
    );
    until("the role binds", async || seen(&sandbox, &user.token, "x-user-role").await == "moderator").await;
    until("the tier binds", async || seen(&sandbox, &user.token, "x-user-tier").await == "premium").await;

    let path = format!("{}/permissions", one(&user));
    let grant = async |name: &str| edge.post(&path, &admin.token, json!({ "permission_name": name })).await;
    assert_eq!(grant("projects.manage").await.must_be(200)["permissions"], json!(["projects.manage"]));
    assert_eq!(
        grant("personas.create").await.must_be(200)["permissions"],
        json!(["personas.create", "projects.manage"])
    );
    grant("personas.create").await.must_be(200);
    for unknown in ["root", "", "personas.créate", &"x".repeat(300)] {
        grant(unknown).await.must_fail(400, "REQ001");
    }
    until("the permission binds", async || {
        seen(&sandbox, &user.token, "x-user-permissions").await == "personas.create,projects.manage"
    })
    .await;
    edge.delete(&format!("{path}/projects.manage"), &admin.token).await.must_be(204);
    edge.delete(&format!("{path}/projects.manage"), &admin.token).await.must_be(204);
    edge.delete(&format!("{path}/*"), &admin.token).await.must_be(204);
    edge.delete(&format!("{path}/root"), &admin.token).await.must_fail(400, "REQ001");
    until("its loss binds", async || {
        seen(&sandbox, &user.token, "x-user-permissions").await == "personas.create"
    })
    .await;

    change(json!({ "role": "admin" })).await;
    until("an administrator is one at once", async || edge.get(PATH, &user.token).await.status == 200).await;
    change(json!({ "role": "user" })).await;
    until("and is none at once", async || edge.get(PATH, &user.token).await.code() == "AUTH004").await;

    for bad in
        [json!({ "role": "root" }), json!({ "subscription_tier": "gold" }), json!({ "is_active": "no" })]
    {
        edge.put(&one(&user), &admin.token, bad).await.must_fail(400, "REQ001");
    }
}

#[tokio::test]
async fn a_disabled_account_is_shut_out_until_it_is_enabled_and_its_old_tokens_stay_dead() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let mut socket = sandbox.socket(&user).await;
    let change = async |body| edge.put(&one(&user), &admin.token, body).await.must_be(200);
    let login = json!({ "email": user.email, "password": user.password });
    let refresh = json!({ "refresh_token": user.refresh_token });

    change(json!({ "is_active": false })).await;
    until("its token dies", async || edge.get("/api/v1/user/profile", &user.token).await.code() == "AUTH003")
        .await;
    assert_eq!(socket.closed().await, 4403);
    edge.open_post("/api/v1/auth/refresh", refresh.clone()).await.must_fail(401, "AUTH003");
    edge.open_post("/api/v1/auth/login", login.clone()).await.must_fail(401, "AUTH001");

    // What changes of a disabled account must not bring its tokens back to life.
    change(json!({ "role": "moderator", "subscription_tier": "basic" })).await;
    change(json!({ "is_active": true })).await;
    let again = sandbox.log_in(&user).await;
    change(json!({ "role": "user" })).await;
    until("the new token works and follows", async || {
        seen(&sandbox, &again.token, "x-user-role").await == "user"
    })
    .await;
    edge.get("/api/v1/user/profile", &user.token).await.must_fail(401, "AUTH003");
    edge.open_post("/api/v1/auth/refresh", refresh).await.must_fail(401, "AUTH003");
    let refresh = json!({ "refresh_token": again.refresh_token });
    edge.open_post("/api/v1/auth/refresh", refresh).await.must_be(200);
}

#[tokio::test]
async fn a_password_that_is_set_ends_all_sessions() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let path = format!("{}/password", one(&user));
    let set =
        async |password: &str| edge.post(&path, &admin.token, json!({ "new_password": password })).await;
    set("password1").await.must_fail(400, "USER003");
    assert!(set("another good one").await.must_be(200)["message"].is_string());
    until("its token dies", async || edge.get("/api/v1/user/profile", &user.token).await.code() == "AUTH003")
        .await;
    let login = |password: &str| json!({ "email": user.email, "password": password });
    edge.open_post("/api/v1/auth/login", login(user.password)).await.must_fail(401, "AUTH001");
    edge.open_post("/api/v1/auth/login", login("another good one")).await.must_be(200);
}

#[tokio::test]
async fn an_account_is_deleted_by_others_alone() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let reply = edge.delete(&one(&admin), &admin.token).await;
    reply.must_fail(400, "REQ001");
    assert!(reply.body["error"]["details"]["fields"]["user_id"].is_string());
    edge.delete(&one(&user), &admin.token).await.must_be(204);
    until("its token dies", async || edge.get("/api/v1/user/profile", &user.token).await.code() == "AUTH003")
        .await;
    edge.get(&one(&user), &admin.token).await.must_fail(404, "USER001");
    let log = edge.get(&format!("{}/audit", one(&user)), &admin.token).await.must_be(200);
    assert_eq!(log["entries"][0]["action"], "account_deleted", "the log outlives the account");
}

/// New administrators, and no others.
async fn only_administrators(sandbox: &Sandbox, count: usize) -> Vec<User> {
    let mut connection = sandbox.connection().await;
    sqlx::query("UPDATE users SET role = 'user'").execute(&mut connection).await.expect("demoted");
    let mut admins = Vec::new();
    for _ in 0..count {
        admins.push(sandbox.administrator().await);
    }
    admins
}

async fn administrators_left(sandbox: &Sandbox) -> i64 {
    let mut connection = sandbox.connection().await;
    sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE role = 'admin' AND is_active = TRUE")
        .fetch_one(&mut connection)
        .await
        .expect("a count")
}

#[tokio::test]
async fn of_administrators_who_all_leave_at_once_exactly_one_stays() {
    const ADMINS: usize = 5;
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    for round in 0..6 {
        let admins = only_administrators(&sandbox, ADMINS).await;
        let ways = admins.iter().enumerate().map(|(place, admin)| async move {
            match (place + round) % 3 {
                0 => edge.put(&one(admin), &admin.token, json!({ "role": "user" })).await,
                1 => edge.put(&one(admin), &admin.token, json!({ "is_active": false })).await,
                _ => edge.delete("/api/v1/user/delete", &admin.token).await,
            }
        });
        let replies = futures_util::future::join_all(ways).await;
        let refused: Vec<&str> = replies.iter().map(Reply::code).filter(|code| !code.is_empty()).collect();
        assert_eq!(
            (refused.as_slice(), administrators_left(&sandbox).await),
            (&["USER004"][..], 1),
            "{replies:?}"
        );
    }
}

#[tokio::test]
async fn administrators_who_remove_each_other_at_once_leave_one() {
    const ADMINS: usize = 5;
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    for round in 0..6 {
        let admins = only_administrators(&sandbox, ADMINS).await;
        let ways = (0..ADMINS).map(|place| {
            let (actor, next) = (&admins[place], &admins[(place + 1) % ADMINS]);
            async move {
                match (place + round) % 3 {
                    0 => edge.put(&one(next), &actor.token, json!({ "role": "user" })).await,
                    1 => edge.put(&one(next), &actor.token, json!({ "is_active": false })).await,
                    _ => edge.delete(&one(next), &actor.token).await,
                }
            }
        });
        let replies = futures_util::future::join_all(ways).await;
        for reply in &replies {
            // AUTH003, AUTH004 and USER001: another was quicker, and the actor or its target is gone.
            let known = ["", "USER004", "AUTH004", "AUTH003", "USER001"];
            assert!(known.contains(&reply.code()), "{reply:?}");
        }
        assert!(administrators_left(&sandbox).await >= 1, "{replies:?}");
    }
}

#[tokio::test]
async fn the_last_administrator_can_be_demoted_disabled_and_deleted_by_nobody() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    for body in [json!({ "role": "user" }), json!({ "is_active": false })] {
        edge.put(&one(&admin), &admin.token, body).await.must_fail(409, "USER004");
    }
    let bulk = json!({ "user_ids": [admin.id], "operation": "deactivate" });
    let results = edge.post(&format!("{PATH}/bulk"), &admin.token, bulk).await.must_be(200);
    assert_eq!(results["failed"][0]["error"]["code"], "USER004");
    edge.put(&one(&admin), &admin.token, json!({ "role": "admin", "email_verified": true }))
        .await
        .must_be(200);
    edge.get(PATH, &admin.token).await.must_be(200);
}

#[tokio::test]
async fn nobody_sets_what_an_administrator_sets_on_the_own_account() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let grabbed = json!({
        "email": "grab@example.com", "password": "correct horse battery", "client_id": "web", "role": "admin",
        "tier": "enterprise", "subscription_tier": "enterprise", "email_verified": true, "is_active": true,
        "permissions": ["*"], "id": Uuid::now_v7(), "user_id": Uuid::now_v7(), "version": 99,
    });
    let made = edge.open_post("/api/v1/auth/register", grabbed.clone()).await.must_be(201);
    let token = made["access_token"].as_str().expect("a token");
    let mut change = grabbed;
    change["client_id"] = json!("other");
    let body = edge.put("/api/v1/user/profile", token, change).await.must_be(200);
    let expected = [
        ("role", json!("user")),
        ("subscription_tier", json!("free")),
        ("client_id", json!("web")),
        ("email_verified", json!(false)),
        ("email", json!("grab@example.com")),
        ("permissions", json!([])),
        ("id", made["user"]["id"].clone()),
    ];
    for (field, value) in expected {
        assert_eq!(body[field], value, "{field}");
    }
    let own = format!("{PATH}/{}", body["id"].as_str().expect("an id"));
    edge.put(&own, token, json!({ "role": "admin" })).await.must_fail(403, "AUTH004");
    let grant = json!({ "permission_name": "*" });
    edge.post(&format!("{own}/permissions"), token, grant).await.must_fail(403, "AUTH004");
}

#[tokio::test]
async fn everything_that_was_done_is_in_the_log_newest_first() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let cause = "because-of-this-".repeat(8);
    let id = [("x-request-id", cause.as_str())];
    let body = json!({ "role": "moderator" });
    edge.send(Method::PUT, &one(&user), Some(&admin.token), &id, Some(&body)).await.must_be(200);
    edge.put(&one(&user), &admin.token, body).await.must_be(200);
    edge.put(&one(&user), &admin.token, json!({ "subscription_tier": "basic" })).await.must_be(200);
    until("the tier binds", async || seen(&sandbox, &user.token, "x-user-tier").await == "basic").await;
    let grant = json!({ "permission_name": "projects.manage" });
    edge.post(&format!("{}/permissions", one(&user)), &admin.token, grant).await.must_be(200);
    edge.delete(&format!("{}/permissions/projects.manage", one(&user)), &admin.token).await.must_be(204);
    edge.delete(&format!("{}/sessions", one(&user)), &admin.token).await.must_be(204);

    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("{}/audit?limit=3&cursor={cursor}", one(&user));
        let page = edge.get(&path, &admin.token).await.must_be(200);
        entries.extend(page["entries"].as_array().expect("entries").clone());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    let actions: Vec<&str> =
        entries.iter().map(|entry| entry["action"].as_str().expect("an action")).collect();
    let expected = [
        "sessions_ended",
        "permission_revoked",
        "permission_granted",
        "tier_changed",
        "subscription_change_approved",
        "tier_change_approved",
        "account_updated",
        "registered",
    ];
    assert_eq!(actions, expected, "a change that changes nothing is none");
    let update = &entries[6];
    assert_eq!((&update["actor_id"], &update["target_id"]), (&json!(admin.id), &json!(user.id)));
    assert_eq!(update["details"], json!({ "role": { "from": "user", "to": "moderator" } }));
    assert_eq!(update["request_id"], cause.as_str(), "up to 128 characters");
    let own = edge.get(&format!("{}/audit", one(&admin)), &admin.token).await.must_be(200);
    assert!(own.to_string().contains("sessions_ended"), "what somebody did is in the own log as well");
    edge.get(&format!("{}/audit?limit=101", one(&user)), &admin.token).await.must_fail(400, "REQ001");
    edge.get(&format!("{}/audit?cursor=x", one(&user)), &admin.token).await.must_fail(400, "REQ001");
}

#[tokio::test]
async fn one_account_that_fails_does_not_stop_the_others() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let path = format!("{PATH}/bulk");
    let mut users = Vec::new();
    for _ in 0..30 {
        users.push(sandbox.register().await);
    }
    let nobody = Uuid::now_v7().to_string();
    let mut all: Vec<&str> = users.iter().map(|user| user.id.as_str()).collect();
    all.insert(3, &nobody);
    all.push(&users[0].id);
    let run = async |operation: &str, params: Value| {
        let body =
            json!({ "user_ids": all, "operation": operation, "params": params, "reason": "spring cleaning" });
        edge.post(&path, &admin.token, body).await.must_be(200)
    };
    let good: Vec<&str> = users.iter().map(|user| user.id.as_str()).collect();
    let check = |results: &Value| {
        assert_eq!(results["succeeded"], json!(good), "{results}");
        let failed = results["failed"].as_array().expect("failed");
        assert_eq!((failed.len(), &failed[0]["user_id"]), (1, &json!(nobody)));
        assert_eq!(failed[0]["error"]["code"], "USER001");
        assert!(failed[0]["error"]["message"].is_string());
    };
    check(&run("upgrade_tier", json!({ "tier": "premium" })).await);
    until("the tier binds", async || seen(&sandbox, &users[29].token, "x-user-tier").await == "premium")
        .await;
    let lower = run("upgrade_tier", json!({ "tier": "basic" })).await;
    assert_eq!(
        (lower["succeeded"].as_array().map(Vec::len), &lower["failed"][0]["error"]["code"]),
        (Some(0), &json!("REQ001"))
    );
    check(&run("deactivate", Value::Null).await);
    until("its token dies", async || {
        edge.get("/api/v1/user/profile", &users[29].token).await.code() == "AUTH003"
    })
    .await;
    check(&run("activate", Value::Null).await);
    sandbox.log_in(&users[29]).await;
    let log = edge.get(&format!("{}/audit", one(&users[29])), &admin.token).await.must_be(200);
    let reasons = log["entries"].as_array().expect("entries").iter();
    let reasons = reasons.filter(|entry| entry["details"]["reason"] == "spring cleaning").count();
    assert_eq!(reasons, 3, "{log}");
    check(&run("delete", Value::Null).await);
    edge.get(&one(&users[29]), &admin.token).await.must_fail(404, "USER001");

    let many = vec![nobody.as_str(); 1001];
    for (body, field) in [
        (json!({ "user_ids": [], "operation": "delete" }), "user_ids"),
        (json!({ "user_ids": many, "operation": "delete" }), "user_ids"),
        (json!({ "user_ids": [nobody, "X"], "operation": "delete" }), "user_ids[1]"),
        (json!({ "user_ids": [nobody], "operation": "promote" }), "operation"),
        (json!({ "user_ids": [nobody], "operation": "upgrade_tier" }), "params.tier"),
        (
            json!({ "user_ids": [nobody], "operation": "activate", "params": { "tier": "gold" } }),
            "params.tier",
        ),
        (
            json!({ "user_ids": [nobody], "operation": "upgrade_tier", "params": { "tier": "gold" } }),
            "params.tier",
        ),
        (json!({ "user_ids": [nobody], "operation": "delete", "reason": "x".repeat(501) }), "reason"),
    ] {
        let reply = edge.post(&path, &admin.token, body).await;
        reply.must_fail(400, "REQ001");
        assert!(reply.body["error"]["details"]["fields"][field].is_string(), "{field}: {reply:?}");
    }
    let own = json!({ "user_ids": [admin.id], "operation": "delete" });
    let results = edge.post(&path, &admin.token, own).await.must_be(200);
    assert_eq!(results["failed"][0]["error"]["code"], "REQ001");
}
