//! Limits on guessing, shared by all replicas through the database. Each rule counts attempts of a subject; beyond
//! those that are free, each attempt makes the next one wait twice as long (OWASP Authentication Cheat Sheet, "Login
//! Throttling"). Only failures are counted, so that one may sign in many times at once; how many guesses get through
//! at once is bounded where password hashes are made, as long as some are free. From then on each is counted when it is
//! admitted, in one step, as is from the first on what is counted whatever comes of it (mails, registrations). All times
//! are the database's: nobody waits for longer because the clock of one replica was ahead, or is let in sooner.

mod rules;

use std::net::IpAddr;
use std::time::Duration;

use chassis::mysql::{failed, transaction, write};
use chrono::{DateTime, TimeDelta, Utc};
use contract::{ErrorCode, Failure, Outcome};
use prometheus::IntCounterVec;
use sqlx::{MySqlConnection, MySqlPool};
use std::sync::LazyLock;

use crate::sweep;

pub use rules::{Limits, Rule};

/// How far the clock of the database may go back without a wait being over.
const SLACK: Duration = Duration::from_secs(60);

/// Whose attempts a rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    rule: Rule,
    bucket: Vec<u8>,
}

/// The part of an address that one customer of a provider has: all of an IPv4 address, half of an IPv6 one.
pub fn network(address: &str) -> Option<String> {
    match address.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => Some(address.to_string()),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Some(format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
        }
    }
}

/// Whether every rule admits one more attempt. Gives the subjects whose free attempts are used up: of those, one that is
/// counted after it was made would not be the only one.
///
/// # Errors
/// AUTH005 with the time to wait; GW001 when the database is away.
pub async fn check(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<Vec<Subject>> {
    let mut spent = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.rule.free > 0) {
        let known = sqlx::query_as!(
            Known,
            r#"SELECT attempts, blocked_until AS "blocked_until: DateTime<Utc>",
                      forget_at AS "forget_at: DateTime<Utc>", UTC_TIMESTAMP(6) AS "now: DateTime<Utc>"
               FROM throttles WHERE bucket = ?"#,
            subject.bucket
        )
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
        let Some(known) = known else { continue };
        known.must_not_wait(subject)?;
        if known.attempts() >= subject.rule.free {
            spent.push(subject.clone());
        }
    }
    Ok(spent)
}

