use e2e::Sandbox;
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_new_users_subscription_is_free_and_active() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let body = edge.get("/api/v1/subscription", &user.token).await.must_be(200);
    assert_eq!((body["tier"].as_str(), body["status"].as_str()), (Some("free"), Some("active")));
    assert_eq!(body["user_id"], user.id);
    let again = edge.post("/api/v1/subscription/cancel", &user.token, json!({})).await.must_be(200);
    assert_eq!((again["id"].clone(), again["status"].as_str()), (body["id"].clone(), Some("active")));
}

#[tokio::test]
async fn usage_counts_what_exists_and_what_went_through_the_gateway() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    sandbox.project(&user).await;
    let made =
        edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "x" })).await.must_be(201);
    let usage = async || edge.get("/api/v1/subscription/usage", &user.token).await.must_be(200);
    e2e::until("the persona is counted", async || usage().await["personas_count"] == 1).await;
    assert_eq!(usage().await["projects_count"], 1);
    let full = edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "y" })).await;
    full.must_fail(403, "SUB002");
    assert_eq!(full.body["error"]["details"], json!({ "resource": "personas", "limit": 1, "used": 1 }));
    let path = format!("/api/v1/personas/instances/{}", made["id"].as_str().expect("an id"));
    edge.delete(&path, &user.token).await.must_be(204);
    e2e::until("the place is free again", async || usage().await["personas_count"] == 0).await;
    edge.delete(&path, &user.token).await.must_be(404);
    edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "y" })).await.must_be(201);
}

#[tokio::test]
async fn a_quota_says_what_is_left() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let path = "/api/v1/subscription/check-quota?resource=content";
    let body = edge.get(path, &user.token).await.must_be(200);
    let expected =
        json!({ "has_quota": true, "resource": "content", "limit": 10, "used": 0, "remaining": 10 });
    assert_eq!(body, expected);
    for query in ["", "?resource=", "?resource=money"] {
        edge.get(&format!("/api/v1/subscription/check-quota{query}"), &user.token)
            .await
            .must_fail(400, "REQ001");
    }
}

#[tokio::test]
async fn everybody_may_see_the_tiers() {
    let sandbox = Sandbox::start().await;
    let body = sandbox.edge().open_get("/api/v1/subscription/tiers").await.must_be(200);
    let tiers = body["tiers"].as_array().expect("a list");
    let names: Vec<_> = tiers.iter().map(|tier| tier["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["free", "basic", "premium", "enterprise"]);
    assert_eq!((&tiers[1]["price_monthly"], &tiers[3]["max_personas"]), (&json!(9.99), &json!(-1)));
}

#[tokio::test]
async fn administrators_see_what_a_user_has_used_day_by_day() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let path = format!("/api/v1/admin/users/{}/usage", user.id);
    let last = async || {
        let usage = edge.get(&path, &admin.token).await.must_be(200);
        assert_eq!(usage["user_id"], user.id.as_str());
        let days = usage["days"].as_array().expect("days").clone();
        assert_eq!(days.len(), 30);
        assert_eq!((&days[0]["personas"], &days[0]["projects"]), (&json!(0), &json!(0)));
        days[29].clone()
    };
    let (first, second) = (sandbox.project(&user).await, sandbox.project(&user).await);
    edge.post("/api/v1/personas/instances", &user.token, json!({ "name": "p" })).await.must_be(201);
    let day = last().await;
    let date = day["date"].as_str().expect("a date").to_owned();
    assert_eq!(day, json!({ "date": date, "personas": 1, "projects": 2, "content": 0 }));
    edge.delete(&format!("/api/v1/projects/{first}"), &user.token).await.must_be(204);
    assert_eq!(last().await["projects"], 1);
    edge.delete(&format!("/api/v1/projects/{second}"), &user.token).await.must_be(204);
    edge.delete(&format!("/api/v1/projects/{second}"), &user.token).await.must_fail(404, "PROJ001");
    assert_eq!(last().await["projects"], 0);

    let one = edge.get(&format!("{path}?from={date}&to={date}"), &admin.token).await.must_be(200);
    assert_eq!(one["days"].as_array().map(Vec::len), Some(1));
    edge.get(&format!("{path}?from=yesterday"), &admin.token).await.must_fail(400, "REQ001");
    edge.get(&format!("{path}?from=2020-01-01"), &admin.token).await.must_fail(400, "REQ001");
    edge.get(&path, &user.token).await.must_fail(403, "AUTH004");
    let nobody = format!("/api/v1/admin/users/{}/usage", Uuid::now_v7());
    edge.get(&nobody, &admin.token).await.must_fail(404, "USER001");
}
