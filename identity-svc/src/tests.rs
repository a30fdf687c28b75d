//! Rules that only a real database can show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::mysql::{failed, transaction};
use contract::identity::auth_event::Change as Wire;
use contract::identity::{ChangePasswordRequest, Device, LoginRequest, Position, RegisterRequest};
use contract::token::Algorithm;
use contract::{ErrorCode, Tier};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use simulation::accounts::{Accounts, Change as ModelChange};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor, MySqlPool};
use uuid::{NoContext, Timestamp, Uuid};

use crate::bulkhead::Bulkhead;
use crate::enforcement::Reports;
use crate::events::{self, Change, Log};
use crate::hasher::{Cost, Hasher};
use crate::holders::Holders;
use crate::identity::{Identity, Tokens};
use crate::keys::{self, KeyRing};
use crate::mail::Mail;
use crate::sessions::{self, Because};
use crate::settings::Lifetimes;
use crate::snapshots::Snapshots;
use crate::tail::{self, Tail};
use crate::throttle::Limits;
use crate::token_lives::Noted;
use crate::watching::Watching;
use crate::{accounts, administrators, api_keys, audit, claims, sign_in};

fn token_keys(algorithm: Algorithm, secret: &str) -> keys::Settings {
    keys::Settings { algorithm, secrets: vec![secret.to_owned().into()], audience: "test".to_owned() }
}

/// A service on a database of the test's own.
pub async fn identity(pool: MySqlPool) -> Identity {
    let lifetimes = Lifetimes {
        access_token: Duration::from_secs(900),
        session_idle: Duration::from_secs(3600),
        session: Duration::from_secs(7200),
        refresh_retry: Duration::from_secs(60),
    };
    let settings = token_keys(Algorithm::Hs256, "0123456789abcdef0123456789abcdef");
    let keys = KeyRing::open(&pool, settings).await.expect("keys");
    let holders = Holders::new();
    let tail = Tail::new(holders.clone());
    Identity {
        watching: Watching::new(pool.clone(), tail.clone()),
        reports: Reports::default(),
        pool,
        // Cheap: what a hash costs is not what these tests are about.
        hasher: Hasher::new(Cost { memory_kib: 64, iterations: 1 }, 64, 0).expect("a hasher"),
        tokens: Arc::new(Tokens { keys, lifetimes, max_sessions: 100, noted: Noted::default() }),
        tail,
        holders,
        min_password_length: 8,
        limits: Limits {
            account: 5,
            address: 100,
            registrations: 0,
            mails_to_account: 0,
            mails_from_address: 0,
        },
        api_keys: api_keys::Limits { per_account: 2, longest_life: Duration::from_secs(366 * 24 * 3600) },
        mail: Mail::new(None),
        bulkhead: Bulkhead::new(8),
    }
}

/// The same database, as it is to a process whose clock is so many days ahead of it, or behind. Its own clock stands still.
pub async fn seen_from(pool: &MySqlPool, days_ahead: i64) -> MySqlPool {
    let stands = chassis::clock::now().timestamp() - days_ahead * 86_400;
    let set = format!("SET SESSION timestamp = {stands}");
    let options = MySqlPoolOptions::new().after_connect(move |connection, _| {
        let set = set.clone();
        Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(drop) })
    });
    options.connect_with(MySqlConnectOptions::clone(&pool.connect_options())).await.expect("a pool")
}

/// A new account; gives its id.
pub async fn register(identity: &Identity, email: &str) -> String {
    let request = RegisterRequest {
        email: email.to_owned(),
        password: "correct horse battery".to_owned(),
        client_id: "web".to_owned(),
        ..RegisterRequest::default()
    };
    let pair = sign_in::register(identity, request).await.expect("registered");
    pair.user.expect("a user").id
}

