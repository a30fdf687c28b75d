//! What Stripe tells: signed, once, in any order, through any death.

use std::time::{Duration, Instant};

use e2e::{Client, FakeStripe, Mood, Sandbox, StripeEvent, User, WEBHOOK_SECRET, until};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::billing::{subscriber, subscription, tier_seen, until_tier, with_stripe};

const PATH: &str = "/webhooks/stripe";

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    i64::try_from(since.as_secs()).expect("a time")
}

async fn count(sandbox: &Sandbox, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut sandbox.connection().await).await.expect("a number")
}

#[tokio::test]
async fn only_what_stripe_has_signed_lately_is_taken_in() {
    let next = "whsec_fedcba9876543210fedcba9876543210";
    let both = format!("{WEBHOOK_SECRET},{next}");
    let (sandbox, stripe) = with_stripe(1, &[("STRIPE_WEBHOOK_SECRETS", &both)]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    stripe.put_on(&id, "premium");
    let event = stripe.updated(&id);
    let sign = |secret: &str, at| event.signature(secret, at);
    let tag = |signature: &str| signature.split_once("v1=").expect("a tag").1.to_owned();
    let good = sign(WEBHOOK_SECRET, now());
    let refused = [
        String::new(),
        "v1=".to_owned(),
        sign("whsec_another", now()),
        sign("", now()),
        sign(WEBHOOK_SECRET, now() - 310),
        sign(WEBHOOK_SECRET, now() + 310),
        format!("t={},v1={}", now() - 100, tag(&good)),
        good.replace("v1=", "v0="),
    ];
    for signature in &refused {
        event.send_signed(edge, signature).await.expect("an answer").must_fail(400, "REQ001");
    }
    let changed = StripeEvent { body: event.body.replace("premium", "basic") };
    changed.send_signed(edge, &good).await.expect("an answer").must_fail(400, "REQ001");
    let send = async |headers: &[(&str, &str)], body: &[u8]| {
        edge.try_post_bytes(PATH, headers, body).await.expect("an answer")
    };
    send(&[], event.body.as_bytes()).await.must_fail(400, "REQ001");
    let twice = [("stripe-signature", good.as_str()), ("stripe-signature", good.as_str())];
    send(&twice, event.body.as_bytes()).await.must_fail(400, "REQ001");
    // On a connection of its own, which breaks with it.
    let other = Client::new(format!("http://{}", edge.authority()));
    let large = vec![b' '; 512 * 1024 + 1];
    let reply = other.try_post_bytes(PATH, &[("stripe-signature", good.as_str())], &large).await;
    reply.expect("an answer").must_fail(413, "REQ003");
    edge.open_get(PATH).await.must_fail(405, "REQ002");
    let no_event = StripeEvent { body: "[1]".to_owned() };
    no_event.send(edge).await.expect("an answer").must_fail(400, "REQ001");
    assert_eq!(tier_seen(edge, &user.token).await, "basic", "nothing of this was taken in");

    // Of several signatures one is enough, as while a secret is being replaced.
    let several = format!("{good},v1={},v1={}", "0".repeat(64), tag(&sign("whsec_another", now())));
    event.send_signed(edge, &several).await.expect("an answer").must_be(200);
    until_tier(edge, &user.token, "premium").await;
    stripe.put_on(&id, "enterprise");
    let event = stripe.updated(&id);
    event.send_signed(edge, &event.signature(next, now() - 290)).await.expect("an answer").must_be(200);
    until_tier(edge, &user.token, "enterprise").await;
}

#[tokio::test]
async fn what_an_event_says_of_itself_proves_nothing() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let victim = sandbox.register().await;
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    // Somebody else's customer at the same account, with our user in its metadata.
    let mut foreign = stripe.subscription(&id);
    foreign["customer"] = json!("cus_of_another_shop");
    foreign["metadata"] = json!({ "user_id": victim.id });
    foreign["client_reference_id"] = json!(victim.id);
    // Our customer, but more than was paid for.
    let mut more = stripe.subscription(&id);
    more["items"]["data"][0]["price"] =
        json!({ "id": "price_enterprise_month_1", "lookup_key": "enterprise_month" });
    more["metadata"] = json!({ "user_id": victim.id, "tier": "enterprise" });
    for kind in ["customer.subscription.updated", "checkout.session.completed", "invoice.paid"] {
        for object in [&foreign, &more, &json!({ "customer": null }), &json!({ "customer": { "id": "x" } })] {
            stripe.event(kind, object).deliver(edge).await;
        }
    }
    // Unknown kinds are acknowledged, whatever they are about.
    for kind in ["customer.created", "charge.refunded", "a.kind.to.come"] {
        stripe.event(kind, &json!({})).deliver(edge).await;
    }
    assert_eq!(subscription(edge, &user).await["tier"], "basic");
    assert_eq!(subscription(edge, &victim).await["tier"], "free");
    assert_eq!(tier_seen(edge, &user.token).await, "basic");
    // Not even a price of ours that is not for sale under a key of ours.
    stripe.change(&id, |subscription| {
        subscription["items"]["data"][0]["price"] = json!({ "id": "price_x", "lookup_key": "gold_month" });
    });
    stripe.updated(&id).deliver(edge).await;
    until_tier(edge, &user.token, "free").await;
}

