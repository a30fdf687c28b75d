use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use contract::Tier;
use contract::subscription::subscription_service_server::SubscriptionService;
use contract::subscription::{
    CancelSubscriptionRequest, CreateSubscriptionRequest, GetSubscriptionRequest, ListSubscriptionsRequest,
    ListTiersRequest, UpdateSubscriptionRequest,
};
use futures_util::future::join_all;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tonic::Request;
use uuid::Uuid;

use super::{actor, administrator, ahead, count, new_user, outcome, refusal, service};
use crate::rpc::Subscriptions;
use crate::subscriptions::{self, Status};
use crate::{forgetting, sweep};
use chassis::clock::now;

#[sqlx::test(migrations = false)]
async fn a_new_users_subscription_is_free_and_active(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    let first = subscriptions::find(&service.pool, &user).await.expect("a subscription");
    assert_eq!((first.tier, first.status), (Tier::Free, Status::Active));
    assert_eq!((first.end_date, first.cancelled_at), (None, None));
    let again = subscriptions::find(&service.pool, &user).await.expect("the same");
    assert_eq!(again, first);
    let nobody = subscriptions::find(&service.pool, &Uuid::now_v7().to_string()).await;
    assert_eq!(refusal(nobody).0, "USER001");
}

#[sqlx::test(migrations = false)]
async fn two_first_reads_at_once_make_one_subscription(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    for round in 1..=20 {
        let user = new_user(&service).await;
        let reads = join_all((0..6).map(|_| subscriptions::find(&service.pool, &user))).await;
        let ids: Vec<String> = reads.into_iter().map(|read| read.expect("a subscription").id).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(count(&service, "subscriptions").await, round);
    }
}

#[sqlx::test(migrations = false)]
async fn only_an_administrator_may_list(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    for _ in 0..3 {
        let user = new_user(&service).await;
        subscriptions::find(&service.pool, &user).await.expect("a subscription");
    }
    let list = |actor| {
        let request = ListSubscriptionsRequest { actor, page_size: 2, ..Default::default() };
        rpc.list_subscriptions(Request::new(request))
    };
    for refused in [
        None,
        actor("user", &[]),
        actor("moderator", &["admin.users"]),
        actor("Admin", &[]),
        actor("", &[""]),
    ] {
        assert_eq!(refusal(outcome(list(refused).await)).0, "AUTH004");
    }
    for admitted in [administrator(), actor("user", &["admin.subscriptions"]), actor("user", &["*"])] {
        let page = outcome(list(admitted).await).expect("a page");
        assert_eq!((page.total_count, page.page, page.subscriptions.len()), (3, 1, 2));
    }
}

#[sqlx::test(migrations = false)]
async fn only_an_administrator_may_change_somebody_elses_subscription(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let user = new_user(&service).await;
    let create = |actor| {
        rpc.create_subscription(Request::new(CreateSubscriptionRequest {
            actor,
            user_id: user.clone(),
            tier: "basic".to_owned(),
            ..Default::default()
        }))
    };
    let update = |actor| {
        rpc.update_subscription(Request::new(UpdateSubscriptionRequest {
            actor,
            user_id: user.clone(),
            status: Some("canceled".to_owned()),
            ..Default::default()
        }))
    };
    for refused in [None, actor("user", &[]), actor("moderator", &["admin.users"])] {
        assert_eq!(refusal(outcome(create(refused.clone()).await)).0, "AUTH004");
        assert_eq!(refusal(outcome(update(refused).await)).0, "AUTH004");
    }
    for admitted in [administrator(), actor("user", &["admin.subscriptions"]), actor("user", &["*"])] {
        outcome(create(admitted.clone()).await).expect("made");
        let changed = outcome(update(admitted).await).expect("changed").subscription;
        let changed = changed.expect("a subscription");
        assert_eq!(changed.status, "canceled");
        assert!(changed.cancelled_at.is_some() && changed.end_date.is_some());
    }
}

