//! Requests with an `Idempotency-Key` against a model: begun, answered, given up and taken over in any order.

use contract::subscription::begin_response::Answer;
use contract::subscription::{BeginRequest, Finished};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

use super::{new_user, refusal, service};
use crate::idempotency::{abandon, begin, finish, give_up};
use crate::service::Service;

/// What edges do with one key. Each run is one that was told to proceed, also one that has been taken over since.
#[derive(Clone, Debug)]
enum Step {
    Begins { fingerprint: u8, repeatable: bool },
    Finishes(Index),
    GivesUp(Index),
    Abandons(Index),
    TimeRunsOut,
}

/// The request with this key, as the rules describe it.
#[derive(Clone)]
struct Known {
    fingerprint: u8,
    runner: String,
    operation_id: String,
    runs: bool,
    answer: Option<Vec<u8>>,
}

#[derive(Default)]
struct Model {
    known: Option<Known>,
    /// All runners there ever were.
    runners: Vec<String>,
}

impl Model {
    /// The request, if this is the one that runs it.
    fn run_by(&mut self, runner: &str) -> Option<&mut Known> {
        self.known.as_mut().filter(|known| known.runner == runner)
    }

    fn begins(&mut self, answer: &Answer, fingerprint: u8, repeatable: bool) {
        let Some(known) = &mut self.known else {
            let Answer::Proceed(run) = answer else { panic!("{answer:?}, but nobody runs it") };
            assert_eq!(run.runner, run.operation_id);
            let (runner, operation_id) = (run.runner.clone(), run.operation_id.clone());
            self.known =
                Some(Known { fingerprint, runner: runner.clone(), operation_id, runs: true, answer: None });
            return self.runners.push(runner);
        };
        match answer {
            Answer::Finished(finished) => assert_eq!(Some(&finished.body), known.answer.as_ref()),
            Answer::Running(_) => assert!(known.runs && known.answer.is_none()),
            Answer::Unknown(_) => assert!(!known.runs && known.answer.is_none() && !repeatable),
            Answer::Proceed(run) => {
                assert!(!known.runs && known.answer.is_none() && repeatable, "two at once");
                assert_eq!(run.operation_id, known.operation_id, "what it does, it does once");
                assert!(!self.runners.contains(&run.runner));
                (known.runner, known.runs) = (run.runner.clone(), true);
                self.runners.push(run.runner.clone());
            }
        }
    }
}

async fn plays(service: &Service, key: &str, steps: Vec<Step>) {
    println!("{key}: {steps:?}");
    let (pool, user) = (&service.pool, new_user(service).await);
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        let run = |index: Index| (!model.runners.is_empty()).then(|| index.get(&model.runners).clone());
        match step {
            Step::Begins { fingerprint, repeatable } => {
                let request = BeginRequest {
                    user_id: user.clone(),
                    idempotency_key: key.to_owned(),
                    fingerprint: vec![fingerprint; 32],
                    lease_seconds: 3600,
                    repeatable,
                };
                let outcome = begin(pool, &request).await;
                if model.known.as_ref().is_some_and(|known| known.fingerprint != fingerprint) {
                    let refused = refusal(outcome);
                    assert_eq!(refused, ("REQ001", vec!["Idempotency-Key".to_owned()]), "{key} {number}");
                } else {
                    model.begins(&outcome.expect("an answer"), fingerprint, repeatable);
                }
            }
            Step::Finishes(index) => {
                let Some(runner) = run(index) else { continue };
                let body = vec![number as u8];
                let answer = Finished { status: 201, headers: None, body: body.clone() };
                finish(pool, &user, key, &runner, &answer).await.expect("kept");
                if let Some(known) = model.run_by(&runner) {
                    (known.answer, known.runs) = (Some(body), false);
                }
            }
            Step::GivesUp(index) => {
                let Some(runner) = run(index) else { continue };
                give_up(pool, &user, key, &runner).await.expect("given up");
                if let Some(known) = model.run_by(&runner) {
                    known.runs = false;
                }
            }
            Step::Abandons(index) => {
                let Some(runner) = run(index) else { continue };
                abandon(pool, &user, key, &runner).await.expect("abandoned");
                if model.run_by(&runner).is_some_and(|known| known.answer.is_none()) {
                    model.known = None;
                }
            }
            Step::TimeRunsOut => {
                sqlx::query("UPDATE idempotent_requests SET runs_until = created_at WHERE user_id = ? AND status IS NULL")
                    .bind(&user)
                    .execute(pool)
                    .await
                    .expect("over");
                if let Some(known) = &mut model.known {
                    known.runs = false;
                }
            }
        }
    }
}

#[sqlx::test(migrations = false)]
async fn of_requests_with_one_key_one_runs_at_a_time_and_all_get_its_answer(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let begins = (0..10_u8, any::<bool>())
        .prop_map(|(other, repeatable)| Step::Begins { fingerprint: u8::from(other == 0), repeatable });
    let step = prop_oneof![
        5 => begins,
        1 => any::<Index>().prop_map(Step::Finishes),
        2 => any::<Index>().prop_map(Step::GivesUp),
        1 => any::<Index>().prop_map(Step::Abandons),
        2 => Just(Step::TimeRunsOut),
    ];
    let strategy = prop::collection::vec(step, 1..30);
    let mut runner = TestRunner::default();
    let all: Vec<_> = (0..48)
        .map(|number| (format!("key-{number}"), strategy.new_tree(&mut runner).expect("steps").current()))
        .collect();
    join_all(all.into_iter().map(async |(key, steps)| plays(&service, &key, steps).await)).await;
}
