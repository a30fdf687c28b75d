//! Accounts, sessions and the events that tell of them, as identity-svc keeps them.

use std::collections::{BTreeMap, BTreeSet};

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Ended { session: String },
    Changed { version: i64, tier: String },
    Disabled { version: i64 },
}

/// A row of `auth_events`. Times are seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub sequence: i64,
    pub user: String,
    pub change: Change,
    pub forget_at: i64,
}

/// An account and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub version: i64,
    pub tier: String,
    pub tier_revision: i64,
    pub is_active: bool,
    /// Open ones.
    pub sessions: BTreeSet<String>,
}

/// The tables of identity-svc. Each call is a transaction, and numbers are taken under the lock of one row that is held
/// until the commit, so that the order of numbers is the order of calls.
#[derive(Clone, Debug)]
pub struct Accounts {
    pub epoch: String,
    pub last_sequence: i64,
    /// By their number.
    pub events: BTreeMap<i64, Event>,
    pub accounts: BTreeMap<String, Account>,
    /// For how many seconds an event matters.
    life: i64,
}

impl Accounts {
    /// Without accounts; the next event has the number after `last_sequence`, and matters for `life` seconds.
    pub fn new(epoch: String, last_sequence: i64, life: i64) -> Self {
        Accounts { epoch, last_sequence, events: BTreeMap::new(), accounts: BTreeMap::new(), life }
    }

    /// A new account, free and active.
    pub fn register(&mut self, user: &str) {
        let (tier, sessions) = ("free".to_owned(), BTreeSet::new());
        self.accounts.insert(
            user.to_owned(),
            Account { version: 1, tier, tier_revision: 0, is_active: true, sessions },
        );
    }

    /// Opens a session, if the account is active. Gives the version for its token.
    pub fn sign_in(&mut self, user: &str, session: &str) -> Option<i64> {
        let account = self.accounts.get_mut(user).filter(|account| account.is_active)?;
        account.sessions.insert(session.to_owned());
        Some(account.version)
    }

    /// Ends a session that is open.
    pub fn end(&mut self, user: &str, session: &str, now: i64) {
        let Some(account) = self.accounts.get_mut(user) else { return };
        if account.sessions.remove(session) {
            self.append(user, Change::Ended { session: session.to_owned() }, now);
        }
    }

    /// As `claims::set_tier`: a revision at or below the last one changes nothing.
    pub fn set_tier(&mut self, user: &str, tier: &str, revision: i64, now: i64) -> bool {
        let Some(account) = self.accounts.get_mut(user).filter(|account| account.tier_revision < revision)
        else {
            return false;
        };
        (account.tier, account.tier_revision) = (tier.to_owned(), revision);
        self.announce(user, now);
        true
    }

    /// Disabling ends all sessions.
    pub fn set_active(&mut self, user: &str, is_active: bool, now: i64) {
        let Some(account) = self.accounts.get_mut(user).filter(|account| account.is_active != is_active)
        else {
            return;
        };
        account.is_active = is_active;
        let ended = if is_active { BTreeSet::new() } else { std::mem::take(&mut account.sessions) };
        for session in ended {
            self.append(user, Change::Ended { session }, now);
        }
        self.announce(user, now);
    }

    /// As `claims::announce`.
    fn announce(&mut self, user: &str, now: i64) {
        let Some(account) = self.accounts.get_mut(user) else { return };
        account.version += 1;
        let version = account.version;
        let change = if account.is_active {
            Change::Changed { version, tier: account.tier.clone() }
        } else {
            Change::Disabled { version }
        };
        self.append(user, change, now);
    }

    fn append(&mut self, user: &str, change: Change, now: i64) {
        self.last_sequence += 1;
        let (sequence, forget_at) = (self.last_sequence, now + self.life);
        self.events.insert(sequence, Event { sequence, user: user.to_owned(), change, forget_at });
    }

    /// As `events::sweep`.
    pub fn sweep(&mut self, now: i64) {
        self.events.retain(|_, event| event.forget_at >= now);
    }

    /// Events after a number, at most so many.
    pub fn after(&self, sequence: i64, most: usize) -> Vec<Event> {
        self.events.range(sequence + 1..).take(most).map(|(_, event)| event.clone()).collect()
    }

    /// Events after one number up to another that matter at `now`.
    pub fn mattering(&self, after: i64, upto: i64, now: i64) -> Vec<Event> {
        let range = self.events.range(after + 1..).take_while(|(sequence, _)| **sequence <= upto);
        range.filter(|(_, event)| event.forget_at > now).map(|(_, event)| event.clone()).collect()
    }
}