#[sqlx::test(migrations = false)]
async fn nothing_is_changed_that_was_not_approved_and_every_field_is_told(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, identity) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let user = new_user(&service).await;
    let admin = administrator();
    let trial = CreateSubscriptionRequest {
        actor: admin.clone(),
        user_id: user.clone(),
        tier: "basic".to_owned(),
        payment_method_id: Some("pm_1".to_owned()),
        trial_days: Some(7),
    };
    let update = UpdateSubscriptionRequest {
        actor: admin.clone(),
        user_id: user.clone(),
        tier: Some("premium".to_owned()),
        payment_method_id: Some("pm_2".to_owned()),
        status: Some("active".to_owned()),
    };
    identity.away.store(true, Ordering::SeqCst);
    let refused = outcome(rpc.create_subscription(Request::new(trial.clone())).await);
    assert_eq!(refusal(refused).0, "GW001");
    assert_eq!(count(&service, "subscriptions").await, 0);
    identity.away.store(false, Ordering::SeqCst);
    let unknown = UpdateSubscriptionRequest { status: Some("rich".to_owned()), ..update.clone() };
    assert_eq!(refusal(outcome(rpc.update_subscription(Request::new(unknown)).await)).0, "REQ001");
    assert!(identity.approved.lock().expect("no panic").is_empty(), "what cannot be is not approved");

    outcome(rpc.create_subscription(Request::new(trial)).await).expect("made");
    outcome(rpc.update_subscription(Request::new(update)).await).expect("changed");
    let approved = identity.approved.lock().expect("no panic").clone();
    let fields = |at: usize| -> Vec<(String, String)> {
        approved[at].changes.iter().map(|change| (change.field.clone(), change.value.clone())).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    };
    let first =
        [("tier", "basic"), ("status", "trialing"), ("trial_days", "7"), ("payment_method_id", "pm_1")];
    assert_eq!(fields(0), pairs(&first));
    let second = [("tier", "premium"), ("status", "active"), ("payment_method_id", "pm_2")];
    assert_eq!(fields(1), pairs(&second));
    let device = approved[0].device.clone().expect("a device");
    assert_eq!((device.ip_address.as_str(), device.request_id.as_str()), ("192.0.2.1", "a-request"));
    assert_eq!(approved[0].actor_id, admin.expect("an actor").user_id);
}

#[sqlx::test(migrations = false)]
async fn a_payment_method_has_no_control_characters(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let user = new_user(&service).await;
    for method in ["pm\u{0}", "pm\n", "\u{85}", &"x".repeat(101)] {
        let request = UpdateSubscriptionRequest {
            actor: administrator(),
            user_id: user.clone(),
            payment_method_id: Some(method.to_owned()),
            ..Default::default()
        };
        let refused = refusal(outcome(rpc.update_subscription(Request::new(request)).await));
        assert_eq!(refused, ("REQ001", vec!["payment_method_id".to_owned()]));
    }
}

#[sqlx::test(migrations = false)]
async fn a_list_is_filtered_and_its_filters_are_checked(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let (free, basic) = (new_user(&service).await, new_user(&service).await);
    subscriptions::find(&service.pool, &free).await.expect("a subscription");
    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: basic.clone(),
        tier: "basic".to_owned(),
        ..Default::default()
    };
    outcome(rpc.create_subscription(Request::new(request)).await).expect("made");
    let list = |page, page_size, tier: &str, status: &str| {
        rpc.list_subscriptions(Request::new(ListSubscriptionsRequest {
            actor: administrator(),
            page,
            page_size,
            tier: tier.to_owned(),
            status: status.to_owned(),
        }))
    };
    let found = outcome(list(0, 0, "basic", "active").await).expect("a page");
    assert_eq!((found.total_count, found.page, found.page_size), (1, 1, 20));
    assert_eq!(found.subscriptions[0].user_id, basic);
    let none = outcome(list(1, 100, "", "canceled").await).expect("a page");
    assert_eq!((none.total_count, none.subscriptions.len()), (0, 0));
    for (page, size, tier, status, field) in [
        (-1, 1, "", "", "page"),
        (1, 101, "", "", "page_size"),
        (1, -1, "", "", "page_size"),
        (1, 1, "gold", "", "tier"),
        (1, 1, "", "cancelled", "status"),
    ] {
        let refused = refusal(outcome(list(page, size, tier, status).await));
        assert_eq!(refused, ("REQ001", vec![field.to_owned()]));
    }
}

