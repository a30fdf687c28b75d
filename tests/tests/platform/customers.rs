//! Customers who came to several subscriptions at Stripe, or were deleted there.

use e2e::{FakeStripe, User};
use serde_json::json;

use super::billing::{CANCEL, check_out, subscriber, subscription, tier_seen, until_tier, with_stripe};

fn id_of(stripe: &FakeStripe, user: &User) -> String {
    stripe.customer_of(&user.id)["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_customer_deleted_at_stripe_has_nothing_and_may_buy_again() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    for is_listed in [false, true] {
        let (user, _) = subscriber(&sandbox, &stripe, "premium").await;
        until_tier(edge, &user.token, "premium").await;
        for tier in ["basic", "enterprise"] {
            let former = id_of(&stripe, &user);
            stripe.delete_customer(&former, is_listed).deliver(edge).await;
            until_tier(edge, &user.token, "free").await;
            assert_eq!(subscription(edge, &user).await["status"], "canceled");
            edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
            let page = check_out(edge, &user, tier, "month").await.must_be(200);
            assert_ne!(id_of(&stripe, &user), former);
            let id = stripe.pay(page["id"].as_str().expect("an id"));
            stripe.updated(&id).deliver(edge).await;
            until_tier(edge, &user.token, tier).await;
        }
    }
}

#[tokio::test]
async fn what_a_deleted_customer_paid_for_can_be_cancelled_or_replaced_without_an_event() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    for is_listed in [false, true] {
        let (user, _) = subscriber(&sandbox, &stripe, "basic").await;
        stripe.delete_customer(&id_of(&stripe, &user), is_listed);
        let cancelled = edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
        assert_eq!(cancelled["status"], "canceled");
        until_tier(edge, &user.token, "free").await;

        let (user, _) = subscriber(&sandbox, &stripe, "basic").await;
        stripe.delete_customer(&id_of(&stripe, &user), is_listed);
        let path = format!("/api/v1/admin/subscriptions/{}", user.id);
        let ended = edge.put(&path, &admin.token, json!({ "status": "expired" })).await.must_be(200);
        assert_eq!(ended["status"], "expired");
        until_tier(edge, &user.token, "free").await;

        let (user, _) = subscriber(&sandbox, &stripe, "basic").await;
        stripe.delete_customer(&id_of(&stripe, &user), is_listed);
        let page = check_out(edge, &user, "basic", "month").await.must_be(200);
        assert_eq!(stripe.session(page["id"].as_str().expect("an id"))["customer"], id_of(&stripe, &user));
        until_tier(edge, &user.token, "free").await;
    }
}

#[tokio::test]
async fn a_customer_whom_stripe_never_had_keeps_the_tier() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    until_tier(edge, &user.token, "basic").await;
    stripe.never_had(&id_of(&stripe, &user));
    let told = stripe.updated(&id).send(edge).await.expect("an answer");
    assert!(told.status.is_server_error(), "Stripe is to send it again: {told:?}");
    check_out(edge, &user, "premium", "month").await.must_fail(500, "SRV001");
    assert_eq!(tier_seen(edge, &user.token).await, "basic");
}

#[tokio::test]
async fn who_pays_for_two_subscriptions_cancels_both() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, first) = subscriber(&sandbox, &stripe, "basic").await;
    let second = stripe.subscribe(&stripe.customer_of(&user.id), "premium");
    stripe.updated(&second).deliver(edge).await;
    until_tier(edge, &user.token, "premium").await;
    // The better one is cancelled in the portal; the other goes on.
    stripe.change(&second, |subscription| subscription["cancel_at_period_end"] = json!(true));
    stripe.updated(&second).deliver(edge).await;
    let seen = subscription(edge, &user).await;
    assert!(seen.get("cancelled_at").is_none(), "somebody still pays: {seen}");
    stripe.refuse(&first);
    edge.post(CANCEL, &user.token, json!({})).await.must_fail(500, "SRV001");
    assert!(subscription(edge, &user).await.get("cancelled_at").is_none());
    stripe.relent();
    let cancelled = edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    assert!(cancelled["cancelled_at"].is_string(), "{cancelled}");
    for id in [&first, &second] {
        assert_eq!(stripe.subscription(id)["cancel_at_period_end"], true);
    }
    assert_eq!(subscription(edge, &user).await["tier"], "premium", "what is paid for lasts");
}

#[tokio::test]
async fn what_is_late_of_two_subscriptions_ends_at_once_and_administrators_end_all() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let (user, paid) = subscriber(&sandbox, &stripe, "basic").await;
    let late = stripe.subscribe(&stripe.customer_of(&user.id), "premium");
    stripe.change(&late, |subscription| subscription["status"] = json!("past_due"));
    let cancelled = edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    assert_eq!((&cancelled["tier"], &cancelled["status"]), (&json!("basic"), &json!("active")));
    assert_eq!(stripe.subscription(&late)["status"], "canceled");
    assert_eq!(stripe.subscription(&paid)["cancel_at_period_end"], true);

    let (user, first) = subscriber(&sandbox, &stripe, "basic").await;
    let second = stripe.subscribe(&stripe.customer_of(&user.id), "premium");
    stripe.updated(&second).deliver(edge).await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "status": "canceled" })).await.must_be(200);
    for id in [&first, &second] {
        assert_eq!(stripe.subscription(id)["status"], "canceled");
    }
    until_tier(edge, &user.token, "free").await;
}
