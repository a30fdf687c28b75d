//! Many sessions of one account, and tokens of more than one life.

use std::sync::Arc;
use std::time::Duration;

use chassis::clock::now;
use chrono::{DateTime, Utc};
use contract::identity::{Device, LoginRequest};
use serde_json::Value;
use sqlx::MySqlPool;
use sqlx::types::Json;

use super::{Because, end_all};
use crate::audit::By;
use crate::identity::{Identity, Tokens};
use crate::sign_in;
use crate::tests::{identity, register};
use crate::token_lives::Noted;

async fn log_in(identity: &Identity, email: &str) {
    let request = LoginRequest {
        email: email.to_owned(),
        password: "correct horse battery".to_owned(),
        device: Some(Device::default()),
    };
    sign_in::log_in(identity, request).await.expect("signed in");
}

/// Sessions that are open, from the one that was opened first.
async fn open(pool: &MySqlPool, user_id: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT id FROM sessions WHERE user_id = ? AND ended_at IS NULL ORDER BY created_at, id",
    )
    .bind(user_id)
    .fetch_all(pool)
    .await
    .expect("sessions")
}

async fn count(pool: &MySqlPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.expect("a count")
}

/// Opens sessions past the rules, as an account may have them from before there was a cap.
async fn add_sessions(pool: &MySqlPool, user_id: &str, count: i64, seen: DateTime<Utc>) {
    sqlx::query(
        "INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at, absolute_expires_at, ip_address,
                               user_agent)
         WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 200)
         SELECT UUID(), ?, ?, ?, ?, ?, '', '' FROM numbers CROSS JOIN numbers AS more LIMIT ?",
    )
    .bind(user_id)
    .bind(seen)
    .bind(seen)
    .bind(now() + Duration::from_secs(3600))
    .bind(now() + Duration::from_secs(3600))
    .bind(count)
    .execute(pool)
    .await
    .expect("sessions");
}

#[sqlx::test(migrations = "./migrations")]
async fn one_session_too_many_ends_the_one_seen_the_longest_ago(pool: MySqlPool) {
    let identity = capped(&pool).await;
    let user = register(&identity, "a@example.com").await;
    for _ in 0..4 {
        log_in(&identity, "a@example.com").await;
    }
    let full = open(&pool, &user).await;
    assert_eq!(full.len(), 5);
    // The first is in use, so that the second was seen the longest ago.
    sqlx::query("UPDATE sessions SET last_seen_at = ? WHERE id = ?")
        .bind(now())
        .bind(&full[0])
        .execute(&pool)
        .await
        .expect("seen");
    log_in(&identity, "a@example.com").await;
    let left = open(&pool, &user).await;
    assert_eq!(left.len(), 5);
    assert!(left.contains(&full[0]) && !left.contains(&full[1]), "{full:?} {left:?}");
    let told: Json<Value> =
        sqlx::query_scalar("SELECT payload FROM auth_events").fetch_one(&pool).await.expect("one event");
    assert_eq!(told["session_id"].as_str(), Some(full[1].as_str()));
    let entry: Json<Value> =
        sqlx::query_scalar("SELECT details FROM audit_log WHERE action = 'sessions_ended'")
            .fetch_one(&pool)
            .await
            .expect("one entry");
    assert_eq!(entry.0, serde_json::json!({ "sessions": 1, "because": "too_many" }));
}

#[sqlx::test(migrations = "./migrations")]
async fn sixteen_thousand_sessions_end_at_once_in_one_entry_and_with_events_of_those_that_have_tokens(
    pool: MySqlPool,
) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    let kept = open(&pool, &user).await.remove(0);
    add_sessions(&pool, &user, 15_000, now() - Duration::from_secs(3600)).await;
    add_sessions(&pool, &user, 1_001, now() - Duration::from_secs(5)).await;
    let by = By::user(&user, None);
    end_all(&identity, &user, Some(&kept), Because::Revoked, by).await.expect("ended");
    assert_eq!(open(&pool, &user).await, [kept]);
    assert_eq!(count(&pool, "SELECT COUNT(*) FROM auth_events").await, 1_001);
    // No number is skipped, or subscribers would start over.
    assert_eq!(count(&pool, "SELECT MAX(sequence) FROM auth_events").await, 1_001);
    assert_eq!(count(&pool, "SELECT last_sequence FROM auth_sequence").await, 1_001);
    let (details, sequence): (Json<Value>, i64) =
        sqlx::query_as("SELECT details, sequence FROM audit_log WHERE action LIKE 'session%'")
            .fetch_one(&pool)
            .await
            .expect("one entry");
    assert_eq!((details["sessions"].as_i64(), sequence), (Some(16_001), 1_001));
}

