//! Holders of open sessions as they were last read, so that a look at a token that was seen before needs no database. The
//! events that every replica follows say whose are to be read again: what is found here is as old as the last reading of
//! the events, and while they cannot be read nothing is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use contract::identity::UserInfo;
use quick_cache::sync::Cache;

use crate::accounts::Account;

/// Most accounts that are kept, at less than 1 KB each.
const MOST: usize = 10_000;
/// Most sessions that are kept of one account.
const SESSIONS: usize = 8;
/// How old the last reading of the events may be: what ends must bind within a second.
const LIMIT: Duration = Duration::from_secs(1);

/// What is known of accounts and their sessions. Cheap to clone.
#[derive(Clone)]
pub struct Holders(Arc<Shared>);

struct Shared {
    /// By the id of the account, since that is what events name.
    known: Cache<String, Arc<Known>>,
    /// How often something was forgotten. Held while what is known changes, so that nothing is kept of before what was
    /// forgotten meanwhile; looking needs it not.
    changes: Mutex<u64>,
    /// When the last reading that left nothing unread began.
    current: Mutex<Option<Instant>>,
}

struct Known {
    info: UserInfo,
    version: i64,
    /// Open ones, the last read first, and until when they are.
    sessions: Vec<(String, DateTime<Utc>)>,
}

/// A session that is looked for.
pub struct Sought<'a> {
    pub user_id: &'a str,
    pub session_id: &'a str,
    /// The version of the claims that its token has; an account with a lower one is out of date.
    pub version: i64,
}

/// The state of what is known before the database is read.
#[derive(Clone, Copy, Debug)]
pub struct Mark(Option<u64>);

impl Default for Holders {
    fn default() -> Self {
        Holders(Arc::new(Shared {
            known: Cache::new(MOST),
            changes: Mutex::default(),
            current: Mutex::default(),
        }))
    }
}

impl Holders {
    pub fn new() -> Self {
        Holders::default()
    }

    /// The account that holds a session, if both are known.
    pub fn find(&self, sought: &Sought<'_>, now: DateTime<Utc>) -> Option<UserInfo> {
        let known = self.0.known.get(sought.user_id).filter(|_| self.is_current())?;
        let is_open = |(id, until): &(String, DateTime<Utc>)| id == sought.session_id && *until > now;
        let is_it = known.version >= sought.version && known.sessions.iter().any(is_open);
        is_it.then(|| known.info.clone())
    }

    /// Taken before the database is read for [`Holders::keep`].
    pub fn mark(&self) -> Mark {
        Mark(self.is_current().then(|| *lock(&self.0.changes)))
    }

    /// Keeps an account and its session, open until then, unless something has changed since the mark.
    pub fn keep(&self, mark: Mark, account: &Account, session_id: &str, until: DateTime<Utc>) {
        let Mark(Some(changes)) = mark else { return };
        let now = lock(&self.0.changes);
        if *now != changes {
            return;
        }
        let mut sessions = vec![(session_id.to_owned(), until)];
        if let Some(known) = self.0.known.get(&account.id) {
            let others = known.sessions.iter().filter(|(id, _)| id != session_id);
            sessions.extend(others.take(SESSIONS - 1).cloned());
        }
        let known = Known { info: account.info(), version: account.version, sessions };
        self.0.known.insert(account.id.clone(), Arc::new(known));
    }

    /// Forgets an account that an event concerns.
    pub fn forget(&self, user_id: &str) {
        let mut changes = lock(&self.0.changes);
        *changes += 1;
        self.0.known.remove(user_id);
    }

    /// Notes that all events from before `began` are read. After a silence nothing of before counts: events that were
    /// missed may have been swept.
    pub fn read_at(&self, began: Instant) {
        if !self.is_current() {
            self.forget_all();
        }
        *lock(&self.0.current) = Some(began);
    }

    /// Forgets everything, as for another table of events.
    pub fn forget_all(&self) {
        let mut changes = lock(&self.0.changes);
        *changes += 1;
        self.0.known.clear();
    }