#[tokio::test]
async fn an_event_that_comes_fifty_times_at_once_has_one_effect() {
    let (sandbox, stripe) = with_stripe(2, &[]).await;
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    let revision = "SELECT revision FROM stripe_customers";
    let told = "SELECT COUNT(*) FROM audit_log WHERE action = 'tier_changed'";
    until_tier(sandbox.edge(), &user.token, "basic").await;
    let kinds = ["customer.subscription.updated", "invoice.paid", "checkout.session.completed"];
    for (round, tier) in ["premium", "enterprise", "basic"].into_iter().enumerate() {
        let (looks, changes) = (count(&sandbox, revision).await, count(&sandbox, told).await);
        let object = stripe.put_on(&id, tier);
        let event = stripe.event(kinds[round], &object);
        let replies = join_all((0..50).map(|one| event.send(&sandbox.edges[one % 2]))).await;
        assert!(replies.iter().all(|reply| reply.as_ref().is_some_and(|reply| reply.status == 200)));
        for edge in &sandbox.edges {
            until_tier(edge, &user.token, tier).await;
        }
        assert_eq!(count(&sandbox, revision).await, looks + 1, "taken in once");
        assert_eq!(count(&sandbox, told).await, changes + 1, "changed once");
    }
}

/// All orders of `rest`, each after `begin`.
fn orders(begin: &[usize], rest: &[usize], all: &mut Vec<Vec<usize>>) {
    if rest.is_empty() {
        all.push(begin.to_vec());
    }
    for place in 0..rest.len() {
        let (mut begin, mut rest) = (begin.to_vec(), rest.to_vec());
        begin.push(rest.remove(place));
        orders(&begin, &rest, all);
    }
}

#[tokio::test]
async fn in_every_order_of_arrival_the_newest_state_wins() {
    let (sandbox, stripe) = with_stripe(1, &[]).await;
    let edge = sandbox.edge();
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    let mut all = Vec::new();
    orders(&[], &[0, 1, 2, 3, 4], &mut all);
    assert_eq!(all.len(), 120);
    let tiers = ["premium", "enterprise", "basic"];
    for (round, order) in all.into_iter().enumerate() {
        let tier = tiers[round % 3];
        // What happened, one after the other, each with its event; they arrive in another order.
        let status = |status: &str| stripe.change(&id, |subscription| subscription["status"] = json!(status));
        let events = [
            stripe.event("customer.subscription.deleted", &status("canceled")),
            stripe.event("customer.subscription.created", &status("incomplete")),
            stripe.event("invoice.payment_failed", &status("past_due")),
            stripe.event("invoice.paid", &status("active")),
            stripe.event("customer.subscription.updated", &stripe.put_on(&id, tier)),
        ];
        for place in &order {
            events[*place].send(edge).await.expect("an answer").must_be(200);
        }
        let seen = subscription(edge, &user).await;
        assert_eq!((&seen["tier"], &seen["status"]), (&json!(tier), &json!("active")), "{order:?}");
    }
    assert_eq!(count(&sandbox, "SELECT COUNT(*) FROM stripe_events").await, 120 * 5 + 1);
}

