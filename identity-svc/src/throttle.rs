//! Limits on guessing, shared by all replicas through the database. Each rule counts attempts of a subject; beyond
//! those that are free, each attempt makes the next one wait twice as long (OWASP Authentication Cheat Sheet, "Login
//! Throttling"). Only failures are counted, so that one may sign in many times at once; how many guesses get through
//! at once is bounded by the queue for password hashes, and each of them lengthens the wait that follows.

use std::net::IpAddr;
use std::time::Duration;

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, TimeDelta, Utc};
use contract::{ErrorCode, Failure, Outcome};
use prometheus::IntCounterVec;
use ring::digest::{SHA256, digest};
use sqlx::{MySqlConnection, MySqlPool};
use std::sync::LazyLock;

/// How long somebody who has proven to own an account is not held up by the guesses of others.
const VOUCHED: Duration = Duration::from_secs(3600);

/// How many attempts are free; 0 switches the rules off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wrong passwords for one account from one address.
    pub account: u32,
    /// Wrong passwords from one address.
    pub address: u32,
    /// Registrations from one address.
    pub registrations: u32,
    /// Mails that somebody asks for to one account.
    pub mails_to_account: u32,
    /// Mails that are asked for from one address.
    pub mails_from_address: u32,
}

/// What is counted, and how long it makes one wait.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    name: &'static str,
    free: u32,
    /// The wait after the first attempt that is not free.
    first: Duration,
    longest: Duration,
    /// A subject that has been quiet for this long starts over.
    forget: Duration,
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const SECOND: Duration = Duration::from_secs(1);

impl Limits {
    /// Guessing at one account from one address.
    pub fn account_from_address(self) -> Rule {
        let (name, free) = ("account_from_address", self.account);
        Rule { name, free, first: SECOND, longest: minutes(15), forget: minutes(60) }
    }

    /// Guessing at one account from anywhere (NIST SP 800-63B-4 section 3.2.2: no more than a hundred). Addresses that
    /// have signed in to the account are exempt, so that a stranger cannot lock its owner out.
    pub fn account(self) -> Rule {
        let free = self.account.saturating_mul(20);
        Rule { name: "account", free, first: SECOND, longest: minutes(1), forget: minutes(60) }
    }

    /// Guessing at many accounts from one address.
    pub fn address(self) -> Rule {
        let (name, free) = ("address", self.address);
        Rule { name, free, first: SECOND, longest: minutes(5), forget: minutes(15) }
    }

    /// Guessing at the current password of the account that one is signed in to.
    pub fn password_changes(self) -> Rule {
        Rule { name: "password_changes", ..self.account_from_address() }
    }

    /// Registering from one address, which tells which e-mails are taken.
    pub fn registrations(self) -> Rule {
        let (name, free) = ("registrations", self.registrations);
        Rule { name, free, first: SECOND, longest: minutes(60), forget: minutes(60) }
    }

    /// Having mails sent to one account, whether there is one or not.
    pub fn mails_to_account(self) -> Rule {
        let (name, free) = ("mails_to_account", self.mails_to_account);
        Rule { name, free, first: minutes(1), longest: minutes(60), forget: minutes(24 * 60) }
    }

    /// Having mails sent from one address.
    pub fn mails_from_address(self) -> Rule {
        let (name, free) = ("mails_from_address", self.mails_from_address);
        Rule { name, free, first: minutes(1), longest: minutes(60), forget: minutes(60) }
    }

    /// The owner of an account at an address, who has shown to be it otherwise than by the password.
    pub fn proven_owner(self) -> Rule {
        Rule { name: "proven_owner", free: 1, first: SECOND, longest: SECOND, forget: VOUCHED }
    }
}

impl Rule {
    /// The subject of the rule with this name.
    pub fn of(self, subject: &str) -> Subject {
        let text = format!("{}\n{subject}", self.name);
        Subject { rule: self, bucket: digest(&SHA256, text.as_bytes()).as_ref().to_vec() }
    }

    /// How long the attempt after this many makes one wait.
    fn wait(self, attempts: u32) -> Duration {
        match attempts.saturating_sub(self.free) {
            0 => Duration::ZERO,
            over => self.first.saturating_mul(1 << (over - 1).min(20)).min(self.longest),
        }
    }
}

/// Whose attempts a rule counts.
#[derive(Clone, Debug)]
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

