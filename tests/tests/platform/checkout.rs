//! What can be bought, and what happens on the way.

use e2e::{Mood, Sandbox, until};
use futures_util::future::join_all;
use serde_json::json;

use super::billing::{
    CANCEL, CHECKOUT, check_out, subscriber, subscription, tier_seen, until_tier, with_stripe,
};

#[tokio::test]
async fn without_the_keys_of_stripe_nothing_is_sold_and_everything_else_works() {
    let sandbox = Sandbox::start().await;
    let (user, admin, edge) = (sandbox.register().await, sandbox.administrator().await, sandbox.edge());
    check_out(edge, &user, "basic", "month").await.must_fail(503, "SUB003");
    let signature = format!("t={},v1={}", chrono::Utc::now().timestamp(), "ab".repeat(32));
    let event = edge.try_post_bytes("/webhooks/stripe", &[("stripe-signature", &signature)], b"{}").await;
    event.expect("an answer").must_fail(503, "SUB003");
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "tier": "premium" })).await.must_be(200);
    until_tier(edge, &user.token, "premium").await;
    edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    until_tier(edge, &user.token, "free").await;
}

#[tokio::test]
async fn of_many_checkouts_at_once_one_page_is_open_and_one_customer_is_made() {
    let (sandbox, stripe) = with_stripe(2, &[]).await;
    let user = sandbox.register().await;
    stripe.set_mood(Mood::LosesAnAnswer);
    for round in 0..5 {
        let tiers = ["basic", "premium", "enterprise", "basic", "premium", "enterprise"];
        let tries = tiers.iter().enumerate().map(|(place, tier)| {
            let edge = &sandbox.edges[place % 2];
            check_out(edge, &user, tier, "month")
        });
        let replies = join_all(tries).await;
        let mut pages = Vec::new();
        for reply in replies {
            if reply.status == 200 {
                pages.push(reply.body["id"].as_str().expect("an id").to_owned());
            } else {
                reply.must_fail(503, "GW003");
            }
        }
        let open = pages.iter().filter(|id| stripe.session(id)["status"] == "open").count();
        assert_eq!(open, 1, "round {round}: {pages:?}");
    }
    stripe.customer_of(&user.id);
}

#[tokio::test]
async fn nobody_buys_what_is_not_for_sale_or_what_they_have() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (user, admin, edge) = (sandbox.register().await, sandbox.administrator().await, sandbox.edge());
    for (tier, interval, field) in [
        ("free", "month", "tier"),
        ("gold", "month", "tier"),
        ("basic", "week", "interval"),
        ("basic", "", "interval"),
    ] {
        let reply = check_out(edge, &user, tier, interval).await;
        reply.must_fail(400, "REQ001");
        assert!(reply.body["error"]["details"]["fields"][field].is_string(), "{reply:?}");
    }
    edge.post(CHECKOUT, &user.token, json!({ "tier": "basic" })).await.must_fail(400, "REQ001");
    assert_eq!(stripe.calls(), Vec::<String>::new(), "nothing of this concerns Stripe");

    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    edge.put(&path, &admin.token, json!({ "tier": "premium" })).await.must_be(200);
    for tier in ["basic", "premium"] {
        check_out(edge, &user, tier, "month").await.must_fail(400, "REQ001");
    }
    check_out(edge, &user, "enterprise", "month").await.must_be(200);
}

#[tokio::test]
async fn another_tier_is_confirmed_in_the_portal_and_never_paid_twice() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    check_out(edge, &user, "basic", "month").await.must_fail(400, "REQ001");
    for (tier, interval) in [("premium", "month"), ("basic", "year")] {
        let page = check_out(edge, &user, tier, interval).await.must_be(200);
        assert!(page["url"].as_str().is_some_and(|url| url.contains("billing.stripe.com")), "{page}");
        assert!(page["expires_at"].is_string(), "{page}");
    }
    stripe.put_on(&id, "premium");
    stripe.updated(&id).deliver(edge).await;
    until_tier(edge, &user.token, "premium").await;
    // A downgrade as well.
    check_out(edge, &user, "basic", "month").await.must_be(200);
    edge.post(CANCEL, &user.token, json!({})).await.must_be(200);
    // Cancelled: the portal is where it is taken up again, even at the same price.
    check_out(edge, &user, "premium", "month").await.must_be(200);
    let sessions = stripe.calls().iter().filter(|call| *call == "POST /v1/checkout/sessions").count();
    assert_eq!(sessions, 1, "only the first was a checkout");
}

