use std::sync::atomic::Ordering;

use contract::Outcome;
use contract::subscription::usage_service_server::UsageService;
use contract::subscription::{
    CheckQuotaRequest, CheckQuotaResponse, CreateSubscriptionRequest, GetUsageRequest, RecordUsageRequest,
    ReserveRequest,
};
use futures_util::future::join_all;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tonic::Request;
use uuid::Uuid;

use super::{administrator, ahead, count, new_user, outcome, refusal, service};
use crate::administration;
use crate::rpc::Usage;
use crate::service::Service;

pub async fn record(service: &Service, user: &str, resource: &str, delta: i32, key: &str) -> Outcome<()> {
    let request = RecordUsageRequest {
        user_id: user.to_owned(),
        resource: resource.to_owned(),
        delta,
        idempotency_key: key.to_owned(),
    };
    let rpc = Usage(service.clone());
    outcome(rpc.record_usage(Request::new(request)).await).map(drop)
}

async fn check(service: &Service, user: &str, resource: &str) -> Outcome<CheckQuotaResponse> {
    let request = CheckQuotaRequest { user_id: user.to_owned(), resource: resource.to_owned() };
    outcome(Usage(service.clone()).check_quota(Request::new(request)).await)
}

fn quota(has_quota: bool, resource: &str, limit: i64, used: i64, remaining: i64) -> CheckQuotaResponse {
    CheckQuotaResponse { has_quota, resource: resource.to_owned(), limit, used, remaining }
}

#[sqlx::test(migrations = false)]
async fn usage_never_falls_below_zero(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    record(&service, &user, "personas", -1, "first").await.expect("counted");
    let used = check(&service, &user, "personas").await.expect("a check");
    assert_eq!(used, quota(true, "personas", 1, 0, 1));

    let (ups, downs) = (7, 12);
    let changes =
        (0..ups + downs).map(|n| {
            let (service, user) = (&service, &user);
            async move {
                record(service, user, "content", if n < ups { 1 } else { -1 }, &format!("key-{n}")).await
            }
        });
    for outcome in join_all(changes).await {
        outcome.expect("counted");
    }
    for n in 0..3 {
        record(&service, &user, "content", -1, &format!("last-{n}")).await.expect("counted");
        let used = check(&service, &user, "content").await.expect("a check").used;
        assert!((0..=i64::from(ups)).contains(&used), "{used}");
    }
    for n in 0..ups {
        record(&service, &user, "content", -1, &format!("drain-{n}")).await.expect("counted");
    }
    assert_eq!(check(&service, &user, "content").await.expect("a check").used, 0);
}

#[sqlx::test(migrations = false)]
async fn the_same_usage_key_counts_once(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let (user, other) = (new_user(&service).await, new_user(&service).await);
    for round in 1..=10 {
        let key = format!("key-{round}");
        let same = (0..6).map(|_| record(&service, &user, "content", 1, &key));
        for outcome in join_all(same).await {
            outcome.expect("counted or known");
        }
        assert_eq!(check(&service, &user, "content").await.expect("a check").used, round);
    }
    record(&service, &other, "content", 1, "key-1").await.expect("counted");
    assert_eq!(check(&service, &other, "content").await.expect("a check").used, 1);
    assert_eq!(count(&service, "usage_records").await, 11);
}

/// One who pays by the month.
async fn new_user_of_basic(service: &Service) -> String {
    let user = new_user(service).await;
    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: user.clone(),
        tier: "basic".to_owned(),
        ..Default::default()
    };
    administration::create(service, request).await.expect("made");
    user
}

#[sqlx::test(migrations = false)]
async fn what_is_recorded_counts_in_the_month_of_a_paid_tier(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user_of_basic(&service).await;
    let used = async || check(&service, &user, "content").await.expect("a check").used;
    for round in 1..=3 {
        record(&service, &user, "content", 1, &format!("key-{round}")).await.expect("counted");
        assert_eq!(used().await, round);
    }
    // Two months later.
    sqlx::query(
        "UPDATE subscriptions JOIN usage_counters USING (user_id)
         SET start_date = start_date - INTERVAL 2 MONTH, period_start = period_start - INTERVAL 2 MONTH",
    )
    .execute(&service.pool)
    .await
    .expect("two months later");
    assert_eq!(used().await, 0);
    for (key, delta, expected) in [("next-1", -1, 0), ("next-2", 1, 1), ("next-3", 1, 2), ("next-4", -1, 1)] {
        record(&service, &user, "content", delta, key).await.expect("counted");
        assert_eq!(used().await, expected, "{key}");
    }
}

#[sqlx::test(migrations = false)]
async fn no_month_is_over_because_a_replica_is_ahead(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let service = ahead(service).await;
    let user = new_user_of_basic(&service).await;
    let begun = "UPDATE subscriptions SET start_date = UTC_TIMESTAMP(6)";
    sqlx::query(begun).execute(&service.pool).await.expect("written by another");
    for round in 1..=3 {
        record(&service, &user, "content", 1, &format!("key-{round}")).await.expect("counted");
    }
    let same = "SELECT COUNT(*) FROM usage_counters JOIN subscriptions USING (user_id)
                WHERE period_start = start_date AND month_used = 3";
    let same: i64 = sqlx::query_scalar(same).fetch_one(&service.pool).await.expect("a count");
    assert_eq!(same, 1);
    let today = "SELECT COUNT(*) FROM usage_days WHERE day = UTC_DATE()";
    let today: i64 = sqlx::query_scalar(today).fetch_one(&service.pool).await.expect("a count");
    assert_eq!(today, 1);
}