#[sqlx::test(migrations = "./migrations")]
async fn a_tail_misses_no_event_whatever_the_order_of_commits(pool: MySqlPool) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let identity = identity(pool.clone()).await;
    let mut followed = identity.tail.subscribe();
    let mut readings = identity.tail.readings();
    tokio::spawn(identity.tail.clone().follow(pool.clone()));
    readings.wait_for(Option::is_some).await.expect("the tail runs");
    let writers = (0..WRITERS).map(|writer| {
        let identity = identity.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let given = (format!("{writer}-{number}"), number % 3);
                transaction(&identity.pool, "test", given, |tx, (session, slow)| {
                    Box::pin(async move {
                        let change = Change::SessionEnded { session_id: session.clone() };
                        events::append(tx, "u", &change).await?;
                        // A number that was taken early may commit late.
                        sqlx::query("SELECT SLEEP(?)")
                            .bind(*slow as f64 / 200.0)
                            .execute(tx)
                            .await
                            .map_err(failed)?;
                        Ok(())
                    })
                })
                .await
                .expect("appended");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut last = 0;
    for _ in 0..WRITERS * EACH {
        let event = followed.recv().await.expect("an event");
        let sequence = event.position.as_ref().expect("a position").sequence;
        assert_eq!(sequence, last + 1, "a gap");
        assert!(matches!(event.change, Some(Wire::SessionEnded(_))));
        last = sequence;
    }
    for writer in writers {
        writer.await.expect("wrote");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_stream_resumes_where_it_was_and_starts_over_when_it_cannot(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    claims::set_tier(&identity, &user, Tier::Basic, 1).await.expect("set");
    let part = Snapshots::new(pool.clone()).begin().await.expect("begun").part().await.expect("a snapshot");
    assert_eq!((part.events.len(), part.more), (1, false));
    let position = part.position.expect("a position");
    claims::set_tier(&identity, &user, Tier::Premium, 2).await.expect("set");
    let missed = tail::resume(&pool, &position).await.expect("read").expect("resumed");
    assert_eq!(missed.len(), 1);
    let mut other = position.clone();
    other.epoch = "another".to_owned();
    assert!(tail::resume(&pool, &other).await.expect("read").is_none());
    sqlx::query("DELETE FROM auth_events WHERE sequence = ?")
        .bind(position.sequence + 1)
        .execute(&pool)
        .await
        .expect("swept");
    assert!(tail::resume(&pool, &position).await.expect("read").is_none(), "a swept event is a gap");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_snapshot_comes_in_parts_that_together_miss_nothing(pool: MySqlPool) {
    const EVENTS: i64 = 2500;
    for first in (1..=EVENTS).step_by(500) {
        let row = |sequence| {
            let payload = format!(r#"{{"kind":"session_ended","session_id":"s{sequence}"}}"#);
            // One in seven no longer matters.
            let life = if sequence % 7 == 0 { -1 } else { 1 };
            format!(
                "({sequence}, 'session_ended', 'u', '{payload}', UTC_TIMESTAMP(6),
                  UTC_TIMESTAMP(6) + INTERVAL {life} HOUR)"
            )
        };
        let rows: Vec<_> = (first..first + 500).map(row).collect();
        let insert = format!("INSERT INTO auth_events VALUES {}", rows.join(", "));
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&pool).await.expect("filled");
    }
    sqlx::query("UPDATE auth_sequence SET last_sequence = ?").bind(EVENTS).execute(&pool).await.expect("set");
    let mut snapshot = Snapshots::new(pool.clone()).begin().await.expect("begun");
    // What commits after the beginning is not the snapshot's.
    let mut tx = pool.begin().await.expect("a transaction");
    let late = Change::SessionEnded { session_id: "late".to_owned() };
    events::append(&mut tx, "u", &late).await.expect("appended");
    tx.commit().await.expect("committed");
    let (mut sequences, mut parts) = (Vec::new(), 0);
    loop {
        let part = snapshot.part().await.expect("a part");
        assert_eq!(part.position.as_ref().map(|position| position.sequence), Some(EVENTS));
        sequences.extend(part.events.iter().filter_map(|event| event.position.as_ref()).map(|p| p.sequence));
        parts += 1;
        if !part.more {
            break;
        }
    }
    let expected: Vec<_> = (1..=EVENTS).filter(|sequence| sequence % 7 != 0).collect();
    assert!(parts > 1 && sequences == expected, "{parts} parts, {} events", sequences.len());
}

#[sqlx::test(migrations = "./migrations")]
async fn a_tier_of_an_older_revision_changes_nothing(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    for (tier, revision) in [(Tier::Premium, 5), (Tier::Basic, 4), (Tier::Enterprise, 5)] {
        claims::set_tier(&identity, &user, tier, revision).await.expect("accepted");
    }
    let mut connection = pool.acquire().await.expect("a connection");
    let account = accounts::find(&mut connection, &user).await.expect("there");
    assert_eq!((account.tier, account.version), (Tier::Premium, 2));
}

/// What the crate `simulation` runs on is what the statements do.
#[sqlx::test(migrations = "./migrations")]
async fn tiers_and_events_do_what_their_model_does(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let revisions = proptest::collection::vec((0..3_usize, 0..12_i64), 1..24);
    let mut runner = TestRunner::default();
    let start = pool.ends().await.expect("read").0;
    let mut model = Accounts::new(start.epoch.clone(), start.sequence, 3600);
    for round in 0..6 {
        let user = register(&identity, &format!("{round}@example.com")).await;
        model.register(&user);
        let known = Position { epoch: start.epoch.clone(), sequence: model.last_sequence };
        for (tier, revision) in revisions.new_tree(&mut runner).expect("revisions").current() {
            let tier = [Tier::Free, Tier::Basic, Tier::Premium][tier];
            claims::set_tier(&identity, &user, tier, revision).await.expect("taken");
            model.set_tier(&user, tier.name(), revision, 0);
            let mut connection = pool.acquire().await.expect("a connection");
            let account = accounts::find(&mut connection, &user).await.expect("there");
            let expected = &model.accounts[&user];
            assert_eq!((account.tier.name(), account.version), (expected.tier.as_str(), expected.version));
        }
        let (end, events) = pool.news(Some(&known)).await.expect("read");
        let (again, all) = (pool.mattering(&end.epoch, known.sequence, end.sequence), &events);
        assert_eq!(&again.await.expect("read"), all);
        let told: Vec<_> = events
            .into_iter()
            .map(|event| match (event.position, event.change) {
                (Some(at), Some(Wire::AccountChanged(it))) => (at.sequence, it.user_id, it.version, it.tier),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: Vec<_> = model
            .after(known.sequence, 1000)
            .into_iter()
            .map(|event| match event.change {
                ModelChange::Changed { version, tier } => (event.sequence, event.user, version, tier),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((told, end.sequence), (expected, model.last_sequence));
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn the_first_administrator_is_made_or_promoted(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    let make = async |email: &str, password: &str| {
        administrators::make_administrator(&identity, email, "admin", password).await
    };
    assert!(!make("A@example.com", "").await.expect("promoted"));
    assert!(make("b@example.com", "correct horse battery").await.expect("made"));
    let weak = make("c@example.com", "short").await.expect_err("refused");
    assert_eq!(weak.code(), ErrorCode::PasswordRejected);
    let mut connection = pool.acquire().await.expect("a connection");
    let account = accounts::find(&mut connection, &user).await.expect("there");
    assert_eq!((account.role.name(), account.permissions.as_slice()), ("admin", &["*".to_owned()][..]));
}

#[sqlx::test(migrations = "./migrations")]
async fn who_has_taken_the_address_of_the_first_administrator_is_not_promoted(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let make = async |email: &str, password: &str| {
        administrators::make_first_administrator(&identity, email, "admin", password).await
    };
    let stranger = register(&identity, "admin@example.com").await;
    let refused = make("admin@example.com", "correct horse battery").await.expect_err("refused");
    assert_eq!(refused.code(), ErrorCode::UserExists);
    assert!(make("first@example.com", "correct horse battery").await.expect("made"));

    // Also one who cannot sign in is one.
    sqlx::query("UPDATE users SET is_active = FALSE WHERE role = 'admin'").execute(&pool).await.expect("set");
    for email in ["admin@example.com", "second@example.com"] {
        assert!(!make(email, "").await.expect("nothing was done"));
    }
    let mut connection = pool.acquire().await.expect("a connection");
    assert_eq!(accounts::find(&mut connection, &stranger).await.expect("there").role.name(), "user");
    let users: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM users").fetch_one(&pool).await.expect("a count");
    assert_eq!(users, 2);
}

#[sqlx::test(migrations = "./migrations")]
async fn of_many_first_administrators_at_once_one_is_made(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let attempts: Vec<_> = (0..8)
        .map(|n| {
            let (identity, email) = (identity.clone(), format!("a{n}@example.com"));
            tokio::spawn(async move {
                let password = "correct horse battery";
                administrators::make_first_administrator(&identity, &email, "admin", password).await
            })
        })
        .collect();
    let mut made = 0;
    for attempt in attempts {
        made += usize::from(attempt.await.expect("ran").expect("made or not"));
    }
    assert_eq!(made, 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn when_the_secret_is_lost_that_opens_the_signing_key_there_is_a_way_to_another(pool: MySqlPool) {
    let (lost, new) =
        (token_keys(Algorithm::EdDsa, "the former one"), token_keys(Algorithm::EdDsa, "a new one"));
    let former = KeyRing::open(&pool, lost.clone()).await.expect("keys").keys();
    let refused = KeyRing::open(&pool, new.clone()).await.err().expect("refused");
    let cause = refused.cause().expect("a cause").to_string();
    assert!(cause.contains("JWT_PREVIOUS_SECRET_KEYS") && cause.contains("rotate --at-once"), "{cause}");

    // Whoever runs can still open it, so that nobody needs that way.
    let holder = BTreeMap::from([("identity-svc 1".to_owned(), vec!["another".to_owned()])]);
    keys::hold(&pool, &holder).await.expect("noted");
    let at_once = || keys::Command::Rotate { wait: 0, at_once: true };
    let fault = keys::run(&pool, &new, at_once()).await.expect_err("somebody runs").to_string();
    assert!(fault.contains("identity-svc 1"), "{fault}");
    assert!(KeyRing::open(&pool, lost).await.is_ok(), "the former key still signs");

    sqlx::query("DELETE FROM key_holders").execute(&pool).await.expect("gone");
    keys::run(&pool, &new, at_once()).await.expect("rotated");
    let keys = KeyRing::open(&pool, new).await.expect("keys").keys();
    for set in [&former.set, &keys.set] {
        assert!(
            keys.verifier.verify(&set.sample, 0).is_ok(),
            "what was signed before is good until it expires"
        );
    }
    assert_ne!(former.set.sample, keys.set.sample);
}

#[sqlx::test(migrations = "./migrations")]
async fn no_session_opened_with_the_old_password_survives_its_change(pool: MySqlPool) {
    const OLD: &str = "correct horse battery";
    let identity = identity(pool.clone()).await;
    for round in 0..20 {
        let email = format!("u{round}@example.com");
        let user_id = register(&identity, &email).await;
        let session_id: String = sqlx::query_scalar("SELECT id FROM sessions WHERE user_id = ?")
            .bind(&user_id)
            .fetch_one(&pool)
            .await
            .expect("a session");
        let sign_ins = (0..6).map(|_| {
            let (identity, email) = (identity.clone(), email.clone());
            let request = LoginRequest { email, password: OLD.to_owned(), device: None };
            tokio::spawn(async move { sign_in::log_in(&identity, request).await.map(drop) })
        });
        let sign_ins: Vec<_> = sign_ins.collect();
        let change = ChangePasswordRequest {
            user_id: user_id.clone(),
            session_id,
            current_password: OLD.to_owned(),
            new_password: "another horse battery".to_owned(),
            device: None,
        };
        sign_in::change_password(&identity, change).await.expect("changed");
        for sign_in in sign_ins {
            // It may have come before or after; both are fine.
            let _ = sign_in.await.expect("ran");
        }
        let open: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL")
                .bind(&user_id)
                .fetch_one(&pool)
                .await
                .expect("counted");
        assert_eq!(open, 1, "round {round}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn once_the_free_guesses_are_used_up_one_is_let_in_after_each_wait_however_many_come(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    register(&identity, "a@example.com").await;
    let guess = || {
        let identity = identity.clone();
        let device = Device { ip_address: "192.0.2.1".to_owned(), ..Device::default() };
        let (email, password) = ("a@example.com".to_owned(), "a wrong password".to_owned());
        let request = LoginRequest { email, password, device: Some(device) };
        tokio::spawn(async move { sign_in::log_in(&identity, request).await.expect_err("refused").code() })
    };
    for _ in 0..identity.limits.account {
        assert_eq!(guess().await.expect("ran"), ErrorCode::InvalidCredentials);
    }
    for round in 0..10 {
        let guesses: Vec<_> = (0..8).map(|_| guess()).collect();
        let mut let_in = 0;
        for guess in guesses {
            let_in += usize::from(guess.await.expect("ran") == ErrorCode::InvalidCredentials);
        }
        assert_eq!(let_in, 1, "round {round}");
        let attempts: Vec<i32> = sqlx::query_scalar("SELECT attempts FROM throttles ORDER BY attempts")
            .fetch_all(&pool)
            .await
            .expect("read");
        assert_eq!(
            attempts,
            [round + 6; 3],
            "each is counted once: the account, from the address, the address"
        );
        // The wait is over.
        sqlx::query("UPDATE throttles SET blocked_until = '1970-01-01'").execute(&pool).await.expect("set");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_token_that_was_looked_at_needs_no_database_until_something_changes(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let request = RegisterRequest {
        email: "a@example.com".to_owned(),
        password: "correct horse battery".to_owned(),
        client_id: "web".to_owned(),
        ..RegisterRequest::default()
    };
    let pair = sign_in::register(&identity, request).await.expect("registered");
    let user_id = pair.user.expect("a user").id;
    let look = async || sign_in::validate(&identity, &pair.access_token).await;
    // As if the events had been read just now for as long as this takes.
    identity.holders.read_at(Instant::now() + Duration::from_secs(3600));
    let session_id = look().await.expect("good").session_id;
    let behind_our_back = async |statement| {
        sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.expect("changed");
    };
    behind_our_back("UPDATE sessions SET ended_at = created_at").await;
    look().await.expect("remembered");
    behind_our_back("UPDATE sessions SET ended_at = NULL").await;

    let (mut events, mut readings) = (identity.tail.subscribe(), identity.tail.readings());
    tokio::spawn(identity.tail.clone().follow(pool.clone()));
    readings.wait_for(Option::is_some).await.expect("the tail runs");
    look().await.expect("good");
    claims::set_tier(&identity, &user_id, Tier::Basic, 1).await.expect("set");
    events.recv().await.expect("an event");
    assert_eq!(look().await.expect("good").user.expect("a user").tier, "basic");
    let by = audit::By::user(&user_id, None);
    let ended = sessions::end_one(&identity, &user_id, &session_id, Because::Logout, by).await;
    ended.expect("ended");
    events.recv().await.expect("an event");
    assert_eq!(look().await.expect_err("refused").code(), ErrorCode::TokenInvalid);
}

#[sqlx::test(migrations = "./migrations")]
async fn the_audit_log_is_kept_for_as_long_as_is_said(pool: MySqlPool) {
    const DAY: u64 = 24 * 3600;
    let identity = identity(pool.clone()).await;
    let user_id = register(&identity, "u@example.com").await;
    let mut connection = pool.acquire().await.expect("a connection");
    for days in [29, 31, 400] {
        let made = chassis::clock::now() - Duration::from_secs(days * DAY);
        let id = Uuid::new_v7(Timestamp::from_unix(NoContext, made.timestamp().unsigned_abs(), 0));
        sqlx::query("INSERT INTO audit_log SELECT ?, ?, actor_id, action, target_id, ip_address, request_id, sequence, details FROM audit_log WHERE target_id = ? LIMIT 1")
            .bind(id.to_string())
            .bind(made)
            .bind(&user_id)
            .execute(&mut *connection)
            .await
            .expect("an old entry");
    }
    let before = chassis::clock::now() - Duration::from_secs(30 * DAY);
    let removed = audit::forget(&mut connection, before).await.expect("removed");
    assert_eq!(removed.rows_affected(), 2);
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM audit_log WHERE target_id = ?")
        .bind(&user_id)
        .fetch_one(&mut *connection)
        .await
        .expect("counted");
    assert_eq!(kept, 2, "of this month and of today");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_session_that_has_ended_makes_no_key_though_it_had_not_when_it_asked(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let user = register(&identity, "a@example.com").await;
    let mut connection = pool.acquire().await.expect("a connection");
    let open = sessions::list(&mut connection, &user).await.expect("listed");
    let create = async |session| {
        let wanted = api_keys::Wanted { name: "k".to_owned(), permissions: Vec::new(), expires_at: None };
        let asking = api_keys::Asking { user_id: &user, session };
        api_keys::create(&identity, asking, wanted, None).await.map(drop).map_err(|failure| failure.code())
    };
    let session = Some(open[0].id.as_str());
    assert_eq!(create(session).await, Ok(()));

    let mut tx = pool.begin().await.expect("begun");
    accounts::lock(&mut tx, &user).await.expect("locked");
    sessions::end_everything(&mut tx, &user, Because::PasswordSet, audit::By::SYSTEM).await.expect("ended");
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tx.commit().await.expect("committed");
    };
    let (created, ()) = tokio::join!(create(session), end);
    assert_eq!(created, Err(ErrorCode::TokenInvalid));
    let keys = api_keys::list(&mut connection, &user).await.expect("listed");
    assert!(keys.is_empty(), "{keys:?}");
    assert_eq!(create(None).await, Ok(()), "an edge that does not know the field goes on");
}

#[sqlx::test(migrations = "./migrations")]
async fn whoever_guesses_too_often_takes_no_share_from_the_owner(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let (home, stranger) = ("192.0.2.1", "198.51.100.1");
    let email = "a@example.com";
    let log_in = |ip_address: &str, password: &str| {
        let device = Device { ip_address: ip_address.to_owned(), ..Device::default() };
        let (email, password) = (email.to_owned(), password.to_owned());
        let request = LoginRequest { email, password, device: Some(device) };
        let identity = identity.clone();
        Box::pin(async move { sign_in::log_in(&identity, request).await.map(drop).map_err(|f| f.code()) })
    };
    register(&identity, email).await;
    let right = "correct horse battery";
    assert_eq!(log_in(home, right).await, Ok(()), "the owner is known to be there");
    while log_in(stranger, "wrong wrong wrong").await != Err(ErrorCode::TooManyAttempts) {}

    // So many as would have all the shares of the account wait for the database to be refused.
    let mut connections = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        connections.push(pool.acquire().await.expect("a connection"));
    }
    let mut guesses: Vec<_> = (0..20).map(|_| log_in(stranger, "wrong wrong wrong")).collect();
    for guess in &mut guesses {
        assert!(futures_util::poll!(guess).is_pending());
    }
    let mut owner = log_in(home, right);
    assert!(futures_util::poll!(&mut owner).is_pending());
    drop(connections);
    let (owner, guesses) = tokio::join!(owner, futures_util::future::join_all(guesses));
    assert_eq!(owner, Ok(()));
    assert!(guesses.iter().all(|guess| *guess == Err(ErrorCode::TooManyAttempts)), "{guesses:?}");
}