#[tokio::test]
async fn a_payment_whose_event_is_on_its_way_is_seen_by_the_next_checkout() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let page = check_out(edge, &user, "basic", "month").await.must_be(200);
    stripe.pay(page["id"].as_str().expect("an id"));
    check_out(edge, &user, "basic", "month").await.must_fail(400, "REQ001");
    let page = check_out(edge, &user, "premium", "month").await.must_be(200);
    assert!(page["url"].as_str().is_some_and(|url| url.contains("billing.stripe.com")), "{page}");
    until_tier(edge, &user.token, "basic").await;
}

#[tokio::test]
async fn no_second_page_is_made_while_the_first_cannot_be_closed() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let page = check_out(edge, &user, "basic", "month").await.must_be(200);
    let first = page["id"].as_str().expect("an id");
    stripe.refuse("/expire");
    for _ in 0..2 {
        check_out(edge, &user, "premium", "month").await.must_fail(503, "GW003");
        assert_eq!(stripe.session(first)["status"], "open");
    }
    let sessions = stripe.calls().iter().filter(|call| *call == "POST /v1/checkout/sessions").count();
    assert_eq!(sessions, 1);
    // It is refused for one that is closed, too.
    stripe.pay(first);
    check_out(edge, &user, "basic", "month").await.must_fail(400, "REQ001");
    until_tier(edge, &user.token, "basic").await;
}

#[tokio::test]
async fn while_stripe_is_away_only_payments_wait() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (payer, id) = subscriber(&sandbox, &stripe, "basic").await;
    let user = sandbox.register().await;
    for (mood, status, code) in [(Mood::Away, 502, "GW001"), (Mood::Silent, 504, "GW002")] {
        stripe.set_mood(mood);
        let reply = check_out(edge, &user, "basic", "month").await;
        reply.must_fail(status, code);
        assert_eq!(reply.body["error"]["details"]["service"], "stripe");
        let reply = edge.post(CANCEL, &payer.token, json!({})).await;
        reply.must_fail(status, code);
        assert!(subscription(edge, &payer).await.get("cancelled_at").is_none(), "it was not cancelled");
        assert_eq!(tier_seen(edge, &payer.token).await, "basic");
        let event = stripe.updated(&id).send(edge).await.expect("an answer");
        assert!(event.status.is_server_error(), "Stripe is to send it again: {event:?}");
    }
    stripe.set_mood(Mood::LosesAnAnswer);
    check_out(edge, &user, "basic", "month").await.must_be(200);
    stripe.customer_of(&user.id);
}

#[tokio::test]
async fn who_pays_a_former_price_keeps_the_tier() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "premium").await;
    stripe.raise_price("premium_month");
    stripe.event("invoice.paid", &stripe.subscription(&id)).deliver(edge).await;
    assert_eq!(subscription(edge, &user).await["tier"], "premium");
    assert_eq!(tier_seen(edge, &user.token).await, "premium");
    let other = sandbox.register().await;
    let page = check_out(edge, &other, "premium", "month").await.must_be(200);
    assert_eq!(stripe.session(page["id"].as_str().expect("an id"))["price"], "price_premium_month_2");
}

#[tokio::test]
async fn no_key_secret_address_or_page_of_a_payment_is_in_a_log() {
    let (sandbox, stripe) = with_stripe(1, &[("LOG_LEVEL", "debug")]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    let page = check_out(edge, &user, "premium", "month").await.must_be(200);
    let wrong = stripe.updated(&id);
    wrong.send_signed(edge, "t=1,v1=00").await.expect("an answer").must_fail(400, "REQ001");
    stripe.set_mood(Mood::Away);
    check_out(edge, &user, "premium", "month").await.must_fail(502, "GW001");
    let settings = stripe.settings();
    let setting = |wanted: &str| {
        let found = settings.iter().find(|(name, _)| *name == wanted);
        found.expect("a setting").1.clone()
    };
    let secrets = [
        setting("STRIPE_SECRET_KEY"),
        setting("STRIPE_WEBHOOK_SECRETS"),
        // However it is encoded.
        user.email.split('@').next().expect("a name").to_owned(),
        page["url"].as_str().expect("a URL").to_owned(),
        "pm_card".to_owned(),
    ];
    // What is to be there, so that the test looks at the right thing.
    let said =
        || [&sandbox.edge_processes[0], &sandbox.subscription_processes[0]].map(|process| process.said());
    until("the last refusal is in the logs", async || {
        let logs = said();
        logs[0].contains(r#""status":502"#) && logs[1].contains("a checkout: 503")
    })
    .await;
    let logs = said();
    for secret in secrets {
        assert!(logs.iter().all(|log| !log.contains(&secret)), "{secret} is in a log");
    }
}
