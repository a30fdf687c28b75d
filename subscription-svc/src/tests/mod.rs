//! Tests on a real server: a database for each test, and a stand-in for identity-svc on a real socket.

mod days;
mod idempotency;
mod identity;
mod model;
mod newcomers;
mod outbox;
mod reservations;
mod subscriptions;
mod usage;

use std::sync::Arc;

use chassis::grpc;
use chassis::mysql::Lane;
use chrono::TimeDelta;
use contract::identity::User;
use contract::subscription::Actor;
use contract::{Failure, Outcome};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor, MySqlPool};
use tonic::{Response, Status};
use uuid::Uuid;

use crate::outbox::Relay;
use crate::service::Service;
use identity::FakeIdentity;

/// The service on an empty database, in the isolation level of the real pool, with nothing running in the background.
pub async fn service(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) -> (Service, Arc<FakeIdentity>) {
    let lane = Lane::of(database.clone(), 6);
    let pool = options
        .max_connections(12)
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map(drop)
            })
        })
        .connect_with(database)
        .await
        .expect("a database");
    prepare(&pool).await;
    let (fake, uri) = identity::start().await;
    let internal = grpc::Settings::plain("0123456789abcdef0123456789abcdef".to_owned().into());
    let identity = grpc::channel(&[uri], &internal);
    let relay = Relay::new(pool.clone(), identity.clone());
    let service = Service { pool, lane, identity, relay, billing: None, grace: TimeDelta::days(7) };
    (service, fake)
}

/// The same service, as it is when its clock is 61 days ahead of the database's, which stands still.
async fn ahead(service: Service) -> Service {
    let stands = chassis::clock::now().timestamp() - 61 * 86_400;
    let options = MySqlPoolOptions::new().after_connect(move |connection, _| {
        let set = AssertSqlSafe(format!("SET SESSION timestamp = {stands}"));
        Box::pin(async move { connection.execute(set).await.map(drop) })
    });
    let database = MySqlConnectOptions::clone(&service.pool.connect_options());
    Service { pool: options.connect_with(database).await.expect("a pool"), ..service }
}

/// The part of `users` that the foreign keys need, then the service's own tables.
async fn prepare(pool: &MySqlPool) {
    pool.execute(
        "CREATE TABLE users (
            id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
            email VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE
        ) ENGINE = InnoDB",
    )
    .await
    .expect("the table users");
    crate::migrate(pool).await.expect("migrations");
}

pub async fn new_user(service: &Service) -> String {
    let id = Uuid::now_v7().to_string();
    sqlx::query("INSERT INTO users (id, email) VALUES (?, ?)")
        .bind(&id)
        .bind(format!("{id}@example.com"))
        .execute(&service.pool)
        .await
        .expect("a user");
    id
}

async fn count(service: &Service, table: &'static str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")))
        .fetch_one(&service.pool)
        .await
        .expect("a count")
}

fn administrator() -> Option<Actor> {
    actor("admin", &[])
}

/// An account that identity-svc knows with this role and these permissions, as the one that acts.
fn actor(role: &str, permissions: &[&str]) -> Option<Actor> {
    let user_id = Uuid::now_v7().to_string();
    let mut permissions: Vec<String> = permissions.iter().map(|&name| name.to_owned()).collect();
    if role == "admin" {
        permissions.insert(0, "*".to_owned());
    }
    identity::know(User {
        id: user_id.clone(),
        role: role.to_owned(),
        is_active: true,
        permissions,
        ..User::default()
    });
    Some(Actor { user_id, ip_address: "192.0.2.1".to_owned(), request_id: "a-request".to_owned() })
}

/// The code of a refusal, and the fields that it names.
fn refusal<T>(outcome: Outcome<T>) -> (&'static str, Vec<String>) {
    let failure = outcome.err().expect("a refusal");
    (failure.code().name(), failure.fields().keys().cloned().collect())
}

/// What a call over gRPC came to.
fn outcome<T>(answer: Result<Response<T>, Status>) -> Outcome<T> {
    answer.map(Response::into_inner).map_err(|status| Failure::from_status(status, "subscription-svc"))
}