/// Whether every rule admits one more attempt.
///
/// # Errors
/// AUTH005 with the time to wait; GW001 when the database is away.
pub async fn check(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<()> {
    let now = now();
    for subject in subjects.iter().filter(|subject| subject.rule.free > 0) {
        let until = sqlx::query_scalar!(
            r#"SELECT blocked_until AS "blocked_until: DateTime<Utc>" FROM throttles
               WHERE bucket = ? AND blocked_until > ?"#,
            subject.bucket,
            now
        )
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
        if let Some(until) = until {
            REFUSED.with_label_values(&[subject.rule.name]).inc();
            let seconds = (until - now + TimeDelta::milliseconds(999)).num_seconds();
            let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
            return Err(Failure::new(ErrorCode::TooManyAttempts).retry_after(wait));
        }
    }
    Ok(())
}

/// Counts one attempt of each subject.
///
/// # Errors
/// GW001 when the database is away.
pub async fn count(pool: &MySqlPool, subjects: &[Subject]) -> Outcome<()> {
    // One order, so that counting the same subjects at once does not deadlock.
    let mut subjects: Vec<_> = subjects.iter().filter(|subject| subject.rule.free > 0).collect();
    subjects.sort_by(|a, b| a.bucket.cmp(&b.bucket));
    if subjects.is_empty() {
        return Ok(());
    }
    transaction(pool, "throttle", &subjects, |tx, subjects| {
        Box::pin(async move {
            for subject in subjects.iter() {
                count_one(tx, subject).await?;
            }
            Ok(())
        })
    })
    .await
}

async fn count_one(tx: &mut MySqlConnection, subject: &Subject) -> Outcome<()> {
    let (bucket, rule, now) = (&subject.bucket, subject.rule, now());
    sqlx::query!(
        "INSERT INTO throttles (bucket, attempts, blocked_until, forget_at) VALUES (?, 0, ?, ?)
         ON DUPLICATE KEY UPDATE bucket = VALUES(bucket)",
        bucket,
        DateTime::UNIX_EPOCH,
        now + rule.forget
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let known = sqlx::query!(
        r#"SELECT attempts, forget_at AS "forget_at: DateTime<Utc>" FROM throttles WHERE bucket = ? FOR UPDATE"#,
        bucket
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    let before = if known.forget_at > now { u32::try_from(known.attempts).unwrap_or(0) } else { 0 };
    let attempts = before.saturating_add(1).min(1_000_000);
    let wait = rule.wait(attempts);
    // Somebody whose clock is behind must not find a block that is none.
    let blocked_until = if wait.is_zero() { DateTime::UNIX_EPOCH } else { now + wait };
    sqlx::query!(
        "UPDATE throttles SET attempts = ?, blocked_until = ?, forget_at = ? WHERE bucket = ?",
        attempts,
        blocked_until,
        now + rule.forget.max(wait),
        bucket
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
        "SELECT attempts FROM throttles WHERE bucket = ? AND forget_at > ?",
        subject.bucket,
        now()
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
        sqlx::query!("DELETE FROM throttles WHERE bucket = ?", subject.bucket)
            .execute(pool)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Remembers a subject for a while, without counting anything against it.
///
/// # Errors
/// GW001 when the database is away.
pub async fn vouch(pool: &MySqlPool, subject: &Subject) -> Outcome<()> {
    sqlx::query!(
        "INSERT INTO throttles (bucket, attempts, blocked_until, forget_at) VALUES (?, 0, ?, ?)
         ON DUPLICATE KEY UPDATE forget_at = VALUES(forget_at)",
        subject.bucket,
        DateTime::UNIX_EPOCH,
        now() + subject.rule.forget
    )
    .execute(pool)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Whether a subject is remembered by [`vouch`].
///
/// # Errors
/// GW001 when the database is away.
pub async fn is_vouched(pool: &MySqlPool, subject: &Subject) -> Outcome<bool> {
    let known = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM throttles WHERE bucket = ? AND forget_at > ?",
        subject.bucket,
        now()
    )
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    Ok(known > 0)
}

/// Removes what is forgotten, in small steps, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        loop {
            let swept = sqlx::query!("DELETE FROM throttles WHERE forget_at < ? LIMIT 1000", now())
                .execute(&pool)
                .await;
            match swept {
                Ok(done) if done.rows_affected() == 1000 => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old throttles were not removed");
                    break;
                }
            }
        }
    }
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
    use super::*;

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
}
