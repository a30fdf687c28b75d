//! Rules of the outbox that only a real database can show.

use std::time::Duration;

use contract::identity::Device;
use sqlx::{MySqlPool, query, query_scalar};

use super::Kind;
use super::outbox::{self, Queued};
use super::tokens::{self, Purpose};
use crate::tests::{identity, register, seen_from};

const LINK: Kind = Kind::Link(Purpose::ResetPassword);
const HOUR: Duration = Duration::from_secs(3600);

async fn append(pool: &MySqlPool, kind: Kind) {
    let mut connection = pool.acquire().await.expect("a connection");
    outbox::append(&mut connection, kind, "a@example.com", &Device::default()).await.expect("queued");
}

async fn take(pool: &MySqlPool) -> Vec<Queued> {
    outbox::take(pool, 8, 8).await.expect("taken")
}

/// As if this much time had passed.
async fn pass(pool: &MySqlPool, seconds: i64) {
    query("UPDATE mail_outbox SET due_at = DATE_SUB(due_at, INTERVAL ? SECOND)")
        .bind(seconds)
        .execute(pool)
        .await
        .expect("passed");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_mail_of_a_replica_that_died_is_sent_by_another_after_the_lease(pool: MySqlPool) {
    append(&pool, LINK).await;
    assert_eq!(take(&pool).await.len(), 1);
    // From here on the first replica does nothing any more.
    assert!(take(&pool).await.is_empty());
    pass(&pool, 59).await;
    assert!(take(&pool).await.is_empty(), "sending may take this long");
    pass(&pool, 2).await;
    let [mail] = &take(&pool).await[..] else { panic!("one mail") };
    outbox::sent(&pool, mail).await.expect("sent");
    pass(&pool, 3600).await;
    assert!(take(&pool).await.is_empty());
}

#[sqlx::test(migrations = "./migrations")]
async fn no_two_replicas_take_one_mail(pool: MySqlPool) {
    for _ in 0..40 {
        append(&pool, Kind::PasswordChanged).await;
    }
    let takers = (0..8).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move { take(&pool).await })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.expect("ran").into_iter().map(|mail| mail.id));
    }
    let count = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), count, "taken twice");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_mail_that_is_not_wanted_yet_waits_and_counts(pool: MySqlPool) {
    append(&pool, LINK).await;
    let [mail] = &take(&pool).await[..] else { panic!("one mail") };
    outbox::delay(&pool, mail, Duration::from_secs(10)).await.expect("put back");
    assert!(take(&pool).await.is_empty());
    pass(&pool, 11).await;
    let [mail] = &take(&pool).await[..] else { panic!("one mail") };
    assert_eq!(mail.refusals, 1);
    outbox::put_back(&pool, mail).await.expect("put back");
    let [mail] = &take(&pool).await[..] else { panic!("due at once") };
    assert_eq!(mail.refusals, 1, "a server that is away has refused nothing");
}

#[sqlx::test(migrations = "./migrations")]
async fn mails_that_are_tried_again_leave_room_for_new_ones(pool: MySqlPool) {
    for _ in 0..6 {
        append(&pool, Kind::PasswordChanged).await;
    }
    for mail in take(&pool).await {
        outbox::delay(&pool, &mail, Duration::ZERO).await.expect("put back");
    }
    for _ in 0..2 {
        append(&pool, Kind::PasswordChanged).await;
    }
    pass(&pool, 1).await;
    let taken = outbox::take(&pool, 4, 2).await.expect("taken");
    let refusals: Vec<u32> = taken.iter().map(|mail| mail.refusals).collect();
    assert_eq!(refusals, [1, 1, 0, 0]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_mail_of_a_newer_version_is_left_to_it(pool: MySqlPool) {
    append(&pool, LINK).await;
    query("UPDATE mail_outbox SET kind = 'newsletter'").execute(&pool).await.expect("changed");
    assert!(take(&pool).await.is_empty());
    let left: i64 = query_scalar("SELECT COUNT(*) FROM mail_outbox").fetch_one(&pool).await.expect("counted");
    assert_eq!(left, 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn an_older_mail_that_comes_late_leaves_the_newer_link_good(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    let mut connection = pool.acquire().await.expect("a connection");
    let mut make = async |mail| {
        let made = tokens::make(&mut connection, Purpose::ResetPassword, "a@example.com", mail, HOUR);
        made.await.expect("made")
    };
    let newer = make(7).await.expect("a token");
    assert!(make(6).await.is_none());
    let again = make(7).await.expect("a mail that is sent again has a link that works");
    let mut connection = pool.acquire().await.expect("a connection");
    let mut holder = async |token: &str| {
        tokens::holder(&mut connection, Purpose::ResetPassword, token).await.map(|holder| holder.user_id)
    };
    assert!(holder(&newer).await.is_err());
    assert_eq!(holder(&again).await.expect("good"), user);
}

#[sqlx::test(migrations = "./migrations")]
async fn there_is_no_token_for_nobody_and_none_to_verify_what_is_verified(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    register(&identity, "a@example.com").await;
    let mut connection = pool.acquire().await.expect("a connection");
    let mut make = async |purpose, email| {
        tokens::make(&mut connection, purpose, email, 1, HOUR).await.expect("made").is_some()
    };
    assert!(make(Purpose::VerifyEmail, "a@example.com").await);
    assert!(!make(Purpose::ResetPassword, "b@example.com").await);
    query("UPDATE users SET email_verified = TRUE").execute(&pool).await.expect("verified");
    assert!(!make(Purpose::VerifyEmail, "a@example.com").await);
    assert!(make(Purpose::ResetPassword, "a@example.com").await);
    query("UPDATE users SET is_active = FALSE").execute(&pool).await.expect("disabled");
    assert!(!make(Purpose::ResetPassword, "a@example.com").await);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_replica_whose_clock_is_ahead_gives_up_no_mail_and_puts_none_off(pool: MySqlPool) {
    let pool = seen_from(&pool, 61).await;
    append(&pool, LINK).await;
    query("UPDATE mail_outbox SET queued_at = UTC_TIMESTAMP(6), due_at = UTC_TIMESTAMP(6)")
        .execute(&pool)
        .await
        .expect("queued by another");
    let [mail] = &take(&pool).await[..] else { panic!("one mail") };
    assert!(mail.age < HOUR, "{:?}", mail.age);
    outbox::delay(&pool, mail, HOUR).await.expect("put off");
    pass(&pool, 3601).await;
    assert_eq!(take(&pool).await.len(), 1, "an hour later");
}
