//! The real SQL against the models that the crate `simulation` runs on: the same random histories must come to the same.

use contract::subscription::RenewRequest;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use simulation::outbox::Subscriptions;
use simulation::quota::{Quota, Reserved, State};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

use super::reservations::{buy, commit, release, reserve};
use super::{new_user, refusal, service};
use crate::outbox::{self, Outbox};
use crate::service::Service;
use crate::subscriptions;
use crate::usage::{renew, sweep};

const HISTORIES: usize = 24;
/// What basic has of personas.
const LIMIT: i64 = 5;

#[derive(Clone, Debug)]
enum Step {
    Reserves(u8),
    Commits(u8),
    Releases(u8),
    Renews(u8),
    TimeRunsOut,
}

/// As many histories of steps.
fn histories<T: std::fmt::Debug>(step: impl Strategy<Value = T>) -> Vec<Vec<T>> {
    let strategy = prop::collection::vec(step, 1..40);
    let mut runner = TestRunner::default();
    (0..HISTORIES).map(|_| strategy.new_tree(&mut runner).expect("steps").current()).collect()
}

#[sqlx::test(migrations = false)]
async fn reservations_do_what_their_model_does(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    let key = || 0..8_u8;
    let step = prop_oneof![
        4 => key().prop_map(Step::Reserves),
        2 => key().prop_map(Step::Commits),
        2 => key().prop_map(Step::Releases),
        1 => key().prop_map(Step::Renews),
        1 => Just(Step::TimeRunsOut),
    ];
    for steps in histories(step) {
        let user = new_user(&service).await;
        buy(&service, &user, "basic").await;
        let mut model = Quota::new(LIMIT);
        for step in &steps {
            takes(&service, &user, &mut model, step).await;
            let (reserved, used) = counter(&service, &user).await;
            assert_eq!((reserved, used), (model.reserved, model.used), "{step:?} of {steps:?}");
            assert!(reserved + used <= LIMIT || model.committed().count() as i64 > LIMIT - reserved);
        }
        for key in (0..8_u8).map(|key| key.to_string()) {
            let state = model.state(&key).map(State::name);
            assert_eq!(stands(&service, &user, &key).await.as_deref(), state, "{key} of {steps:?}");
        }
    }
}

/// One step on both.
async fn takes(service: &Service, user: &str, model: &mut Quota, step: &Step) {
    match step {
        Step::Reserves(key) => {
            let key = key.to_string();
            let expected = model.reserve(&key, 1);
            match reserve(service, user, "personas", &key).await {
                Ok(repeated) if repeated.is_empty() => assert_eq!(expected, Reserved::New),
                Ok(repeated) => {
                    assert!(matches!(expected, Reserved::Known(state) if state.name() == repeated))
                }
                refused => {
                    assert_eq!(refusal(refused).0, "SUB002");
                    assert_eq!(expected, Reserved::Refused);
                }
            }
        }
        Step::Commits(key) => {
            let key = key.to_string();
            assert_eq!(commit(service, user, &key).await.is_ok(), model.commit(&key).is_ok());
        }
        Step::Releases(key) => {
            let key = key.to_string();
            assert_eq!(release(service, user, &key).await.is_ok(), model.release(&key).is_ok());
        }
        Step::Renews(key) => {
            let key = key.to_string();
            let request =
                RenewRequest { user_id: user.to_owned(), idempotency_key: key.clone(), ttl_seconds: 60 };
            assert_eq!(renew(&service.pool, &request).await.is_ok(), model.renew(&key, 1));
        }
        Step::TimeRunsOut => {
            sqlx::query(
                "UPDATE reservations SET expires_at = '2020-01-01' WHERE user_id = ? AND state = 'reserved'",
            )
            .bind(user)
            .execute(&service.pool)
            .await
            .expect("over");
            sweep(&service.pool).await.expect("swept");
            model.expire(2);
        }
    }
}

/// Reserved and used.
async fn counter(service: &Service, user: &str) -> (i64, i64) {
    let row = sqlx::query_as(
        "SELECT CAST(reserved AS SIGNED), CAST(used AS SIGNED) FROM usage_counters
         WHERE user_id = ? AND resource = 'personas'",
    );
    row.bind(user).fetch_optional(&service.pool).await.expect("a counter").unwrap_or_default()
}

async fn stands(service: &Service, user: &str, key: &str) -> Option<String> {
    sqlx::query_scalar("SELECT state FROM reservations WHERE user_id = ? AND idempotency_key = ?")
        .bind(user)
        .bind(key.as_bytes())
        .fetch_optional(&service.pool)
        .await
        .expect("a state")
}

#[sqlx::test(migrations = false)]
async fn the_outbox_shows_what_its_model_shows(options: MySqlPoolOptions, database: MySqlConnectOptions) {
    let (service, _) = service(options, database).await;
    // Who, what, and how it ends: it commits, or not, after some others have begun.
    let step =
        (0..3_usize, select(vec![contract::Tier::Basic, contract::Tier::Premium]), 0..4_usize, any::<bool>());
    for steps in histories(step).into_iter().take(8) {
        let users = [new_user(&service).await, new_user(&service).await, new_user(&service).await];
        for user in &users {
            subscriptions::find(&service.pool, user).await.expect("a subscription");
        }
        sqlx::query("DELETE FROM tier_outbox").execute(&service.pool).await.expect("emptied");
        let (mut model, mut open) = (Subscriptions::default(), Vec::new());
        for (user, tier, last, commits) in steps {
            let user = &users[user];
            if let Some(change) = model.begin(user, tier.name()) {
                let mut tx = service.pool.begin().await.expect("a transaction");
                subscriptions::lock(&mut tx, user).await.expect("locked");
                outbox::append(&mut tx, user, tier).await.expect("appended");
                open.push((change, tx));
            }
            if last >= open.len() {
                continue;
            }
            let (change, tx) = open.remove(last);
            if commits {
                model.commit(change);
                tx.commit().await.expect("committed");
            } else {
                model.roll_back(change);
                tx.rollback().await.expect("rolled back");
            }
            let shown: Vec<_> = service.pool.after(0).await.expect("rows");
            let shown: Vec<_> = shown.into_iter().map(|row| (row.user_id, row.tier)).collect();
            let expected: Vec<_> = model.after(0, 100).into_iter().map(|row| (row.user, row.tier)).collect();
            assert_eq!(shown, expected);
        }
    }
}