#[sqlx::test(migrations = "./migrations")]
async fn the_sessions_of_before_the_cap_give_way_to_one_sign_in(pool: MySqlPool) {
    let identity = capped(&pool).await;
    let user = register(&identity, "a@example.com").await;
    add_sessions(&pool, &user, 900, now() - Duration::from_secs(3600)).await;
    log_in(&identity, "a@example.com").await;
    assert_eq!(open(&pool, &user).await.len(), 5);
    assert_eq!(count(&pool, "SELECT COUNT(*) FROM auth_events").await, 0, "none of them has a token");
}

/// A replica whose tokens have this life, and whose accounts have five sessions.
fn with_life(identity: &Identity, life: Duration) -> Identity {
    let mut lifetimes = identity.tokens.lifetimes;
    lifetimes.access_token = life;
    let keys = identity.tokens.keys.clone();
    let tokens = Tokens { keys, lifetimes, max_sessions: 5, noted: Noted::default() };
    Identity { tokens: Arc::new(tokens), ..identity.clone() }
}

async fn capped(pool: &MySqlPool) -> Identity {
    with_life(&identity(pool.clone()).await, Duration::from_secs(900))
}

#[sqlx::test(migrations = "./migrations")]
async fn a_shorter_life_of_tokens_does_not_forget_what_binds_on_the_longer_lived(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let (before, after) =
        (with_life(&identity, Duration::from_secs(7000)), with_life(&identity, Duration::from_secs(60)));
    let user = register(&before, "a@example.com").await;
    let expires = now() + Duration::from_secs(6999);
    // Not seen for longer than a token lives now, but not for longer than its own does.
    sqlx::query("UPDATE sessions SET last_seen_at = ?")
        .bind(now() - Duration::from_secs(3600))
        .execute(&pool)
        .await
        .expect("seen");
    end_all(&after, &user, None, Because::Revoked, By::SYSTEM).await.expect("ended");
    let forget_at: DateTime<Utc> =
        sqlx::query_scalar("SELECT forget_at FROM auth_events").fetch_one(&pool).await.expect("an event");
    assert!(forget_at > expires, "{forget_at} {expires}");

    // Once the long-lived are gone, events are kept for the others alone.
    sqlx::query("UPDATE token_lives SET good_until = ? WHERE life = 7000")
        .bind(now())
        .execute(&pool)
        .await
        .expect("expired");
    log_in(&after, "a@example.com").await;
    end_all(&after, &user, None, Because::Revoked, By::SYSTEM).await.expect("ended");
    let forget_at: DateTime<Utc> = sqlx::query_scalar("SELECT forget_at FROM auth_events WHERE sequence = 2")
        .fetch_one(&pool)
        .await
        .expect("an event");
    assert!(forget_at < now() + Duration::from_secs(150), "{forget_at}");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_replica_writes_down_once_what_its_tokens_live(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let noted = identity.tokens.noted.clone();
    noted.note(&pool, identity.tokens.lifetimes.access_token).await.expect("noted");
    let before = good_until(&pool).await;
    register(&identity, "a@example.com").await;
    assert_eq!(good_until(&pool).await, before, "a token that is covered costs no write");
}

async fn good_until(pool: &MySqlPool) -> Vec<DateTime<Utc>> {
    sqlx::query_scalar("SELECT good_until FROM token_lives").fetch_all(pool).await.expect("rows")
}
