//! Many sessions of one account, and tokens of more than one life.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::clock::now;
use chrono::{DateTime, TimeDelta, Utc};
use contract::ErrorCode;
use contract::identity::{Device, LoginRequest, TokenPair, TokenUse};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use serde_json::Value;
use sqlx::MySqlPool;
use sqlx::types::Json;

use super::{Because, end_all, note_use, refresh};
use crate::audit::By;
use crate::bulkhead::Bulkhead;
use crate::identity::{Identity, Tokens};
use crate::sign_in;
use crate::tests::{identity, register, seen_from};
use crate::token_lives::Noted;

async fn log_in(identity: &Identity, email: &str) -> TokenPair {
    let request = LoginRequest {
        email: email.to_owned(),
        password: "correct horse battery".to_owned(),
        device: Some(Device::default()),
    };
    sign_in::log_in(identity, request).await.expect("signed in")
}

/// Changes rows as a replica would that has the clock of the database.
async fn written(pool: &MySqlPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.expect("written");
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

#[sqlx::test(migrations = "./migrations")]
async fn a_lost_answer_is_no_theft_and_no_session_over_to_a_replica_whose_clock_is_ahead(pool: MySqlPool) {
    let pool = seen_from(&pool, 61).await;
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    let pair = log_in(&identity, "a@example.com").await;
    let present = async || refresh(&identity, &pair.refresh_token, &Device::default()).await;
    present().await.expect("refreshed, and the answer is lost");
    written(&pool, "UPDATE refresh_tokens SET issued_at = UTC_TIMESTAMP(6), spent_at = IF(spent_at IS NULL, NULL, UTC_TIMESTAMP(6))").await;
    written(&pool, "UPDATE sessions SET expires_at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, absolute_expires_at = expires_at").await;
    let again = present().await.expect("presented again in its time");
    assert!(again.expires_in > 0, "{}", again.expires_in);
    assert_eq!(open(&pool, &user).await.len(), 2);
    written(&pool, "UPDATE refresh_tokens SET spent_at = spent_at - INTERVAL 5 MINUTE").await;
    assert_eq!(present().await.expect_err("too late").code(), ErrorCode::TokenInvalid);
    assert_eq!(open(&pool, &user).await.len(), 1, "a copy ends the session all the same");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_spent_token_waits_for_its_verdict_without_a_turn_of_others(pool: MySqlPool) {
    let identity = Identity { bulkhead: Bulkhead::new(1), ..identity(pool.clone()).await };
    register(&identity, "a@example.com").await;
    let pair = log_in(&identity, "a@example.com").await;
    let device = Device::default();
    refresh(&identity, &pair.refresh_token, &device).await.expect("refreshed");
    let again = pin!(refresh(&identity, &pair.refresh_token, &device));
    let place = identity.bulkhead.enter(None).expect("a place");
    // The first has the only turn before the other asks for it.
    let Either::Right((turn, again)) = select(again, pin!(place.turn())).await else {
        panic!("the turn was kept until the verdict");
    };
    let given_back = Instant::now();
    drop(turn);
    again.await.expect("its answer was lost");
    assert!(given_back.elapsed() > Duration::from_millis(50), "most of the wait was still to come");
}

#[sqlx::test(migrations = "./migrations")]
async fn whoever_waits_for_a_turn_has_presented_the_token_before(pool: MySqlPool) {
    let identity = Identity { bulkhead: Bulkhead::new(1), ..identity(pool.clone()).await };
    register(&identity, "a@example.com").await;
    let pair = log_in(&identity, "a@example.com").await;
    let device = Device::default();
    let child = refresh(&identity, &pair.refresh_token, &device).await.expect("refreshed");
    let place = identity.bulkhead.enter(None).expect("a place");
    let turn = place.turn().await.expect("a turn");
    let mut again = pin!(refresh(&identity, &pair.refresh_token, &device));
    assert!(again.as_mut().now_or_never().is_none(), "it waits");
    // For much longer than a look at the database takes.
    written(&pool, "DO SLEEP(0.5)").await;
    let seen = "UPDATE refresh_tokens SET used_at = UTC_TIMESTAMP(6) WHERE parent_hash IS NOT NULL";
    written(&pool, seen).await;
    drop(turn);
    again.await.expect("two tabs, of which one waited");
    refresh(&identity, &child.refresh_token, &device).await.expect("the session goes on");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_session_that_was_opened_by_a_wrong_clock_lasts_as_long_as_any(pool: MySqlPool) {
    for days_ahead in [61, -61] {
        let pool = seen_from(&pool, days_ahead).await;
        let identity = identity(pool.clone()).await;
        register(&identity, &format!("{days_ahead}@example.com")).await;
        let wrong = count(
            &pool,
            "SELECT COUNT(*) FROM sessions
             WHERE ABS(TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, expires_at)) > 60",
        );
        assert_eq!(wrong.await, 0, "{days_ahead} days ahead");
        written(&pool, "DELETE FROM users").await;
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn what_a_replica_with_a_wrong_clock_ends_binds_on_tokens_all_the_same(pool: MySqlPool) {
    for days_ahead in [61, -61] {
        let pool = seen_from(&pool, days_ahead).await;
        let identity = identity(pool.clone()).await;
        let user = register(&identity, &format!("{days_ahead}@example.com")).await;
        written(&pool, "UPDATE sessions SET last_seen_at = UTC_TIMESTAMP(6)").await;
        written(&pool, "REPLACE INTO token_lives VALUES (900, UTC_TIMESTAMP(6) + INTERVAL 25 MINUTE)").await;
        end_all(&identity, &user, None, Because::Revoked, By::SYSTEM).await.expect("ended");
        assert_eq!(open(&pool, &user).await.len(), 0, "{days_ahead} days ahead");
        let binding =
            "SELECT COUNT(*) FROM auth_events WHERE forget_at > UTC_TIMESTAMP(6) + INTERVAL 15 MINUTE";
        assert_eq!(count(&pool, binding).await, 1, "{days_ahead} days ahead");
        written(&pool, "DELETE FROM auth_events").await;
        written(&pool, "DELETE FROM users").await;
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn what_ends_binds_on_tokens_of_before_the_clock_of_the_database_leapt(pool: MySqlPool) {
    let user = register(&identity(pool.clone()).await, "a@example.com").await;
    let leapt = seen_from(&pool, -1).await;
    end_all(&identity(leapt.clone()).await, &user, None, Because::Revoked, By::SYSTEM).await.expect("ended");
    let binding = "SELECT COUNT(*) FROM auth_events WHERE forget_at > UTC_TIMESTAMP(6) + INTERVAL 15 MINUTE";
    assert_eq!(count(&leapt, binding).await, 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn no_token_is_good_for_longer_than_its_end_is_remembered_whichever_clock_is_ahead(pool: MySqlPool) {
    for days_ahead in [61, -61] {
        let pool = seen_from(&pool, days_ahead).await;
        let identity = identity(pool.clone()).await;
        let email = format!("{days_ahead}@example.com");
        register(&identity, &email).await;
        let pair = log_in(&identity, &email).await;
        let again = refresh(&identity, &pair.refresh_token, &Device::default()).await.expect("refreshed");
        let agreed = chassis::clock::agreed(&mut pool.acquire().await.expect("a connection")).await;
        let latest = agreed.expect("the time").timestamp() + 900;
        for token in [pair.access_token, again.access_token] {
            let payload = token.split('.').nth(1).expect("claims");
            let claims = URL_SAFE_NO_PAD.decode(payload).expect("base64");
            let claims: Value = serde_json::from_slice(&claims).expect("JSON");
            let end = claims["exp"].as_i64().expect("an end");
            assert!((latest - 60..=latest).contains(&end), "{days_ahead} days ahead: {end}, {latest}");
        }
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn an_edge_whose_clock_is_wrong_has_seen_a_token_when_it_tells_of_it(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    register(&identity, "a@example.com").await;
    let first = log_in(&identity, "a@example.com").await;
    for off in [TimeDelta::minutes(-5), TimeDelta::minutes(5)] {
        let none = "UPDATE refresh_tokens SET spent_at = NULL, used_at = NULL";
        written(&pool, none).await;
        refresh(&identity, &first.refresh_token, &Device::default()).await.expect("refreshed");
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT access_jti FROM refresh_tokens WHERE parent_hash IS NOT NULL")
                .fetch_all(&pool)
                .await
                .expect("ids");
        let at = Some(contract::to_timestamp(now() + off));
        let uses: Vec<_> = ids.into_iter().map(|token_id| TokenUse { token_id, at }).collect();
        note_use(&identity, &uses).await.expect("noted");
        let wrong = "SELECT COUNT(*) FROM refresh_tokens
                     WHERE ABS(TIMESTAMPDIFF(SECOND, used_at, UTC_TIMESTAMP(6))) > 60";
        assert_eq!(count(&pool, wrong).await, 0, "{off}");
    }
}
