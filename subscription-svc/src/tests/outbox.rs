use std::sync::atomic::Ordering;
use std::time::Duration;

use contract::subscription::{CreateSubscriptionRequest, UpdateSubscriptionRequest};
use contract::{ErrorCode, Outcome};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

use super::{administrator, count, new_user, service};
use crate::service::Service;
use crate::{administration, sweep};

async fn put_on(service: &Service, user_id: &str, tier: &str) -> Outcome<()> {
    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: user_id.to_owned(),
        tier: tier.to_owned(),
        ..Default::default()
    };
    administration::create(service, request).await.map(drop)
}

/// Waits for what is bound to happen; the test fails when it does not.
async fn until_sent(service: &Service) {
    let empty = async {
        while count(service, "tier_outbox").await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), empty).await.expect("the outbox is emptied");
}

#[sqlx::test(migrations = false)]
async fn a_tier_change_reaches_identity_in_order(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    for tier in ["premium", "premium", "basic", "enterprise", "free"] {
        put_on(&service, &user, tier).await.expect("a change");
    }
    fake.away.store(true, Ordering::SeqCst);
    service.relay.send_all().await.expect_err("identity-svc is away");
    fake.away.store(false, Ordering::SeqCst);
    service.relay.send_all().await.expect("sent");
    // What does not change is not told. The stand-in stores nothing but rising revisions.
    assert_eq!(fake.tiers_of(&user), ["premium", "basic", "enterprise", "free"]);
    assert_eq!(fake.calls.lock().expect("no panic").len(), 4);
    assert_eq!(count(&service, "tier_outbox").await, 0);
}

#[sqlx::test(migrations = false)]
async fn several_relays_end_with_the_last_tier(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, fake) = service(options, database).await;
    let users = [new_user(&service).await, new_user(&service).await];
    let relays: Vec<_> = (0..3).map(|_| tokio::spawn(service.relay.clone().run())).collect();
    for round in 0..10 {
        let (one, other) = if round % 2 == 0 { ("basic", "premium") } else { ("premium", "basic") };
        let changes = tokio::join!(put_on(&service, &users[0], one), put_on(&service, &users[1], other));
        changes.0.and(changes.1).expect("changes");
    }
    until_sent(&service).await;
    relays.iter().for_each(|relay| relay.abort());
    for (user, last) in users.iter().zip(["premium", "basic"]) {
        assert_eq!(fake.tiers_of(user).last().map(String::as_str), Some(last));
    }
}

#[sqlx::test(migrations = false)]
async fn a_tier_change_waits_for_identity_and_a_lost_answer_does_no_harm(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    put_on(&service, &user, "premium").await.expect("a change");
    fake.away.store(true, Ordering::SeqCst);
    let away = service.relay.send_all().await.map_err(|failure| failure.code());
    assert_eq!(away, Err(ErrorCode::Unavailable));
    assert_eq!(count(&service, "tier_outbox").await, 1);

    fake.away.store(false, Ordering::SeqCst);
    fake.loses_an_answer.store(true, Ordering::SeqCst);
    let relay = tokio::spawn(service.relay.clone().run());
    until_sent(&service).await;
    relay.abort();
    assert_eq!(fake.tiers_of(&user), ["premium"]);
    assert_eq!(fake.calls.lock().expect("no panic").len(), 2);
}

#[sqlx::test(migrations = false)]
async fn a_refused_change_holds_back_no_other_and_a_deleted_user_is_forgotten(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, fake) = service(options, database).await;
    let [refused, deleted, other] =
        [new_user(&service).await, new_user(&service).await, new_user(&service).await];
    {
        let mut refuses = fake.refuses.lock().expect("no panic");
        refuses.insert(refused.clone(), ErrorCode::Internal);
        refuses.insert(deleted.clone(), ErrorCode::UserNotFound);
    }
    for user in [&refused, &deleted, &other] {
        put_on(&service, user, "basic").await.expect("a change");
    }
    let sent = service.relay.send_all().await.map_err(|failure| failure.code());
    assert_eq!(sent, Err(ErrorCode::Internal));
    assert_eq!(fake.tiers_of(&other), ["basic"]);
    assert_eq!(count(&service, "tier_outbox").await, 1);
}

#[sqlx::test(migrations = false)]
async fn a_trial_that_is_over_makes_the_user_free_for_identity_too(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: user.clone(),
        tier: "premium".to_owned(),
        trial_days: Some(1),
        ..Default::default()
    };
    administration::create(&service, request).await.expect("a trial");
    sweep::once(&service).await.expect("a sweep");
    service.relay.send_all().await.expect("sent");
    assert_eq!(fake.tiers_of(&user), ["premium"]);

    sqlx::query("UPDATE subscriptions SET trial_ends_at = '2020-01-01 00:00:00'")
        .execute(&service.pool)
        .await
        .expect("the trial is over");
    let sweeps = tokio::join!(sweep::once(&service), sweep::once(&service));
    sweeps.0.and(sweeps.1).expect("two sweeps at once");
    service.relay.send_all().await.expect("sent");
    assert_eq!(fake.tiers_of(&user), ["premium", "free"]);
}

#[sqlx::test(migrations = false)]
async fn a_change_that_leaves_the_tier_tells_nobody(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    let request = UpdateSubscriptionRequest {
        actor: administrator(),
        user_id: user,
        payment_method_id: Some("pm_1".to_owned()),
        ..Default::default()
    };
    let changed = administration::update(&service, request).await.expect("a change");
    assert_eq!(changed.payment_method.as_deref(), Some("pm_1"));
    assert_eq!(count(&service, "tier_outbox").await, 0);
}
