//! From a payment to its end, with a stand-in for Stripe.

use e2e::{Client, FakeStripe, Mood, Plan, Reply, Sandbox, User, until};
use http::Method;
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "/api/v1/subscription";
pub const CHECKOUT: &str = "/api/v1/subscription/checkout";
pub const CANCEL: &str = "/api/v1/subscription/cancel";

/// A platform with a stand-in for Stripe, and further settings.
pub async fn with_stripe(replicas: usize, more: &[(&'static str, &str)]) -> (Sandbox, FakeStripe) {
    let stripe = FakeStripe::start().await;
    let mut settings = stripe.settings();
    settings.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
    settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    (Sandbox::planned(Plan { replicas, settings, ..Plan::default() }).await, stripe)
}

pub async fn check_out(edge: &Client, user: &User, tier: &str, interval: &str) -> Reply {
    edge.post(CHECKOUT, &user.token, json!({ "tier": tier, "interval": interval })).await
}

/// A user who has paid for a tier by the month, and the id of the subscription at Stripe.
pub async fn subscriber(sandbox: &Sandbox, stripe: &FakeStripe, tier: &str) -> (User, String) {
    let user = sandbox.register().await;
    let page = check_out(sandbox.edge(), &user, tier, "month").await.must_be(200);
    let id = stripe.pay(page["id"].as_str().expect("an id"));
    stripe.updated(&id).deliver(sandbox.edge()).await;
    until_tier(sandbox.edge(), &user.token, tier).await;
    (user, id)
}

/// The tier that core-manager is told, for a token.
pub async fn tier_seen(edge: &Client, token: &str) -> String {
    let echo = [("x-stub-echo", "1")];
    let reply = edge.send(Method::GET, "/api/v1/personas/instances", Some(token), &echo, None).await;
    let seen = reply.must_be(200);
    let headers = seen["headers"].as_array().expect("headers");
    let tier = headers.iter().find(|header| header[0] == "x-user-tier").expect("a tier");
    tier[1].as_str().expect("a text").to_owned()
}

pub async fn until_tier(edge: &Client, token: &str, tier: &str) {
    until(&format!("the token carries the tier {tier}"), async || tier_seen(edge, token).await == tier).await;
}

pub async fn subscription(edge: &Client, user: &User) -> Value {
    edge.get(SUBSCRIPTION, &user.token).await.must_be(200)
}

#[tokio::test]
async fn a_tier_is_bought_used_cancelled_and_over() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let page = check_out(edge, &user, "premium", "year").await.must_be(200);
    let session = stripe.session(page["id"].as_str().expect("an id"));
    assert_eq!((&page["url"], &session["price"]), (&session["url"], &json!("price_premium_year_1")));
    assert!(page["expires_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{page}");
    let customer = stripe.customer_of(&user.id);
    assert_eq!((&customer["email"], &customer["id"]), (&json!(user.email), &session["customer"]));
    assert_eq!(tier_seen(edge, &user.token).await, "free", "a page is no payment");

    let id = stripe.pay(page["id"].as_str().expect("an id"));
    let session = stripe.session(page["id"].as_str().expect("an id"));
    stripe.event("checkout.session.completed", &session).deliver(edge).await;
    until_tier(edge, &user.token, "premium").await;
    let bought = subscription(edge, &user).await;
    assert_eq!((&bought["tier"], &bought["status"]), (&json!("premium"), &json!("active")));
    assert_eq!(bought["payment_method"], "pm_card");
    assert!(bought["end_date"].is_string() && bought.get("cancelled_at").is_none(), "{bought}");

    let cancelled = edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    assert_eq!((&cancelled["status"], &cancelled["end_date"]), (&json!("active"), &bought["end_date"]));
    assert!(cancelled["cancelled_at"].is_string(), "{cancelled}");
    assert_eq!(stripe.subscription(&id)["cancel_at_period_end"], true);
    let calls = stripe.calls().len();
    assert_eq!(edge.post(CANCEL, &user.token, json!({})).await.must_be(200), cancelled);
    assert_eq!(stripe.calls().len(), calls, "twice is once");
    stripe.updated(&id).deliver(edge).await;
    assert_eq!(tier_seen(edge, &user.token).await, "premium", "what is paid for lasts");

    let gone = stripe.change(&id, |subscription| subscription["status"] = json!("canceled"));
    stripe.event("customer.subscription.deleted", &gone).deliver(edge).await;
    until_tier(edge, &user.token, "free").await;
    assert_eq!(subscription(edge, &user).await["status"], "canceled");
    // And again, as the same customer.
    let page = check_out(edge, &user, "basic", "month").await.must_be(200);
    let id = stripe.pay(page["id"].as_str().expect("an id"));
    stripe.event("invoice.paid", &json!({ "customer": customer["id"] })).deliver(edge).await;
    until_tier(edge, &user.token, "basic").await;
    assert_eq!(stripe.subscription(&id)["customer"], customer["id"]);
    stripe.customer_of(&user.id);
}

#[tokio::test]
async fn a_late_payment_is_forgiven_for_a_grace_and_made_up_for_later() {
    let (sandbox, stripe) = with_stripe(1, &[("PAST_DUE_GRACE_SECONDS", "10")]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "premium").await;
    until_tier(edge, &user.token, "premium").await;
    let late = stripe.change(&id, |subscription| subscription["status"] = json!("past_due"));
    stripe.event("invoice.payment_failed", &late).deliver(edge).await;
    let in_grace = subscription(edge, &user).await;
    assert_eq!(in_grace["status"], "past_due");
    assert_eq!(tier_seen(edge, &user.token).await, "premium");
    // The bank refuses again, which grants no further grace.
    stripe.event("invoice.payment_failed", &late).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["end_date"], in_grace["end_date"]);
    until_tier(edge, &user.token, "free").await;
    assert_eq!(subscription(edge, &user).await["status"], "expired");
    stripe.event("invoice.payment_failed", &late).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["status"], "expired");

    let paid = stripe.change(&id, |subscription| subscription["status"] = json!("active"));
    stripe.event("invoice.paid", &paid).deliver(edge).await;
    until_tier(edge, &user.token, "premium").await;
    // Who cancels while late is not charged any more.
    let late = stripe.change(&id, |subscription| subscription["status"] = json!("past_due"));
    stripe.event("invoice.payment_failed", &late).deliver(edge).await;
    let cancelled = edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    assert_eq!(
        (&cancelled["status"], &stripe.subscription(&id)["status"]),
        (&json!("canceled"), &json!("canceled"))
    );
    until_tier(edge, &user.token, "free").await;
}