#[sqlx::test(migrations = false)]
async fn an_administrator_puts_a_user_on_a_tier(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let user = new_user(&service).await;
    let create = |user_id: &str, tier: &str, trial_days| {
        rpc.create_subscription(Request::new(CreateSubscriptionRequest {
            actor: administrator(),
            user_id: user_id.to_owned(),
            tier: tier.to_owned(),
            payment_method_id: None,
            trial_days,
        }))
    };
    let made = outcome(create(&user, "premium", Some(14)).await).expect("made");
    let made = made.subscription.expect("a subscription");
    assert_eq!((made.tier.as_str(), made.status.as_str()), ("premium", "trialing"));
    let end = made.trial_ends_at.and_then(contract::from_timestamp).expect("an end");
    assert_eq!((end - now()).num_hours(), 14 * 24 - 1);

    let nobody = Uuid::now_v7().to_string();
    assert_eq!(refusal(outcome(create(&nobody, "basic", None).await)).0, "USER001");
    let shouted = user.to_uppercase();
    for (user_id, tier, days, field) in [
        (shouted.as_str(), "basic", None, "user_id"),
        ("", "basic", None, "user_id"),
        (user.as_str(), "", None, "tier"),
        (user.as_str(), "basic", Some(366), "trial_days"),
        (user.as_str(), "basic", Some(-1), "trial_days"),
    ] {
        let refused = refusal(outcome(create(user_id, tier, days).await));
        assert_eq!(refused, ("REQ001", vec![field.to_owned()]));
    }
    let unknown = UpdateSubscriptionRequest {
        actor: administrator(),
        user_id: nobody,
        tier: Some("basic".to_owned()),
        ..Default::default()
    };
    let refused = outcome(rpc.update_subscription(Request::new(unknown)).await);
    assert_eq!(refusal(refused).0, "SUB001");
    assert_eq!(count(&service, "subscriptions").await, 1);
}

#[sqlx::test(migrations = false)]
async fn what_is_paid_for_is_cancelled_at_its_end_and_twice_is_once(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let user = new_user(&service).await;
    let of_user = |user_id: &String| Request::new(CancelSubscriptionRequest { user_id: user_id.clone() });
    let free = outcome(rpc.cancel_subscription(of_user(&user)).await).expect("nothing to cancel");
    let free = free.subscription.expect("a subscription");
    assert_eq!((free.status.as_str(), free.cancelled_at), ("active", None));

    let end: DateTime<Utc> = now() + chrono::Duration::days(10);
    sqlx::query("UPDATE subscriptions SET tier = 'premium', end_date = ? WHERE user_id = ?")
        .bind(end)
        .bind(&user)
        .execute(&service.pool)
        .await
        .expect("paid");
    let once = outcome(rpc.cancel_subscription(of_user(&user)).await).expect("cancelled");
    let subscription = once.subscription.as_ref().expect("a subscription");
    assert_eq!(subscription.status, "active");
    assert_eq!(subscription.end_date.and_then(contract::from_timestamp), Some(end));
    assert!(subscription.cancelled_at.is_some());
    assert_eq!(count(&service, "tier_outbox").await, 0);
    let twice = outcome(rpc.cancel_subscription(of_user(&user)).await).expect("the same");
    assert_eq!(twice, once);
    let read = Request::new(GetSubscriptionRequest { user_id: user });
    assert_eq!(outcome(rpc.get_subscription(read).await).expect("the same").subscription, once.subscription);
}

#[sqlx::test(migrations = false)]
async fn a_deleted_user_takes_everything_along(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    subscriptions::find(&service.pool, &user).await.expect("a subscription");
    super::usage::record(&service, &user, "personas", 1, "a key").await.expect_err("a space in the key");
    super::usage::record(&service, &user, "personas", 1, "a-key").await.expect("counted");
    sqlx::query("DELETE FROM users").execute(&service.pool).await.expect("deleted");
    for table in ["subscriptions", "usage_counters", "usage_records"] {
        assert_eq!(count(&service, table).await, 0, "{table}");
    }
}