/// Takes one attempt of each subject: it is counted if every rule admits it. So of many at once no more are admitted
/// than of many one after the other.
///
/// # Errors
/// AUTH005 with the time to wait; GW001 when the database is away.
pub async fn admit(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<()> {
    // Whoever must wait is told so by a look, without the lock that others need.
    check(pool, subjects).await?;
    if subjects.is_empty() {
        return Ok(());
    }
    transaction(pool, "throttle", subjects, |tx, subjects| Box::pin(take(tx, subjects))).await
}

/// The part of [`admit`] that belongs into the transaction of what is admitted; its first part is [`check`].
///
/// # Errors
/// AUTH005, after which the transaction has to be rolled back; GW001 when the database is away.
pub async fn take(tx: &mut MySqlConnection, subjects: &[Subject]) -> Outcome<()> {
    for subject in in_order(subjects) {
        let known = lock(tx, subject).await?;
        known.must_not_wait(subject)?;
        add(tx, subject, known).await?;
    }
    Ok(())
}

/// One order, so that counting the same subjects at once does not deadlock.
fn in_order(subjects: &[Subject]) -> Vec<&Subject> {
    let mut subjects: Vec<_> = subjects.iter().filter(|subject| subject.rule.free > 0).collect();
    subjects.sort_by(|a, b| a.bucket.cmp(&b.bucket));
    subjects
}

/// Counts one attempt of each subject.
///
/// # Errors
/// GW001 when the database is away.
pub async fn count(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<()> {
    let subjects = in_order(subjects);
    if subjects.is_empty() {
        return Ok(());
    }
    transaction(pool, "throttle", &subjects, |tx, subjects| {
        Box::pin(async move {
            for subject in subjects.iter() {
                let known = lock(tx, subject).await?;
                add(tx, subject, known).await?;
            }
            Ok(())
        })
    })
    .await
}

/// What is remembered of a subject.
struct Known {
    attempts: i32,
    blocked_until: DateTime<Utc>,
    forget_at: DateTime<Utc>,
    /// When it was looked up.
    now: DateTime<Utc>,
}

impl Known {
    fn must_not_wait(&self, subject: &Subject) -> Outcome<()> {
        let wait = self.blocked_until - self.now;
        // A longer one than there is was written while the clock of the database was ahead.
        let is_over =
            wait.to_std().map_or(true, |wait| wait.is_zero() || wait > subject.rule.longest() + SLACK);
        if is_over {
            return Ok(());
        }
        REFUSED.with_label_values(&[subject.rule.name]).inc();
        let seconds = (wait + TimeDelta::milliseconds(999)).num_seconds();
        let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
        Err(Failure::new(ErrorCode::TooManyAttempts).retry_after(wait))
    }

    fn attempts(&self) -> u32 {
        if self.forget_at > self.now { u32::try_from(self.attempts).unwrap_or(0) } else { 0 }
    }
}

/// Reads a subject and locks it until the transaction ends, so that attempts come one after the other.
async fn lock(tx: &mut MySqlConnection, subject: &Subject) -> Outcome<Known> {
    sqlx::query!(
        "INSERT INTO throttles (bucket, attempts, blocked_until, forget_at)
         VALUES (?, 0, ?, UTC_TIMESTAMP(6) + INTERVAL ? SECOND)
         ON DUPLICATE KEY UPDATE bucket = VALUES(bucket)",
        subject.bucket,
        DateTime::UNIX_EPOCH,
        subject.rule.forget.as_secs()
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    sqlx::query_as!(
        Known,
        r#"SELECT attempts, blocked_until AS "blocked_until: DateTime<Utc>",
                  forget_at AS "forget_at: DateTime<Utc>", UTC_TIMESTAMP(6) AS "now: DateTime<Utc>"
           FROM throttles WHERE bucket = ? FOR UPDATE"#,
        subject.bucket
    )
    .fetch_one(tx)
    .await
    .map_err(failed)
}

/// Adds an attempt to those that are known of a locked subject.
async fn add(tx: &mut MySqlConnection, subject: &Subject, known: Known) -> Outcome<()> {
    let (rule, now) = (subject.rule, known.now);
    let attempts = known.attempts().saturating_add(1).min(1_000_000);
    let wait = rule.wait(attempts);
    let blocked_until = if wait.is_zero() { DateTime::UNIX_EPOCH } else { now + wait };
    sqlx::query!(
        "UPDATE throttles SET attempts = ?, blocked_until = ?, forget_at = ? WHERE bucket = ?",
        attempts,
        blocked_until,
        now + rule.forget.max(wait),
        subject.bucket
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(())
}

/// How many attempts of a subject are remembered; `None` when its rule is switched off.
///
/// # Errors
/// GW001 when the database is away.
pub async fn attempts(connection: &mut MySqlConnection, subject: &Subject) -> Outcome<Option<i64>> {
    if subject.rule.free == 0 {
        return Ok(None);
    }
    let attempts = sqlx::query_scalar!(
        "SELECT attempts FROM throttles WHERE bucket = ? AND forget_at > UTC_TIMESTAMP(6)",
        subject.bucket
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    Ok(Some(attempts.unwrap_or(0).into()))
}

/// Forgets the attempts of subjects, since one has succeeded.
///
/// # Errors
/// GW001 when the database is away.
pub async fn forget(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<()> {
    for subject in subjects.iter().filter(|subject| subject.rule.free > 0) {
        write(pool, sqlx::query!("DELETE FROM throttles WHERE bucket = ?", subject.bucket)).await?;
    }
    Ok(())
}

/// Remembers a subject for a while, without counting anything against it.
///
/// # Errors
/// GW001 when the database is away.
pub async fn vouch(pool: &MySqlPool, subject: &Subject) -> Outcome<()> {
    write(
        pool,
        sqlx::query!(
            "INSERT INTO throttles (bucket, attempts, blocked_until, forget_at)
         VALUES (?, 0, ?, UTC_TIMESTAMP(6) + INTERVAL ? SECOND)
         ON DUPLICATE KEY UPDATE forget_at = VALUES(forget_at)",
            subject.bucket,
            DateTime::UNIX_EPOCH,
            subject.rule.forget.as_secs()
        ),
    )
    .await?;
    Ok(())
}

/// Whether a subject is remembered by [`vouch`].
///
/// # Errors
/// GW001 when the database is away.
pub async fn is_vouched(pool: &MySqlPool, subject: &Subject) -> Outcome<bool> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM throttles WHERE bucket = ? AND forget_at > UTC_TIMESTAMP(6)",
        subject.bucket
    )
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    Ok(known > 0)
}

/// Removes what is forgotten, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old throttles", remove).await;
}

/// One step.
pub fn remove(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM throttles WHERE forget_at < ? LIMIT 1000", now);
    Box::pin(old.execute(connection))
}

static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_throttled_total",
        "Attempts that were told to wait, by rule",
        &["rule"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::tests::seen_from;

    const LIMITS: Limits =
        Limits { account: 3, address: 100, registrations: 0, mails_to_account: 2, mails_from_address: 0 };

    #[test]
    fn waits_double_and_end_somewhere() {
        let rule = LIMITS.account_from_address();
        let waits: Vec<u64> = (1..=8).map(|attempts| rule.wait(attempts).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16]);
        assert_eq!(rule.wait(u32::MAX), Duration::from_secs(900));
    }

    #[test]
    fn one_customer_is_one_network() {
        assert_eq!(network("192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(network("::ffff:192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("not an address"), None);
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn attempts_beyond_the_free_ones_must_wait_until_one_succeeds(pool: MySqlPool) {
        let subject = [LIMITS.account_from_address().of("somebody")];
        let attempts = (0..4).map(|_| {
            let (pool, subject) = (pool.clone(), subject.clone());
            tokio::spawn(async move { count(&pool, &subject).await })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            attempt.await.expect("ran").expect("counted");
        }
        let refused = check(&pool, &subject).await.expect_err("refused");
        assert_eq!(
            (refused.code(), refused.wait()),
            (ErrorCode::TooManyAttempts, Some(Duration::from_secs(1)))
        );
        check(&pool, &[LIMITS.account_from_address().of("somebody else")]).await.expect("admitted");
        forget(&pool, &subject).await.expect("forgotten");
        check(&pool, &subject).await.expect("admitted");
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn of_attempts_at_once_no_more_are_admitted_than_one_after_the_other(pool: MySqlPool) {
        let limits = Limits { mails_from_address: 4, mails_to_account: 2, ..LIMITS };
        let mut admitted = HashMap::<_, usize>::new();
        let attempts = (0..24).map(|place| {
            // Six to each of four accounts, all from one address.
            let account = format!("account {}", place % 4);
            let subjects = [limits.mails_to_account().of(&account), limits.mails_from_address().of("one")];
            let pool = pool.clone();
            tokio::spawn(async move { (account, admit(&pool, &subjects).await) })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            let (account, outcome) = attempt.await.expect("ran");
            match outcome {
                Ok(()) => *admitted.entry(account).or_default() += 1,
                Err(failure) => assert_eq!(failure.code(), ErrorCode::TooManyAttempts),
            }
        }
        // Those that are free, and the one that begins the wait.
        assert_eq!(admitted.values().sum::<usize>(), 5, "{admitted:?}");
        assert!(admitted.values().all(|count| *count <= 3), "{admitted:?}");
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn a_wait_that_a_clock_ahead_has_written_is_over_when_it_is_right(pool: MySqlPool) {
        let subject = [LIMITS.account_from_address().of("somebody")];
        count(&pool, &subject).await.expect("counted");
        for (wait, is_over) in [("15 MINUTE", false), ("20 MINUTE", true), ("61 DAY", true)] {
            let statement =
                format!("UPDATE throttles SET blocked_until = UTC_TIMESTAMP(6) + INTERVAL {wait}");
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.expect("written");
            assert_eq!(check(&pool, &subject).await.is_ok(), is_over, "{wait}");
        }
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn nobody_waits_longer_or_is_let_in_sooner_by_a_clock_that_is_ahead(pool: MySqlPool) {
        let pool = seen_from(&pool, 61).await;
        let subject = [LIMITS.account_from_address().of("somebody")];
        for _ in 0..4 {
            count(&pool, &subject).await.expect("counted");
        }
        let statement = "UPDATE throttles SET blocked_until = UTC_TIMESTAMP(6) + INTERVAL 9 SECOND,
                                              forget_at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR";
        sqlx::query(statement).execute(&pool).await.expect("written by another");
        check(&pool, &subject).await.expect_err("must wait");
        sqlx::query("UPDATE throttles SET blocked_until = '1970-01-01'")
            .execute(&pool)
            .await
            .expect("waited");
        count(&pool, &subject).await.expect("counted");
        let refused = check(&pool, &subject).await.expect_err("must wait");
        assert_eq!(refused.wait(), Some(Duration::from_secs(2)), "for the fifth attempt, and in all");
    }
}