#[tokio::test]
async fn a_trial_at_stripe_is_paid_for_or_ends() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    let soon = seconds() + 2;
    let trial = stripe.change(&id, |subscription| {
        subscription["status"] = json!("trialing");
        subscription["trial_end"] = json!(soon);
    });
    stripe.event("customer.subscription.trial_will_end", &trial).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["status"], "trialing");
    until("the trial is over", async || seconds() > soon + 3).await;
    assert_eq!(tier_seen(edge, &user.token).await, "basic", "the first payment is being made");
    let paid = stripe.change(&id, |subscription| subscription["status"] = json!("active"));
    stripe.event("invoice.paid", &paid).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["status"], "active");
    assert_eq!(tier_seen(edge, &user.token).await, "basic");
    // Another one ends without a card.
    let paused = stripe.change(&id, |subscription| subscription["status"] = json!("paused"));
    stripe.event("customer.subscription.updated", &paused).deliver(edge).await;
    until_tier(edge, &user.token, "free").await;
    assert_eq!(subscription(edge, &user).await["status"], "expired");
}

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs()
}

#[tokio::test]
async fn a_deleted_account_is_not_charged_again() {
    let (sandbox, stripe) = with_stripe(2, &[]).await;
    let (user, id) = subscriber(&sandbox, &stripe, "premium").await;
    stripe.set_mood(Mood::Away);
    sandbox.edge().delete("/api/v1/user/delete", &user.token).await.must_be(200);
    until("the end is tried", async || stripe.calls().iter().any(|call| call.starts_with("DELETE"))).await;
    assert_eq!(stripe.subscription(&id)["status"], "active");
    stripe.set_mood(Mood::Fine);
    until("the payments end", async || stripe.subscription(&id)["status"] == "canceled").await;
    stripe.updated(&id).deliver(sandbox.edge()).await;
}