#[tokio::test]
async fn looks_that_overlap_never_leave_an_older_state() {
    let (sandbox, stripe) = with_stripe(2, &[]).await;
    let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
    for round in 0..15 {
        // Answers of Stripe's arrive late and in another order than they were asked for.
        stripe.set_mood(Mood::Slow(150));
        let mut deliveries = JoinSet::new();
        for (place, tier) in
            ["premium", "basic", "enterprise", "basic", "premium", "enterprise"].iter().enumerate()
        {
            stripe.put_on(&id, tier);
            let (event, edge) = (stripe.updated(&id), sandbox.edges[place % 2].clone());
            deliveries.spawn(async move { event.deliver(&edge).await });
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let last = if round % 2 == 0 { "basic" } else { "premium" };
        stripe.put_on(&id, last);
        let (event, edge) = (stripe.updated(&id), sandbox.edge().clone());
        deliveries.spawn(async move { event.deliver(&edge).await });
        while let Some(delivered) = deliveries.join_next().await {
            delivered.expect("delivered");
        }
        assert_eq!(subscription(sandbox.edge(), &user).await["tier"], last, "round {round}");
    }
}

#[tokio::test]
async fn a_paid_tier_binds_on_issued_tokens_within_a_second() {
    const USERS: usize = 3;
    const EACH: usize = 100;
    let (sandbox, stripe) = with_stripe(2, &[]).await;
    let sandbox = std::sync::Arc::new(sandbox);
    let mut actors = JoinSet::new();
    for actor in 0..USERS {
        let (user, id) = subscriber(&sandbox, &stripe, "basic").await;
        until_tier(sandbox.edge(), &user.token, "basic").await;
        let (sandbox, stripe) = (sandbox.clone(), stripe.clone());
        actors.spawn(async move {
            let mut times = Vec::new();
            for round in 0..EACH {
                let tier = ["premium", "enterprise", "basic"][round % 3];
                stripe.put_on(&id, tier);
                let (event, edge) = (stripe.updated(&id), &sandbox.edges[(actor + round) % 2]);
                let sent = Instant::now();
                event.send(edge).await.expect("an answer").must_be(200);
                for edge in &sandbox.edges {
                    while tier_seen(edge, &user.token).await != tier {
                        assert!(sent.elapsed() < Duration::from_secs(10), "never enforced");
                        // Not so often that the asking is what takes long.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                times.push(sent.elapsed());
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(done) = actors.join_next().await {
        times.extend(done.expect("an actor"));
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "from an event until both edges enforce it: {} events, p50 {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(at(99) <= Duration::from_secs(1), "{:?}", at(99));
}

/// Users with a subscription each, whose events are delivered as Stripe does it while something else goes on.
async fn deliver_to(
    sandbox: &Sandbox,
    stripe: &FakeStripe,
    all: &[(User, String)],
    round: usize,
) -> JoinSet<()> {
    let mut deliveries = JoinSet::new();
    for (place, (_, id)) in all.iter().enumerate() {
        stripe.put_on(id, ["premium", "enterprise", "basic"][round % 3]);
        let (event, edge) = (stripe.updated(id), sandbox.edges[place % sandbox.edges.len()].clone());
        deliveries.spawn(async move { event.deliver(&edge).await });
    }
    deliveries
}

#[tokio::test]
async fn no_event_is_lost_wherever_a_service_dies() {
    let (mut sandbox, stripe) = with_stripe(2, &[]).await;
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(subscriber(&sandbox, &stripe, "basic").await);
    }
    for round in 0..6 {
        let mut deliveries = deliver_to(&sandbox, &stripe, &all, round).await;
        // Somewhere on the way: at Stripe's answer, in the transaction, before the outbox is sent, at identity-svc.
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        let place = round % 2;
        sandbox.subscription_processes[place].kill();
        sandbox.identity_processes[place].kill();
        sandbox.restart_subscription(place);
        sandbox.restart_identity(place).await;
        while let Some(delivered) = deliveries.join_next().await {
            delivered.expect("delivered");
        }
        let tier = ["premium", "enterprise", "basic"][round % 3];
        for (user, _) in &all {
            for edge in &sandbox.edges {
                until("the tier is enforced everywhere", async || {
                    let echo = [("x-stub-echo", "1")];
                    let path = "/api/v1/personas/instances";
                    let reply = edge.try_send(Method::GET, path, Some(&user.token), &echo, None).await;
                    let expected: Value = json!(["x-user-tier", tier]);
                    reply.is_some_and(|reply| {
                        reply.body["headers"].as_array().is_some_and(|all| all.contains(&expected))
                    })
                })
                .await;
            }
        }
        assert_eq!(count(&sandbox, "SELECT COUNT(*) FROM tier_outbox").await, 0, "round {round}");
    }
}