    fn is_current(&self) -> bool {
        lock(&self.0.current).is_some_and(|began| began.elapsed() <= LIMIT)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use contract::{Role, Tier};

    use super::*;

    fn account(version: i64) -> Account {
        Account {
            id: "u".to_owned(),
            email: "u@example.com".to_owned(),
            role: Role::User,
            client_id: "web".to_owned(),
            tier: Tier::Free,
            is_active: true,
            email_verified: false,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            last_login_at: None,
            version,
            permissions: vec![],
        }
    }

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    fn finds(holders: &Holders, session_id: &str, version: i64, now: i64) -> bool {
        holders.find(&Sought { user_id: "u", session_id, version }, time(now)).is_some()
    }

    /// Current, and knows the session `s` until 100.
    fn holders() -> Holders {
        let holders = Holders::new();
        holders.read_at(Instant::now());
        holders.keep(holders.mark(), &account(2), "s", time(100));
        holders
    }

    #[test]
    fn what_was_read_is_found_until_the_session_is_over_or_the_token_is_newer() {
        let holders = holders();
        assert!(finds(&holders, "s", 2, 99) && finds(&holders, "s", 1, 99));
        assert!(!finds(&holders, "s", 2, 100) && !finds(&holders, "other", 2, 99));
        assert!(!finds(&holders, "s", 3, 99), "the account has changed since it was read");
        holders.keep(holders.mark(), &account(2), "t", time(100));
        assert!(finds(&holders, "s", 2, 99) && finds(&holders, "t", 2, 99));
    }

    #[test]
    fn an_event_has_the_account_read_again_also_when_it_comes_while_that_is_being_read() {
        let holders = holders();
        holders.forget("u");
        assert!(!finds(&holders, "s", 2, 99));
        let mark = holders.mark();
        holders.forget("u");
        holders.keep(mark, &account(2), "s", time(100));
        assert!(!finds(&holders, "s", 2, 99));
        holders.keep(holders.mark(), &account(2), "s", time(100));
        assert!(finds(&holders, "s", 2, 99));
    }

    #[test]
    fn nothing_is_found_or_kept_while_events_cannot_be_read_nor_what_is_from_before() {
        let (holders, long_ago) = (Holders::new(), Instant::now().checked_sub(2 * LIMIT).expect("a time"));
        holders.keep(holders.mark(), &account(2), "s", time(100));
        holders.read_at(Instant::now());
        assert!(!finds(&holders, "s", 2, 99), "kept before the first reading");
        holders.keep(holders.mark(), &account(2), "s", time(100));
        assert!(finds(&holders, "s", 2, 99));
        holders.read_at(long_ago);
        assert!(!finds(&holders, "s", 2, 99), "the last reading is too old");
        holders.read_at(Instant::now());
        assert!(!finds(&holders, "s", 2, 99), "events may have been missed");
    }

    #[test]
    fn of_an_account_with_many_sessions_the_last_ones_are_known() {
        let holders = holders();
        for session in 0..2 * SESSIONS {
            holders.keep(holders.mark(), &account(2), &session.to_string(), time(100));
        }
        let known = (0..2 * SESSIONS).filter(|session| finds(&holders, &session.to_string(), 2, 99));
        assert_eq!(known.collect::<Vec<_>>(), (SESSIONS..2 * SESSIONS).collect::<Vec<_>>());
    }

    /// Two looks at once, one of before the end of a session and one of after it, must not keep it between them.
    #[test]
    fn an_ended_session_never_comes_back_however_many_look_at_once() {
        const LOOKS: usize = 4;
        let holders = Holders::new();
        holders.read_at(Instant::now() + Duration::from_secs(3600));
        let open = RwLock::new((0..LOOKS).map(|place| format!("{place}-0")).collect::<Vec<_>>());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for place in 0..LOOKS {
                let (holders, open, is_over) = (&holders, &open, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        for session in 0..LOOKS {
                            let mark = holders.mark();
                            let id = open.read().expect("read")[(session + place) % LOOKS].clone();
                            holders.keep(mark, &account(1), &id, time(1000));
                        }
                    }
                });
            }
            let came_back = (1..2000).find(|round| {
                let next = format!("{}-{round}", round % LOOKS);
                let ended = std::mem::replace(&mut open.write().expect("written")[round % LOOKS], next);
                holders.forget("u");
                // What looked before it ended is done by then.
                std::thread::sleep(Duration::from_millis(1));
                let found = finds(&holders, &ended, 1, 0);
                std::thread::sleep(Duration::from_millis(if found { 30 } else { 0 }));
                found && finds(&holders, &ended, 1, 0)
            });
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(came_back, None);
        });
    }
}
