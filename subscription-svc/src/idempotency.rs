//! Requests with an `Idempotency-Key`: one of them runs, and all get its answer. All times are the database's: what one
//! replica runs is over by no other's clock.

use chassis::mysql::{failed, misses_parent, transaction, violated_key, write};
use chrono::{DateTime, TimeDelta, Utc};
use contract::subscription::begin_response::Answer;
use contract::subscription::{BeginRequest, Finished, Headers, Proceed, Running, Unknown};
use contract::{ErrorCode, Failure, Outcome};
use prost::Message;
use sqlx::{MySqlConnection, MySqlPool};
use uuid::Uuid;

use crate::forgetting::Step;

/// The longest key, in bytes, as the column holds it.
const MAX_KEY: usize = 255;
/// The largest answer that is kept, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// The headers of an answer that are kept with it, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
/// The longest time that one run may be given, in seconds.
const MAX_LEASE: i32 = 3600;
/// How long an answer is kept.
const KEPT: TimeDelta = TimeDelta::hours(24);

/// Begins a request, or says where the one with the same key stands. A run whose runner has gone (its time is over) is
/// taken over if it is repeatable; otherwise nobody knows what came of it.
///
/// # Errors
/// REQ001, also for the key of another request; USER001.
pub async fn begin(pool: &MySqlPool, request: &BeginRequest) -> Outcome<Answer> {
    if !(1..=MAX_KEY).contains(&request.idempotency_key.len()) {
        return Err(Failure::field("idempotency_key", format!("must have 1 to {MAX_KEY} bytes")));
    }
    if request.fingerprint.len() != 32 {
        return Err(Failure::field("fingerprint", "must be a SHA-256"));
    }
    if !(1..=MAX_LEASE).contains(&request.lease_seconds) {
        return Err(Failure::field("lease_seconds", format!("must be 1 to {MAX_LEASE}")));
    }
    let runner = Uuid::now_v7().to_string();
    let key = request.idempotency_key.as_bytes();
    // Statements on their own, as those who wait in transactions for one row end in deadlocks.
    let known = sqlx::query!(
        r#"SELECT fingerprint, runner, operation_id, COALESCE(runs_until > NOW(6), 0) AS "runs!: bool", status,
                  headers, body
           FROM idempotent_requests WHERE user_id = ? AND idempotency_key = ?"#,
        request.user_id,
        key
    )
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    let Some(known) = known else {
        let given = (request, runner.as_str());
        return transaction(pool, "begin_idempotent", &given, |tx, (request, runner)| {
            Box::pin(insert(tx, request, runner))
        })
        .await;
    };
    if known.fingerprint != request.fingerprint {
        return Err(Failure::field("Idempotency-Key", "was used for another request"));
    }
    if let Some(status) = known.status {
        let headers =
            Headers::decode(known.headers.unwrap_or_default().as_slice()).map_err(Failure::internal)?;
        let body = known.body.unwrap_or_default();
        return Ok(Answer::Finished(Finished { status: status.into(), headers: Some(headers), body }));
    }
    if known.runs {
        return Ok(Answer::Running(Running {}));
    }
    if !request.repeatable {
        return Ok(Answer::Unknown(Unknown {}));
    }
    let taken_over = write(
        pool,
        sqlx::query!(
            "UPDATE idempotent_requests SET runner = ?, runs_until = NOW(6) + INTERVAL ? SECOND
         WHERE user_id = ? AND idempotency_key = ? AND runner = ? AND status IS NULL",
            runner,
            request.lease_seconds,
            request.user_id,
            key,
            known.runner
        ),
    )
    .await?;
    Ok(if taken_over.rows_affected() == 1 {
        Answer::Proceed(Proceed { runner, operation_id: known.operation_id.unwrap_or(known.runner) })
    } else {
        Answer::Running(Running {})
    })
}

async fn insert(tx: &mut MySqlConnection, request: &BeginRequest, runner: &str) -> Outcome<Answer> {
    let inserted = sqlx::query!(
        "INSERT INTO idempotent_requests (user_id, idempotency_key, fingerprint, runner, operation_id, runs_until,
                                          created_at)
         VALUES (?, ?, ?, ?, ?, NOW(6) + INTERVAL ? SECOND, NOW(6))",
        request.user_id,
        request.idempotency_key.as_bytes(),
        request.fingerprint,
        runner,
        runner,
        request.lease_seconds
    )
    .execute(tx)
    .await;
    match inserted {
        Ok(_) => Ok(Answer::Proceed(Proceed { runner: runner.to_owned(), operation_id: runner.to_owned() })),
        // Another one was quicker; whoever asks again sees where it stands.
        Err(error) if violated_key(&error).is_some() => Ok(Answer::Running(Running {})),
        Err(error) if misses_parent(&error) => Err(Failure::new(ErrorCode::UserNotFound)),
        Err(error) => Err(failed(error)),
    }
}

/// Keeps the answer of a run. A later one of the same run takes its place.
///
/// # Errors
/// REQ001 when it is too large.
pub async fn finish(
    pool: &MySqlPool,
    user_id: &str,
    key: &str,
    runner: &str,
    answer: &Finished,
) -> Outcome<()> {
    let headers = answer.headers.as_ref().map(Headers::encode_to_vec).unwrap_or_default();
    if answer.body.len() > MAX_BODY || headers.len() > MAX_HEADERS {
        let most = format!("must have at most {MAX_BODY} bytes, and {MAX_HEADERS} of headers");
        return Err(Failure::field("answer", most));
    }
    write(
        pool,
        sqlx::query!(
            "UPDATE idempotent_requests SET runs_until = NULL, status = ?, headers = ?, body = ?
         WHERE user_id = ? AND idempotency_key = ? AND runner = ?",
            u16::try_from(answer.status).map_err(|_| Failure::field("status", "must be a status"))?,
            headers,
            answer.body,
            user_id,
            key.as_bytes(),
            runner
        ),
    )
    .await?;
    Ok(())
}

/// Gives a run up whose effect nobody knows.
///
/// # Errors
/// GW001 when the database is away.
pub async fn give_up(pool: &MySqlPool, user_id: &str, key: &str, runner: &str) -> Outcome<()> {
    write(
        pool,
        sqlx::query!(
            "UPDATE idempotent_requests SET runs_until = NOW(6)
         WHERE user_id = ? AND idempotency_key = ? AND runner = ? AND status IS NULL",
            user_id,
            key.as_bytes(),
            runner
        ),
    )
    .await?;
    Ok(())
}

/// Forgets a run that had no effect, so that the next one with the key may.
///
/// # Errors
/// GW001 when the database is away.
pub async fn abandon(pool: &MySqlPool, user_id: &str, key: &str, runner: &str) -> Outcome<()> {
    write(
        pool,
        sqlx::query!(
            "DELETE FROM idempotent_requests
         WHERE user_id = ? AND idempotency_key = ? AND runner = ? AND status IS NULL",
            user_id,
            key.as_bytes(),
            runner
        ),
    )
    .await?;
    Ok(())
}

/// Forgets old answers.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> Step<'_> {
    let old = sqlx::query!("DELETE FROM idempotent_requests WHERE created_at < ? LIMIT 1000", now - KEPT);
    Box::pin(old.execute(connection))
}