#[tokio::test]
async fn an_event_that_was_lost_is_made_up_for() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    stripe.put_on(&id, "enterprise");
    let mut connection = sandbox.connection().await;
    // A day later.
    sqlx::query("UPDATE stripe_customers SET look_at = look_at - INTERVAL 1 DAY")
        .execute(&mut connection)
        .await
        .expect("a day later");
    until_tier(sandbox.edge(), &user.token, "enterprise").await;
    let calls = stripe.calls().len();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(stripe.calls().len(), calls, "and not asked for again before the next day");
}

#[tokio::test]
async fn whom_stripe_refuses_holds_up_nobody_else() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (refused, refused_id) = subscriber(&sandbox, &stripe, "basic").await;
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    let (leaver, leaver_id) = subscriber(&sandbox, &stripe, "basic").await;
    let (next, next_id) = subscriber(&sandbox, &stripe, "basic").await;
    for user in [&refused, &leaver] {
        stripe.refuse(stripe.customer_of(&user.id)["id"].as_str().expect("an id"));
    }
    edge.delete("/api/v1/user/delete", &leaver.token).await.must_be(200);
    until("the end is tried", async || stripe.calls().iter().any(|call| call.starts_with("DELETE"))).await;
    edge.delete("/api/v1/user/delete", &next.token).await.must_be(200);
    until("the next one's payments end", async || stripe.subscription(&next_id)["status"] == "canceled")
        .await;
    assert_eq!(stripe.subscription(&leaver_id)["status"], "active");

    let mut connection = sandbox.connection().await;
    for (id, tier) in [(&refused_id, "enterprise"), (&id, "premium")] {
        stripe.put_on(id, tier);
    }
    // A day later, the refused one first.
    sqlx::query(
        "UPDATE stripe_customers SET look_at = look_at - INTERVAL IF(user_id = ?, 2, 1) DAY
         WHERE user_id IS NOT NULL",
    )
    .bind(&refused.id)
    .execute(&mut connection)
    .await
    .expect("a day later");
    until_tier(edge, &user.token, "premium").await;
    assert_eq!(subscription(edge, &refused).await["tier"], "basic");

    stripe.relent();
    sqlx::query("UPDATE stripe_customers SET look_at = NOW(), retry_at = NOW()")
        .execute(&mut connection)
        .await
        .expect("the pause is over");
    until_tier(edge, &refused.token, "enterprise").await;
    until("those payments end", async || stripe.subscription(&leaver_id)["status"] == "canceled").await;
}

#[tokio::test]
async fn what_an_administrator_ends_is_not_paid_for_any_more() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let (user, id) = subscriber(&sandbox, &stripe, "premium").await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    let ended = edge.put(&path, &admin.token, json!({ "status": "canceled" })).await.must_be(200);
    assert_eq!(
        (&ended["status"], &stripe.subscription(&id)["status"]),
        (&json!("canceled"), &json!("canceled"))
    );
    until_tier(edge, &user.token, "free").await;
    // What an administrator grants afterwards is not undone by what Stripe still has to say.
    edge.put(&path, &admin.token, json!({ "status": "active", "tier": "enterprise" })).await.must_be(200);
    stripe.event("customer.subscription.deleted", &stripe.subscription(&id)).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["status"], "active");
    until_tier(edge, &user.token, "enterprise").await;
}

#[tokio::test]
async fn a_downgrade_leaves_what_there_is_and_admits_nothing_new() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "premium").await;
    until_tier(edge, &user.token, "premium").await;
    let mut projects = Vec::new();
    for _ in 0..5 {
        projects.push(sandbox.project(&user).await);
    }
    let gone = stripe.change(&id, |subscription| subscription["status"] = json!("canceled"));
    stripe.event("customer.subscription.deleted", &gone).deliver(edge).await;
    until_tier(edge, &user.token, "free").await;
    let list = edge.get("/api/v1/projects", &user.token).await.must_be(200);
    assert_eq!(list["count"], 5);
    let make = async || edge.post("/api/v1/projects", &user.token, json!({ "name": "one more" })).await;
    make().await.must_fail(403, "SUB002");
    for id in &projects[..2] {
        edge.put(&format!("/api/v1/projects/{id}"), &user.token, json!({ "name": "kept" }))
            .await
            .must_be(200);
        edge.delete(&format!("/api/v1/projects/{id}"), &user.token).await.must_be(204);
    }
    make().await.must_fail(403, "SUB002");
    edge.delete(&format!("/api/v1/projects/{}", projects[2]), &user.token).await.must_be(204);
    make().await.must_be(201);
}
