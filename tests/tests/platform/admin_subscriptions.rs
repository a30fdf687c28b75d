use contract::subscription::subscription_service_client::SubscriptionServiceClient;
use contract::subscription::{
    Actor, CreateSubscriptionRequest, ListSubscriptionsRequest, UpdateSubscriptionRequest,
};
use contract::{ErrorCode, Failure};
use e2e::{INTERNAL_TOKEN, Sandbox, until};
use http::Method;
use serde_json::json;
use uuid::Uuid;

use crate::grpc::call;

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

#[tokio::test]
async fn who_changed_what_of_a_subscription_is_in_the_log() {
    let sandbox = Sandbox::start().await;
    let (admin, user, edge) = (sandbox.administrator().await, sandbox.register().await, sandbox.edge());
    let body = json!({ "user_id": user.id, "tier": "basic", "payment_method_id": "pm_1", "trial_days": 14 });
    let id = [("x-request-id", "the-first")];
    edge.send(Method::POST, PATH, Some(&admin.token), &id, Some(&body)).await.must_be(201);
    let body = json!({ "tier": "premium", "status": "active", "payment_method_id": "pm_2" });
    let id = [("x-request-id", "the-second")];
    let path = format!("{PATH}/{}", user.id);
    edge.send(Method::PUT, &path, Some(&admin.token), &id, Some(&body)).await.must_be(200);
    // What is refused, and what changes nothing, is no change.
    edge.put(&path, &admin.token, json!({ "status": "rich" })).await.must_fail(400, "REQ001");
    edge.put(&path, &admin.token, json!({})).await.must_be(200);

    let log = edge.get(&format!("/api/v1/admin/users/{}/audit", user.id), &admin.token).await.must_be(200);
    let entries = log["entries"].as_array().expect("entries").iter();
    let entries: Vec<_> = entries.filter(|entry| entry["action"] == "subscription_change_approved").collect();
    let [second, first] = entries[..] else { panic!("{log}") };
    for (entry, cause) in [(first, "the-first"), (second, "the-second")] {
        assert_eq!((&entry["actor_id"], &entry["target_id"]), (&json!(admin.id), &json!(user.id)));
        assert_eq!((&entry["ip_address"], &entry["request_id"]), (&json!("127.0.0.1"), &json!(cause)));
    }
    let made =
        json!({ "tier": "basic", "status": "trialing", "trial_days": "14", "payment_method_id": "pm_1" });
    assert_eq!(first["details"], made);
    let changed = json!({ "tier": "premium", "status": "active", "payment_method_id": "pm_2" });
    assert_eq!(second["details"], changed);
}

#[tokio::test]
async fn subscription_svc_asks_who_may_administer_and_believes_no_caller() {
    let sandbox = Sandbox::start().await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let address = format!("http://{}", sandbox.subscription[0]);
    let client = SubscriptionServiceClient::connect(address).await.expect("a connection");
    let code = |answer: Result<(), tonic::Status>| {
        answer.map_err(|status| Failure::from_status(status, "subscription-svc").code())
    };
    let try_all = async |user_id: &str| {
        let actor = Some(Actor { user_id: user_id.to_owned(), ..Actor::default() });
        let create = CreateSubscriptionRequest {
            actor: actor.clone(),
            user_id: user.id.clone(),
            tier: "premium".to_owned(),
            ..CreateSubscriptionRequest::default()
        };
        let update = UpdateSubscriptionRequest {
            actor: actor.clone(),
            user_id: user.id.clone(),
            tier: Some("premium".to_owned()),
            ..UpdateSubscriptionRequest::default()
        };
        let list = ListSubscriptionsRequest { actor, ..ListSubscriptionsRequest::default() };
        let mut client = client.clone();
        [
            code(client.create_subscription(call(create, INTERNAL_TOKEN)).await.map(drop)),
            code(client.update_subscription(call(update, INTERNAL_TOKEN)).await.map(drop)),
            code(client.list_subscriptions(call(list, INTERNAL_TOKEN)).await.map(drop)),
        ]
    };
    let nobody = Uuid::now_v7().to_string();
    for actor in [user.id.as_str(), &nobody, ""] {
        assert_eq!(try_all(actor).await, [Err(ErrorCode::Forbidden); 3], "{actor:?}");
    }
    assert_eq!(try_all(&admin.id).await, [Ok(()); 3]);
    let mut connection = sandbox.connection().await;
    sqlx::query("UPDATE users SET is_active = FALSE WHERE id = ?")
        .bind(&admin.id)
        .execute(&mut connection)
        .await
        .expect("disabled");
    assert_eq!(try_all(&admin.id).await, [Err(ErrorCode::Forbidden); 3], "as the account is now");
}
