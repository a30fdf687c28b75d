use std::time::Duration;

use chrono::TimeDelta;
use contract::Outcome;
use contract::subscription::usage_service_server::UsageService;
use contract::subscription::{
    CheckQuotaRequest, CommitRequest, CreateSubscriptionRequest, ListUsageDaysRequest, ReleaseRequest,
    ReserveRequest, UpdateSubscriptionRequest,
};
use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tonic::Request;

use super::usage::record;
use super::{administrator, new_user, outcome, refusal, service};
use crate::rpc::Usage;
use crate::service::Service;
use crate::usage::sweep;
use crate::{administration, subscriptions};
use chassis::clock::now;
use chassis::mysql::{Lane, failed};

pub async fn reserve(service: &Service, user: &str, resource: &str, key: &str) -> Outcome<String> {
    let request = ReserveRequest {
        user_id: user.to_owned(),
        resource: resource.to_owned(),
        idempotency_key: key.to_owned(),
        ttl_seconds: 60,
    };
    outcome(Usage(service.clone()).reserve(Request::new(request)).await).map(|answer| answer.repeated)
}

pub async fn commit(service: &Service, user: &str, key: &str) -> Outcome<()> {
    let request = CommitRequest { user_id: user.to_owned(), idempotency_key: key.to_owned() };
    outcome(Usage(service.clone()).commit(Request::new(request)).await).map(drop)
}

pub async fn release(service: &Service, user: &str, key: &str) -> Outcome<()> {
    let request = ReleaseRequest { user_id: user.to_owned(), idempotency_key: key.to_owned() };
    outcome(Usage(service.clone()).release(Request::new(request)).await).map(drop)
}

async fn make(service: &Service, user: &str, resource: &str, keys: impl Iterator<Item = String>) {
    for key in keys {
        reserve(service, user, resource, &key).await.expect("reserved");
        commit(service, user, &key).await.expect("committed");
    }
}

/// Limit and used. The history says the same of today, once there is one.
async fn quota(service: &Service, user: &str, resource: &str) -> (i64, i64) {
    let request = CheckQuotaRequest { user_id: user.to_owned(), resource: resource.to_owned() };
    let quota = outcome(Usage(service.clone()).check_quota(Request::new(request)).await).expect("a check");
    let request = ListUsageDaysRequest {
        actor: administrator(),
        user_id: user.to_owned(),
        ..ListUsageDaysRequest::default()
    };
    let days = outcome(Usage(service.clone()).list_usage_days(Request::new(request)).await).expect("days");
    let today = days.days.last().expect("today");
    assert_eq!(if resource == "content" { today.content } else { today.personas }, quota.used, "{resource}");
    (quota.limit, quota.used)
}

/// A subscription that begins now.
pub async fn buy(service: &Service, user: &str, tier: &str) {
    let request = CreateSubscriptionRequest {
        actor: administrator(),
        user_id: user.to_owned(),
        tier: tier.to_owned(),
        ..Default::default()
    };
    administration::create(service, request).await.expect("made");
}

/// The same subscription with another tier.
async fn put_on(service: &Service, user: &str, tier: &str) {
    let request = UpdateSubscriptionRequest {
        actor: administrator(),
        user_id: user.to_owned(),
        tier: Some(tier.to_owned()),
        ..Default::default()
    };
    administration::update(service, request).await.expect("changed");
}

#[sqlx::test(migrations = false)]
async fn what_was_counted_for_life_outlasts_a_tier_that_counts_by_the_month(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    let keys = |name: &'static str, count: usize| (0..count).map(move |n| format!("{name} {n}"));
    make(&service, &user, "content", keys("free", 3)).await;
    assert_eq!(quota(&service, &user, "content").await, (10, 3));
    put_on(&service, &user, "basic").await;
    assert_eq!(quota(&service, &user, "content").await, (100, 0), "the month begins with nothing");
    make(&service, &user, "content", keys("basic", 4)).await;
    record(&service, &user, "content", 1, "recorded").await.expect("counted");
    assert_eq!(quota(&service, &user, "content").await, (100, 5));
    put_on(&service, &user, "free").await;
    assert_eq!(quota(&service, &user, "content").await, (10, 8), "three before and five of the month");
    make(&service, &user, "content", keys("free again", 2)).await;
    let refused = reserve(&service, &user, "content", "one too many").await.expect_err("nothing left");
    assert_eq!(refused.facts()["used"], "10");
    put_on(&service, &user, "basic").await;
    assert_eq!(quota(&service, &user, "content").await, (100, 5), "the month goes on");
    make(&service, &user, "content", keys("basic again", 1)).await;
    assert_eq!(quota(&service, &user, "content").await, (100, 6));
    buy(&service, &user, "premium").await;
    assert_eq!(quota(&service, &user, "content").await, (1000, 0), "what is bought anew begins a month");
    make(&service, &user, "content", keys("premium", 1)).await;
    assert_eq!(quota(&service, &user, "content").await, (1000, 1));
    put_on(&service, &user, "enterprise").await;
    assert_eq!(quota(&service, &user, "content").await, (-1, 12));
}