#[sqlx::test(migrations = false)]
async fn the_tiers_are_those_of_the_contract(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let rpc = Subscriptions(service.clone());
    let tiers = outcome(rpc.list_tiers(Request::new(ListTiersRequest {})).await).expect("tiers").tiers;
    let row = |tier: &contract::subscription::Tier| {
        let prices = (tier.price_monthly_cents, tier.price_yearly_cents);
        (tier.id.clone(), prices, [tier.max_personas, tier.max_projects, tier.max_content_items])
    };
    let rows: Vec<_> = tiers.iter().map(row).collect();
    let expected = [
        ("free".to_owned(), (0, 0), [1, 3, 10]),
        ("basic".to_owned(), (999, 9_999), [5, 10, 100]),
        ("premium".to_owned(), (2_999, 29_999), [20, 50, 1000]),
        ("enterprise".to_owned(), (9_999, 99_999), [-1, -1, -1]),
    ];
    assert_eq!(rows, expected);
    assert!(tiers.iter().all(|tier| tier.is_active && !tier.features.is_empty()));
    for tier in Tier::ALL {
        let sold: i64 = sqlx::query_scalar("SELECT requests_per_minute FROM tiers WHERE id = ?")
            .bind(tier.name())
            .fetch_one(&service.pool)
            .await
            .expect("a limit");
        assert_eq!(sold, tier.requests_per_minute().map_or(-1, i64::from), "the edge limits to what is sold");
    }
}

#[sqlx::test(migrations = false)]
async fn a_replica_whose_clock_is_ahead_ends_no_trial_no_grace_and_nothing_that_is_paid_for(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let service = ahead(service).await;
    let rpc = Subscriptions(service.clone());
    let mut users = Vec::new();
    for (status, has_cancelled) in [("trialing", false), ("past_due", false), ("active", true)] {
        let user = new_user(&service).await;
        subscriptions::find(&service.pool, &user).await.expect("a subscription");
        sqlx::query(
            "UPDATE subscriptions
             SET tier = 'premium', status = ?, trial_ends_at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR,
                 end_date = trial_ends_at, cancelled_at = IF(?, UTC_TIMESTAMP(6), NULL)
             WHERE user_id = ?",
        )
        .bind(status)
        .bind(has_cancelled)
        .bind(&user)
        .execute(&service.pool)
        .await
        .expect("written by another");
        users.push((user, status));
    }
    sweep::once(&service).await.expect("swept");
    for (user, status) in &users {
        subscriptions::lapse(&service, user).await.expect("looked at");
        let request = UpdateSubscriptionRequest {
            actor: administrator(),
            user_id: user.clone(),
            payment_method_id: Some("pm_1".to_owned()),
            ..Default::default()
        };
        let changed = outcome(rpc.update_subscription(Request::new(request)).await).expect("changed");
        assert_eq!(&changed.subscription.expect("a subscription").status, status);
    }
    assert_eq!(count(&service, "tier_outbox").await, 0, "nobody's tier has changed");

    let over = "UPDATE subscriptions SET trial_ends_at = UTC_TIMESTAMP(6), end_date = UTC_TIMESTAMP(6)";
    sqlx::query(over).execute(&service.pool).await.expect("an hour later");
    sweep::once(&service).await.expect("swept");
    let statuses: Vec<String> = sqlx::query_scalar("SELECT status FROM subscriptions ORDER BY status")
        .fetch_all(&service.pool)
        .await
        .expect("rows");
    assert_eq!(statuses, ["canceled", "expired", "expired"]);
    assert_eq!(count(&service, "tier_outbox").await, 3);
}

#[sqlx::test(migrations = false)]
async fn a_replica_whose_clock_is_ahead_forgets_what_is_due_and_nothing_else(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let service = ahead(service).await;
    let user = new_user(&service).await;
    for (key, age) in [("new", 0), ("old", 200)] {
        for insert in [
            "INSERT INTO reservations (user_id, idempotency_key, resource, state, created_at, expires_at)
             VALUES (?, ?, 'content', 'released', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) - INTERVAL ? DAY)",
            "INSERT INTO usage_records (user_id, idempotency_key, recorded_at)
             VALUES (?, ?, UTC_TIMESTAMP(6) - INTERVAL ? DAY)",
            "INSERT INTO idempotent_requests (user_id, idempotency_key, fingerprint, runner, created_at)
             VALUES (?, ?, REPEAT('f', 32), '', UTC_TIMESTAMP(6) - INTERVAL ? DAY)",
            "INSERT INTO stripe_events (id, taken_at) VALUES (CONCAT(?, ?), UTC_TIMESTAMP(6) - INTERVAL ? DAY)",
        ] {
            let row = sqlx::query(insert).bind(&user).bind(key).bind(age).execute(&service.pool);
            row.await.expect("written by another");
        }
    }
    forgetting::once(&service.pool).await.expect("forgotten");
    for table in ["reservations", "usage_records", "idempotent_requests", "stripe_events"] {
        assert_eq!(count(&service, table).await, 1, "{table}");
    }
}
