//! Quota: how many places can be reserved and committed, and what each asks of the database.

use std::time::{Duration, Instant};

use contract::subscription::usage_service_client::UsageServiceClient;
use contract::subscription::{CommitRequest, ReserveRequest};
use sqlx::{AssertSqlSafe, MySqlConnection, Row};
use uuid::Uuid;

use super::accounts::register;
use super::cpu::move_to;
use super::grpc::{Plane, plane};
use super::http_load::repeat;
use super::report::{COMMIT_STATEMENTS, HOT_QUOTA, QUOTA_COMMITS, RESERVE_STATEMENTS, WIDE_QUOTA};
use super::stage::Stage;
use crate::Outcome;

/// Places that are reserved and committed at once.
const AT_ONCE: usize = 32;
/// How many users "many" are.
const MANY: usize = 256;

/// Somebody who takes places in the name of some users, in turn.
struct Taker {
    client: UsageServiceClient<Plane>,
    users: Vec<String>,
    taken: usize,
}

impl Taker {
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

    async fn both(&mut self) -> Outcome {
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
        let before = stage.subscription.cpu_seconds()?;
        let take = async || repeat(&mut shared.lock().await, length, Taker::both).await;
        let (done, seconds) = stage.referee.round(&format!("quota, {title}"), take).await?;
        let cpu = (stage.subscription.cpu_seconds()? - before) / done * 1e6;
        stage.report.add(format!("quota: {title}: CPU of subscription-svc each, µs"), cpu);
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
    let mut connection = stage.admin.connect().await?;
    // Registering has their subscriptions made, but does not wait for it.
    let started = Instant::now();
    loop {
        let missing: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users LEFT JOIN subscriptions ON subscriptions.user_id = users.id
             WHERE subscriptions.id IS NULL",
        )
        .fetch_one(&mut connection)
        .await?;
        if missing == 0 {
            break;
        }
        if started.elapsed() > Duration::from_secs(10) {
            return Err(format!("{missing} subscriptions were not made").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sqlx::query("UPDATE subscriptions SET tier = 'enterprise'").execute(&mut connection).await?;
    Ok(users.into_iter().map(|user| user.user_id).collect())
}

/// Statements and transactions of one call, from the counters of the server, without what runs in the background.
async fn count_statements(stage: &mut Stage, taker: &mut Taker) -> Outcome {
    const CALLS: usize = 500;
    let mut connection = stage.admin.connect().await?;
    let (started, before) = (Instant::now(), Counters::read(&mut connection).await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = Counters::read(&mut connection).await?.since(&before).per(started.elapsed().as_secs_f64());

    let places: Vec<_> = (0..CALLS).map(|_| taker.next()).collect();
    let (started, before) = (Instant::now(), Counters::read(&mut connection).await?);
    for (user_id, key) in &places {
        taker.reserve(user_id, key).await?;
    }
    let (between, reserved) = (started.elapsed().as_secs_f64(), Counters::read(&mut connection).await?);
    for (user_id, key) in &places {
        taker.commit(user_id, key).await?;
    }
    let (end, committed) = (started.elapsed().as_secs_f64(), Counters::read(&mut connection).await?);
    let each = |count: Counters, seconds: f64| Counters {
        statements: tenths((count.statements - idle.statements * seconds) / CALLS as f64),
        transactions: tenths((count.transactions - idle.transactions * seconds) / CALLS as f64),
    };
    let (reserve, commit) =
        (each(reserved.since(&before), between), each(committed.since(&reserved), end - between));
    stage.report.add(RESERVE_STATEMENTS, reserve.statements);
    stage.report.add(COMMIT_STATEMENTS, commit.statements);
    stage.report.add(QUOTA_COMMITS, reserve.transactions.max(commit.transactions));
    Ok(())
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// What the server has counted.
#[derive(Clone, Copy, Default)]
struct Counters {
    statements: f64,
    transactions: f64,
}

impl Counters {
    async fn read(connection: &mut MySqlConnection) -> Outcome<Self> {
        let names =
            "'Com_select', 'Com_insert', 'Com_update', 'Com_delete', 'Com_insert_select', 'Com_commit'";
        let query = format!("SHOW GLOBAL STATUS WHERE Variable_name IN ({names})");
        let mut counters = Counters::default();
        for row in sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await? {
            let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let value: f64 = value.parse()?;
            if name.eq_ignore_ascii_case("Com_commit") {
                counters.transactions += value;
            } else {
                counters.statements += value;
            }
        }
        Ok(counters)
    }

    fn since(&self, before: &Counters) -> Counters {
        Counters {
            statements: self.statements - before.statements,
            transactions: self.transactions - before.transactions,
        }
    }

    fn per(self, seconds: f64) -> Counters {
        Counters { statements: self.statements / seconds, transactions: self.transactions / seconds }
    }
}