#[sqlx::test(migrations = false)]
async fn a_reservation_is_admitted_by_what_counts_at_this_moment(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let yesterday = now() - TimeDelta::days(1);
    for over in [
        "status = 'active', cancelled_at = ?, end_date = ?",
        "status = 'past_due', cancelled_at = NULL, end_date = GREATEST(?, ?)",
        "status = 'trialing', cancelled_at = ?, trial_ends_at = ?",
        "status = 'canceled', cancelled_at = ?, end_date = ?",
    ] {
        let user = new_user(&service).await;
        buy(&service, &user, "basic").await;
        make(&service, &user, "personas", (0..2).map(|n| n.to_string())).await;
        sqlx::query(AssertSqlSafe(format!("UPDATE subscriptions SET {over} WHERE user_id = ?")))
            .bind(yesterday)
            .bind(yesterday)
            .bind(&user)
            .execute(&service.pool)
            .await
            .expect("over");
        let refused = reserve(&service, &user, "personas", "more").await.expect_err(over);
        assert_eq!(refused.facts()["limit"], "1", "{over}");
        sqlx::query("UPDATE subscriptions SET status = 'active', cancelled_at = NULL")
            .execute(&service.pool)
            .await
            .expect("it runs");
        reserve(&service, &user, "personas", "more").await.expect("it runs again");
    }
}

#[sqlx::test(migrations = false)]
async fn the_turn_of_a_month_frees_what_counts_by_the_month_alone(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    buy(&service, &user, "basic").await;
    make(&service, &user, "content", std::iter::once("first".to_owned())).await;
    make(&service, &user, "personas", (0..5).map(|n| n.to_string())).await;
    sqlx::query("UPDATE usage_counters SET used = 100, month_used = 100 WHERE resource = 'content'")
        .execute(&service.pool)
        .await
        .expect("used up");
    assert_eq!(refusal(reserve(&service, &user, "content", "more").await).0, "SUB002");
    for (turn, key) in [("with nothing left", "more"), ("with much left", "even more")] {
        // Two months later.
        sqlx::query(
            "UPDATE subscriptions JOIN usage_counters USING (user_id)
             SET start_date = start_date - INTERVAL 2 MONTH, period_start = period_start - INTERVAL 2 MONTH,
                 period_end = period_end - INTERVAL 2 MONTH",
        )
        .execute(&service.pool)
        .await
        .expect("two months later");
        reserve(&service, &user, "content", key).await.expect(turn);
        commit(&service, &user, key).await.expect("committed");
        assert_eq!(quota(&service, &user, "content").await, (100, 1), "{turn}");
    }
    assert_eq!(refusal(reserve(&service, &user, "personas", "more personas").await).0, "SUB002");
}

#[sqlx::test(migrations = false)]
async fn a_change_of_the_subscription_holds_up_no_reservation_and_a_full_counter_no_refusal(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    buy(&service, &user, "basic").await;
    make(&service, &user, "personas", (0..4).map(|n| n.to_string())).await;
    let mut changing = service.pool.begin().await.expect("a transaction");
    subscriptions::lock(&mut changing, &user).await.expect("locked");
    let last = reserve(&service, &user, "personas", "last");
    tokio::time::timeout(Duration::from_secs(4), last).await.expect("no wait").expect("reserved");
    drop(changing);
    let mut counting = service.pool.begin().await.expect("a transaction");
    sqlx::query("SELECT used FROM usage_counters FOR UPDATE").execute(&mut *counting).await.expect("locked");
    let refused = reserve(&service, &user, "personas", "more");
    let refused = tokio::time::timeout(Duration::from_secs(4), refused).await.expect("no wait");
    assert_eq!(refusal(refused).0, "SUB002");
}

/// What counters, reservations and the history say of a user's content.
async fn sums(service: &Service, user: &str) -> ([i64; 2], [i64; 4]) {
    let of = async |state: &str| -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM reservations WHERE user_id = ? AND state = ?")
            .bind(user)
            .bind(state)
            .fetch_one(&service.pool)
            .await
            .expect("a count")
    };
    let (reserved, used, month, day): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT c.reserved, c.used, c.month_used, d.used FROM usage_counters c JOIN usage_days d USING (user_id, resource)
         WHERE user_id = ? AND resource = 'content'",
    )
    .bind(user)
    .fetch_one(&service.pool)
    .await
    .expect("a counter");
    ([of("reserved").await, of("committed").await], [reserved, used, month, day])
}

