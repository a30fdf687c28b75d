//! Quota: how many places can be reserved and committed, and what each asks of the database.

use std::time::{Duration, Instant};

use contract::subscription::usage_service_client::UsageServiceClient;
use contract::subscription::{CommitRequest, ReserveRequest};
use uuid::Uuid;

use super::accounts::register;
use super::counters::Meter;
use super::cpu::{costing, move_to};
use super::grpc::{Plane, plane};
use super::http_load::repeat;
use super::report::{COMMIT_STATEMENTS, HOT_QUOTA, QUOTA_COMMITS, RESERVE_STATEMENTS, WIDE_QUOTA};
use super::stage::Stage;
use crate::Outcome;
use crate::database::Account;

/// Places that are reserved and committed at once.
const AT_ONCE: usize = 32;
/// How many users "many" are.
const MANY: usize = 256;

/// Somebody who takes places in the name of some users, in turn.
pub struct Taker {
    client: UsageServiceClient<Plane>,
    users: Vec<String>,
    taken: usize,
}

impl Taker {
    /// One for these users, with a connection of its own.
    pub async fn connect(stage: &Stage, users: impl Iterator<Item = String>) -> Outcome<Self> {
        let plane = plane(stage.subscription.address, &stage.plan.internal_token).await?;
        Ok(Taker { client: UsageServiceClient::new(plane), users: users.collect(), taken: 0 })
    }

    fn next(&mut self) -> (String, String) {
        self.taken += 1;
        (self.users[self.taken % self.users.len()].clone(), Uuid::now_v7().to_string())
    }

    async fn reserve(&mut self, user_id: &str, key: &str) -> Outcome {
        let request = ReserveRequest {
            user_id: user_id.to_owned(),
            resource: "personas".to_owned(),
            idempotency_key: key.to_owned(),
            ttl_seconds: 60,
        };
        Ok(self.client.reserve(request).await.map(drop)?)
    }

    async fn commit(&mut self, user_id: &str, key: &str) -> Outcome {
        let request = CommitRequest { user_id: user_id.to_owned(), idempotency_key: key.to_owned() };
        Ok(self.client.commit(request).await.map(drop)?)
    }

    /// Takes the next user's place.
    pub async fn both(&mut self) -> Outcome {
        let (user_id, key) = self.next();
        self.reserve(&user_id, &key).await?;
        self.commit(&user_id, &key).await
    }
}

/// One hot user, then many, then what one call asks of the database.
pub async fn run(stage: &mut Stage) -> Outcome {
    let users = subscribers(stage).await?;
    let plane = plane(stage.subscription.address, &stage.plan.internal_token).await?;
    let taker = |users: &[String]| Taker {
        client: UsageServiceClient::new(plane.clone()),
        users: users.to_vec(),
        taken: 0,
    };
    let mut hot: Vec<_> = (0..AT_ONCE).map(|_| taker(&users[..1])).collect();
    let mut wide: Vec<_> = users.chunks(MANY / AT_ONCE).map(taker).collect();
    // The first time, a user's counter is made.
    let mut first = taker(&users);
    for _ in &users {
        first.both().await?;
    }
    move_to(stage.subscription.pid, stage.cores.tested)?;
    let length = Duration::from_secs(stage.choose(5, 1));
    for (name, title, takers) in
        [(HOT_QUOTA, "one hot user", &mut hot), (WIDE_QUOTA, "many users", &mut wide)]
    {
        let shared = tokio::sync::Mutex::new(takers);
        // Within the round: of one that is measured again nothing counts.
        let take = async || {
            let work = async || repeat(&mut shared.lock().await, length, Taker::both).await;
            costing(|| stage.subscription.cpu_seconds(), work).await
        };
        let ((done, seconds), cpu) = stage.referee.round(&format!("quota, {title}"), take).await?;
        stage.report.add(format!("quota: {title}: CPU of subscription-svc each, µs"), cpu / done * 1e6);
        stage.report.add(name, done / seconds);
    }
    count_statements(stage, &mut first).await?;
    move_to(stage.subscription.pid, stage.cores.load)
}

/// Accounts whose tier sets no limit.
async fn subscribers(stage: &Stage) -> Outcome<Vec<String>> {
    let edge = stage.edge("edge-quota", &[stage.cores.load], &[]).await?;
    let users = register(&edge.authority(), MANY).await?;
    edge.stop().await?;
    must_have_subscriptions(&stage.admin).await?;
    let mut connection = stage.admin.connect().await?;
    sqlx::query("UPDATE subscriptions SET tier = 'enterprise'").execute(&mut connection).await?;
    Ok(users.into_iter().map(|user| user.user_id).collect())
}

/// Waits until every user has a subscription: registering has it made, but does not wait for it.
pub async fn must_have_subscriptions(admin: &Account) -> Outcome {
    let mut connection = admin.connect().await?;
    let started = Instant::now();
    loop {
        let missing: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users LEFT JOIN subscriptions ON subscriptions.user_id = users.id
             WHERE subscriptions.id IS NULL",
        )
        .fetch_one(&mut connection)
        .await?;
        if missing == 0 {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(10) {
            return Err(format!("{missing} subscriptions were not made").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Statements and transactions of one call.
async fn count_statements(stage: &mut Stage, taker: &mut Taker) -> Outcome {
    const CALLS: usize = 500;
    let mut meter = Meter::open(&stage.admin).await?;
    let places: Vec<_> = (0..CALLS).map(|_| taker.next()).collect();
    let reserving = async || {
        for (user_id, key) in &places {
            taker.reserve(user_id, key).await?;
        }
        Ok(())
    };
    let reserve = meter.each(CALLS, reserving).await?;
    let committing = async || {
        for (user_id, key) in &places {
            taker.commit(user_id, key).await?;
        }
        Ok(())
    };
    let commit = meter.each(CALLS, committing).await?;
    stage.report.add(RESERVE_STATEMENTS, tenths(reserve.statements()));
    stage.report.add(COMMIT_STATEMENTS, tenths(commit.statements()));
    stage.report.add(QUOTA_COMMITS, tenths(reserve.transactions().max(commit.transactions())));
    Ok(())
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
