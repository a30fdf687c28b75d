use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use chassis::clock::now;
use contract::Outcome;
use contract::subscription::usage_service_server::UsageService;
use contract::subscription::{
    Actor, CommitRequest, CreateSubscriptionRequest, ListUsageDaysRequest, ReleaseRequest,
    ReportUsageRequest, ReserveRequest, UsageDay,
};
use futures_util::future::join_all;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tonic::Request;

use super::usage::record;
use super::{actor, administrator, new_user, outcome, refusal, service};
use crate::administration;
use crate::census::{Census, Numbers};
use crate::rpc::Usage;
use crate::service::Service;

async fn days(service: &Service, actor: Option<Actor>, user: &str) -> Outcome<Vec<UsageDay>> {
    let request = ListUsageDaysRequest { actor, user_id: user.to_owned(), ..Default::default() };
    let answer = Usage(service.clone()).list_usage_days(Request::new(request)).await;
    outcome(answer).map(|answer| answer.days)
}

/// Personas, projects and content of today.
async fn today(service: &Service, user: &str) -> (i64, i64, i64) {
    let days = days(service, administrator(), user).await.expect("days");
    assert_eq!(days.len(), 30);
    let today = days.last().expect("today");
    assert_eq!(today.date, now().date_naive().to_string());
    (today.personas, today.projects, today.content)
}

async fn reserve(service: &Service, user: &str, key: &str) {
    let request = ReserveRequest {
        user_id: user.to_owned(),
        resource: "content".to_owned(),
        idempotency_key: key.to_owned(),
        ttl_seconds: 60,
    };
    outcome(Usage(service.clone()).reserve(Request::new(request)).await).expect("reserved");
}

#[sqlx::test(migrations = false)]
async fn each_write_of_a_counter_is_in_the_history_as_it_is_in_the_counter(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, fake) = service(options, database).await;
    let (user, usage) = (new_user(&service).await, Usage(service.clone()));
    assert_eq!(today(&service, &user).await, (0, 0, 0));
    record(&service, &user, "personas", 1, "one").await.expect("counted");
    fake.projects.store(2, Ordering::SeqCst);
    assert_eq!(today(&service, &user).await, (1, 2, 0));
    record(&service, &user, "personas", -1, "gone").await.expect("counted");

    let keys: Vec<String> = (0..8).map(|n| format!("key {n}")).collect();
    join_all(keys.iter().map(|key| reserve(&service, &user, key))).await;
    assert_eq!(today(&service, &user).await, (0, 2, 0), "what is only reserved is not used");
    let commits = keys.iter().skip(1).map(|key| {
        let commit = CommitRequest { user_id: user.clone(), idempotency_key: key.clone() };
        usage.commit(Request::new(commit))
    });
    join_all(commits).await.into_iter().for_each(|committed| drop(committed.expect("committed")));
    let release = ReleaseRequest { user_id: user.clone(), idempotency_key: keys[0].clone() };
    usage.release(Request::new(release)).await.expect("released");
    assert_eq!(today(&service, &user).await, (0, 2, 7));
    let late = CommitRequest { user_id: user.clone(), idempotency_key: keys[0].clone() };
    usage.commit(Request::new(late)).await.expect("committed after all");
    assert_eq!(today(&service, &user).await, (0, 2, 8));

    let report = ReportUsageRequest { user_id: user.clone(), resource: "content".to_owned(), used: 5 };
    usage.report_usage(Request::new(report)).await.expect("reported");
    assert_eq!(today(&service, &user).await, (0, 2, 5));
}

#[sqlx::test(migrations = false)]
async fn days_that_changed_nothing_are_as_the_day_before(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let user = new_user(&service).await;
    record(&service, &user, "personas", 1, "one").await.expect("counted");
    let last = now().date_naive() - chrono::Days::new(10);
    sqlx::query("UPDATE usage_days SET day = ?").bind(last).execute(&service.pool).await.expect("moved");
    let days = days(&service, administrator(), &user).await.expect("days");
    for day in days {
        assert_eq!(day.personas, i64::from(day.date >= last.to_string()), "{}", day.date);
    }
}

#[sqlx::test(migrations = false)]
async fn the_history_is_for_administrators(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, fake) = service(options, database).await;
    let user = new_user(&service).await;
    for actor in [None, actor("user", &[])] {
        assert_eq!(refusal(days(&service, actor, &user).await).0, "AUTH004");
    }
    let nobody = uuid::Uuid::now_v7().to_string();
    assert_eq!(refusal(days(&service, administrator(), &nobody).await).0, "USER001");
    fake.away.store(true, Ordering::SeqCst);
    assert_eq!(refusal(days(&service, administrator(), &user).await).0, "GW001");
}

#[sqlx::test(migrations = false)]
async fn a_count_in_small_steps_sees_everybody_once(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    for n in 0..7 {
        let user_id = new_user(&service).await;
        let tier = if n < 3 { "premium" } else { "free" }.to_owned();
        let made = CreateSubscriptionRequest {
            actor: administrator(),
            user_id: user_id.clone(),
            tier,
            ..Default::default()
        };
        administration::create(&service, made).await.expect("made");
        record(&service, &user_id, "content", 1, "key").await.expect("counted");
    }
    let key = |tier: &str| (tier.to_owned(), "active".to_owned());
    let numbers = |subscriptions| Numbers { subscriptions, personas: 0, content: subscriptions };
    let expected = BTreeMap::from([(key("premium"), numbers(3)), (key("free"), numbers(4))]);
    let mut census = Census::default();
    for most in [1, 2, 7, 100] {
        let mut steps = 1;
        let tally = loop {
            match census.step(&service.pool, most).await.expect("a step") {
                Some(tally) => break tally,
                None => steps += 1,
            }
        };
        assert_eq!((tally, steps), (expected.clone(), 7 / most + 1), "{most}");
    }
}