#[sqlx::test(migrations = false)]
async fn different_keys_at_once_all_count(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    for _ in 0..5 {
        let user = new_user(&service).await;
        let keys: Vec<String> = (0..10).map(|n| format!("key-{n}")).collect();
        for outcome in join_all(keys.iter().map(|key| record(&service, &user, "content", 1, key))).await {
            outcome.expect("counted");
        }
        assert_eq!(
            check(&service, &user, "content").await.expect("a check"),
            quota(false, "content", 10, 10, 0)
        );
    }
}

#[sqlx::test(migrations = false)]
async fn a_quota_follows_the_tier_that_counts(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    fake.projects.store(3, Ordering::SeqCst);
    let free = check(&service, &user, "projects").await.expect("a check");
    assert_eq!(free, quota(false, "projects", 3, 3, 0));

    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: user.clone(),
        tier: "enterprise".to_owned(),
        trial_days: Some(1),
        ..Default::default()
    };
    administration::create(&service, request).await.expect("made");
    let unlimited = check(&service, &user, "projects").await.expect("a check");
    assert_eq!(unlimited, quota(true, "projects", -1, 3, -1));

    sqlx::query("UPDATE subscriptions SET trial_ends_at = '2020-01-01 00:00:00'")
        .execute(&service.pool)
        .await
        .expect("the trial is over");
    let over = check(&service, &user, "projects").await.expect("a check");
    assert_eq!(over, quota(false, "projects", 3, 3, 0), "before any sweep");
}

#[sqlx::test(migrations = false)]
async fn first_reservations_at_once_are_all_admitted_up_to_the_limit(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    const LIMIT: usize = 10;
    let (service, _) = service(options, database).await;
    for round in 0..10 {
        let user = new_user(&service).await;
        check(&service, &user, "content").await.expect("a subscription");
        let reserve = |number: usize| {
            let (service, user_id) = (service.clone(), user.clone());
            async move {
                let request = ReserveRequest {
                    user_id,
                    resource: "content".to_owned(),
                    idempotency_key: number.to_string(),
                    ttl_seconds: 60,
                };
                outcome(Usage(service).reserve(Request::new(request)).await).is_ok()
            }
        };
        let admitted = join_all((0..LIMIT + 2).map(reserve)).await;
        let admitted = admitted.into_iter().filter(|admitted| *admitted).count();
        assert_eq!(admitted, LIMIT, "round {round}");
    }
}

#[sqlx::test(migrations = false)]
async fn usage_needs_identity_for_projects_alone(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    fake.projects.store(2, Ordering::SeqCst);
    record(&service, &user, "personas", 1, "key").await.expect("counted");
    let rpc = Usage(service.clone());
    let get = || rpc.get_usage(Request::new(GetUsageRequest { user_id: user.clone() }));
    let usage = outcome(get().await).expect("usage");
    assert_eq!((usage.personas_count, usage.projects_count, usage.content_count), (1, 2, 0));
    assert!(usage.last_updated.is_some());

    fake.away.store(true, Ordering::SeqCst);
    assert_eq!(refusal(outcome(get().await)).0, "GW001");
    assert_eq!(refusal(check(&service, &user, "projects").await).0, "GW001");
    let personas = check(&service, &user, "personas").await.expect("a check");
    assert_eq!(personas, quota(false, "personas", 1, 1, 0));
}

#[sqlx::test(migrations = false)]
async fn what_cannot_be_counted_is_refused_by_field(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    let long = "k".repeat(65);
    for (resource, delta, key, field) in [
        ("projects", 1, "key", "resource"),
        ("workflows", 1, "key", "resource"),
        ("personas", 0, "key", "delta"),
        ("personas", 2, "key", "delta"),
        ("personas", i32::MIN, "key", "delta"),
        ("personas", 1, "", "idempotency_key"),
        ("personas", 1, "key ", "idempotency_key"),
        ("personas", 1, "schlüssel", "idempotency_key"),
        ("personas", 1, long.as_str(), "idempotency_key"),
    ] {
        let refused = refusal(record(&service, &user, resource, delta, key).await);
        assert_eq!(refused, ("REQ001", vec![field.to_owned()]));
    }
    let refused = refusal(check(&service, &user, "workflows").await);
    assert_eq!(refused, ("REQ001", vec!["resource".to_owned()]));
    let nobody = Uuid::now_v7().to_string();
    assert_eq!(refusal(record(&service, &nobody, "content", 1, "key").await).0, "USER001");
    assert_eq!(refusal(check(&service, &nobody, "content").await).0, "USER001");
    assert_eq!(count(&service, "usage_records").await, 0);
}