#[sqlx::test(migrations = false)]
async fn counters_and_history_are_the_sum_of_reservations_however_they_end_at_once(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    const LIMIT: i64 = 100;
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    buy(&service, &user, "basic").await;
    for round in 0..3 {
        let one = async |n: usize| {
            let key = format!("{round} {n}");
            let (first, second) = tokio::join!(
                reserve(&service, &user, "content", &key),
                reserve(&service, &user, "content", &key)
            );
            if let (Err(first), Err(second)) = (&first, &second) {
                assert_eq!((first.code().name(), second.code().name()), ("SUB002", "SUB002"));
                return;
            }
            let (one, other) = match n % 4 {
                0 => tokio::join!(commit(&service, &user, &key), commit(&service, &user, &key)),
                1 => tokio::join!(release(&service, &user, &key), release(&service, &user, &key)),
                2 => tokio::join!(commit(&service, &user, &key), release(&service, &user, &key)),
                _ => (Ok(()), Ok(())),
            };
            one.and(other).expect("ended");
        };
        join_all((0..60).map(one)).await;
        let ([reserved, committed], counted) = sums(&service, &user).await;
        assert_eq!(counted, [reserved, committed, committed, committed], "round {round}");
        assert!(reserved + committed <= LIMIT, "{reserved} + {committed}");
        sqlx::query("UPDATE reservations SET expires_at = ? WHERE state = 'reserved'")
            .bind(now() - TimeDelta::seconds(1))
            .execute(&service.pool)
            .await
            .expect("expired");
        sweep(&service.pool).await.expect("swept");
        assert_eq!(sums(&service, &user).await.1[0], 0, "what has expired is free");
    }
}

/// How often transactions of this name were the victims of others.
fn repeated(name: &str) -> u64 {
    let families = prometheus::gather();
    let family = families.iter().find(|family| family.name() == "db_transaction_repeated_total");
    let counters = family.map(|family| family.get_metric()).unwrap_or_default();
    let is_it =
        |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|label| label.value() == name);
    counters.iter().filter(is_it).map(|metric| metric.get_counter().get_value() as u64).sum()
}

#[sqlx::test(migrations = false)]
async fn what_has_expired_is_released_once_however_many_sweep_at_once_and_none_is_a_victim(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let mut users = Vec::new();
    for _ in 0..40 {
        users.push(new_user(&service).await);
    }
    let before = repeated("expire_reservations");
    for round in 0..10 {
        for user in &users {
            // Two counters of each, in another order each time.
            for resource in if round % 2 == 0 { ["personas", "content"] } else { ["content", "personas"] } {
                reserve(&service, user, resource, &format!("{resource}-{round}")).await.expect("a place");
            }
        }
        sqlx::query("UPDATE reservations SET expires_at = ? - INTERVAL CRC32(idempotency_key) % 1000 SECOND WHERE state = 'reserved'")
            .bind(now() - TimeDelta::seconds(1))
            .execute(&service.pool)
            .await
            .expect("expired");
        let sweeps = join_all((0..4).map(|_| sweep(&service.pool))).await;
        sweeps.into_iter().collect::<Result<Vec<()>, _>>().expect("swept");
        let left: (i64, i64) = sqlx::query_as(
            "SELECT (SELECT CAST(SUM(reserved) AS SIGNED) FROM usage_counters),
                    (SELECT COUNT(*) FROM reservations WHERE state = 'reserved')",
        )
        .fetch_one(&service.pool)
        .await
        .expect("what is left");
        assert_eq!(left, (0, 0), "round {round}");
    }
    assert_eq!(repeated("expire_reservations"), before, "no sweep was the victim of another");
}

/// SELECT, INSERT, UPDATE, BEGIN and COMMIT that a connection has run.
async fn statements(lane: &Lane) -> [i64; 5] {
    lane.statement("statements", (), |connection, ()| {
        Box::pin(async move {
            let rows: Vec<(String, String)> = sqlx::query_as("SHOW SESSION STATUS LIKE 'Com_%'")
                .fetch_all(connection)
                .await
                .map_err(failed)?;
            let sum = |names: &[&str]| {
                let counts = rows.iter().filter(|(name, _)| names.contains(&name.as_str()));
                counts.map(|(_, count)| count.parse::<i64>().expect("a number")).sum()
            };
            Ok([
                sum(&["Com_select"]),
                sum(&["Com_insert", "Com_insert_select"]),
                sum(&["Com_update", "Com_update_multi"]),
                sum(&["Com_begin"]),
                sum(&["Com_commit"]),
            ])
        })
    })
    .await
    .expect("the statements")
}

#[sqlx::test(migrations = false)]
async fn reserving_is_two_statements_and_committing_one(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (mut service, _) = service(options, database.clone()).await;
    service.lane = Lane::of(database, 1);
    for tier in ["free", "basic"] {
        let user = new_user(&service).await;
        buy(&service, &user, tier).await;
        make(&service, &user, "content", ["first".to_owned(), "second".to_owned()].into_iter()).await;
        let before = statements(&service.lane).await;
        reserve(&service, &user, "content", "key").await.expect("reserved");
        let between = statements(&service.lane).await;
        commit(&service, &user, "key").await.expect("committed");
        let after = statements(&service.lane).await;
        let ran = |from: [i64; 5], to: [i64; 5]| std::array::from_fn(|n| to[n] - from[n]);
        assert_eq!(ran(before, between), [0, 1, 1, 1, 1], "{tier}");
        assert_eq!(ran(between, after), [0, 0, 1, 0, 0], "{tier}");
    }
}
