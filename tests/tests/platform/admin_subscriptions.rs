use e2e::{Sandbox, until};
use http::Method;
use serde_json::json;
use uuid::Uuid;

const PATH: &str = "/api/v1/admin/subscriptions";

#[tokio::test]
async fn an_upgrade_is_seen_by_the_token_that_is_already_issued() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let body = json!({ "user_id": user.id, "tier": "premium", "payment_method_id": "pm_1" });
    let made = edge.post(PATH, &admin.token, body).await.must_be(201);
    assert_eq!((made["tier"].as_str(), made["payment_method"].as_str()), (Some("premium"), Some("pm_1")));
    until("the gateway passes the new tier on", async || {
        let echo = [("x-stub-echo", "1")];
        let path = "/api/v1/personas/instances";
        let seen = edge.send(Method::GET, path, Some(&user.token), &echo, None).await.must_be(200);
        seen["headers"].as_array().expect("headers").contains(&json!(["x-user-tier", "premium"]))
    })
    .await;
    let quota =
        edge.get("/api/v1/subscription/check-quota?resource=personas", &user.token).await.must_be(200);
    assert_eq!(quota["limit"], 20);
    let cancelled = edge.post("/api/v1/subscription/cancel", &user.token, json!({})).await.must_be(200);
    assert_eq!(cancelled["status"], "canceled");
    until("the tier is free again", async || {
        let profile = edge.get("/api/v1/user/profile", &user.token).await.must_be(200);
        profile["subscription_tier"] == "free"
    })
    .await;
}

#[tokio::test]
async fn administrators_list_make_and_change_subscriptions() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let nobody = Uuid::now_v7();
    let trial = json!({ "user_id": user.id, "tier": "basic", "trial_days": 14 });
    let made = edge.post(PATH, &admin.token, trial).await.must_be(201);
    assert_eq!(made["status"], "trialing");
    assert!(made["trial_ends_at"].is_string());
    let one = format!("{PATH}/{}", user.id);
    let changed = edge.put(&one, &admin.token, json!({ "status": "active" })).await.must_be(200);
    assert_eq!((changed["status"].as_str(), changed["tier"].as_str()), (Some("active"), Some("basic")));
    let page = edge.get(&format!("{PATH}?tier=basic&page_size=1"), &admin.token).await.must_be(200);
    assert_eq!((page["total_count"].as_i64(), page["total_pages"].as_i64()), (Some(1), Some(1)));
    assert_eq!(page["subscriptions"][0]["user_id"], user.id);

    edge.put(&format!("{PATH}/{nobody}"), &admin.token, json!({ "tier": "basic" }))
        .await
        .must_fail(404, "SUB001");
    let body = json!({ "user_id": nobody, "tier": "basic" });
    edge.post(PATH, &admin.token, body).await.must_fail(404, "USER001");
    edge.put(&one, &admin.token, json!({ "tier": "gold" })).await.must_fail(400, "REQ001");
    edge.put(&one, &admin.token, json!({ "status": "rich" })).await.must_fail(400, "REQ001");
    edge.get(&format!("{PATH}?page_size=101"), &admin.token).await.must_fail(400, "REQ001");
    edge.get(PATH, &user.token).await.must_fail(403, "AUTH004");
}
