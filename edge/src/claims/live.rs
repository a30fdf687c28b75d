//! The table of live claims: what identity-svc has said about sessions and accounts since the oldest token that may
//! still be good was issued. It is asked on every request, without a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use contract::identity::auth_event::Change;
use contract::identity::{AuthEvent, Position, Snapshot};
use contract::token::Claims;
use contract::{ErrorCode, Failure, Outcome, Role, Tier};
use foldhash::fast::RandomState;
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of sessions and accounts. Entries leave when the last token that they concern has expired.
pub struct LiveClaims {
    /// Ended sessions, each with the second in which it can be forgotten.
    ended: papaya::HashMap<String, i64, RandomState>,
    accounts: papaya::HashMap<String, Account, RandomState>,
    /// How often the two have changed.
    changes: AtomicU64,
    /// Up to where the stream was followed.
    position: Mutex<Option<Position>>,
    /// When identity-svc was last heard, in milliseconds since `started`; 0 before the first snapshot.
    heard: AtomicU64,
    /// Until which age identity-svc is asked about each caller, since the table cannot say; 0 when it can.
    ask_until: AtomicI64,
    /// How many epochs there have been after the first.
    epochs: AtomicU64,
    started: Instant,
    limits: Staleness,
    /// Wakes a user's open sockets when something about the user has changed.
    watched: Mutex<HashMap<String, watch::Sender<()>>>,
}

/// How old the table may be.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// Beyond this the table alone is not trusted.
    pub limit: Duration,
    /// For so long after that reads go on when identity-svc cannot be asked either.
    pub grace: Duration,
}

/// What the table can be relied on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything.
    Fresh,
    /// Each request is confirmed by identity-svc; reads go on without.
    Stale,
    /// Nothing goes on without identity-svc.
    Lost,
}

impl Freshness {
    /// The name that administrators are told.
    pub fn name(self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Stale => "stale",
            Freshness::Lost => "lost",
        }
    }
}

/// The version of what was known in a former epoch: anything of this one is newer.
const FORMER: i64 = i64::MIN;

#[derive(Clone)]
struct Account {
    version: i64,
    forget_at: i64,
    /// `None` when the account is disabled or gone.
    claims: Option<CurrentClaims>,
}

#[derive(Clone)]
struct CurrentClaims {
    email: String,
    role: Role,
    tier: Tier,
    permissions: Vec<String>,
}

impl LiveClaims {
    pub fn new(limits: Staleness) -> Self {
        LiveClaims {
            ended: papaya::HashMap::default(),
            accounts: papaya::HashMap::default(),
            changes: AtomicU64::new(0),
            position: Mutex::default(),
            heard: AtomicU64::new(0),
            ask_until: AtomicI64::new(0),
            epochs: AtomicU64::new(0),
            started: Instant::now(),
            limits,
            watched: Mutex::default(),
        }
    }

    /// The claims that count now, where they are not those that the token was issued with.
    ///
    /// # Errors
    /// AUTH003 when the session has ended or the account is disabled.
    pub fn overrule(&self, claims: &Claims) -> Outcome<Option<Claims>> {
        if self.ended.pin().contains_key(&claims.sid) {
            return Err(Failure::new(ErrorCode::TokenInvalid).saying("The session has ended"));
        }
        let accounts = self.accounts.pin();
        let Some(account) =
            accounts.get(&claims.user_id).filter(|account| self.overrules(account, claims.ver))
        else {
            return Ok(None);
        };
        let Some(current) = account.claims.clone() else {
            return Err(Failure::new(ErrorCode::TokenInvalid).saying("The account is disabled"));
        };
        let CurrentClaims { email, role, tier, permissions } = current;
        let claims = Claims { ver: account.version, email, role, tier, permissions, ..claims.clone() };
        Ok(Some(claims.narrowed()))
    }

    /// Versions of another epoch are not to be compared: then a disabled account is one whatever the token says.
    fn overrules(&self, account: &Account, version: i64) -> bool {
        account.version > version
            || account.claims.is_none() && (account.version == FORMER || self.must_ask())
    }

    /// A number that grows with every change of what [`LiveClaims::overrule`] says, once that says so.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Takes a part of a snapshot in; it counts from the last one. What was known stays: entries only ever get newer,
    /// and leave by their own time. Only a new epoch (a restored database) starts over; what was ended stays so.
    pub fn apply_snapshot(&self, snapshot: &Snapshot) {
        let Some(position) = snapshot.position.clone() else { return };
        if self.position().is_some_and(|known| known.epoch != position.epoch) {
            self.leave_epoch();
            // The next part adds to this one, and a stream that breaks off meanwhile starts over. Until the last part
            // is there nothing relies on the table.
            *lock(&self.position) = None;
            self.heard.store(0, Ordering::Relaxed);
        }
        snapshot.events.iter().for_each(|event| self.remember(event));
        if snapshot.more {
            return;
        }
        self.heard_at(position);
        lock(&self.watched).values().for_each(|changes| changes.send_replace(()));
    }

    /// Keeps what is refused, for as long as a token may live: what a restored database says of it is older. Claims go,
    /// since their versions mean nothing any more.
    fn leave_epoch(&self) {
        self.accounts.pin().retain(|_, account| account.claims.is_none());
        let accounts = self.accounts.pin();
        let disabled: Vec<String> = accounts.keys().cloned().collect();
        for user_id in disabled {
            accounts.update(user_id, |account| Account { version: FORMER, ..account.clone() });
        }
        self.epochs.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Grows when the database was restored: who was let in before is to be looked at again.
    pub fn epochs(&self) -> u64 {
        self.epochs.load(Ordering::Relaxed)
    }

    /// Takes one event in.
    pub fn apply(&self, event: &AuthEvent) {
        self.remember(event);
        if let Some(position) = event.position.clone() {
            self.heard_at(position);
        }
        if let Some(changes) = user_of(event).and_then(|user_id| lock(&self.watched).get(user_id).cloned()) {
            changes.send_replace(());
        }
    }

    /// Notes that identity-svc is alive and has nothing beyond `position`.
    pub fn heard_at(&self, position: Position) {
        *lock(&self.position) = Some(position);
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(since.max(1), Ordering::Relaxed);
    }

    /// Where to resume the stream.
    pub fn position(&self) -> Option<Position> {
        lock(&self.position).clone()
    }

    /// When identity-svc was last heard, in milliseconds of this edge; 0 before the first snapshot.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How long ago identity-svc was last heard; `None` before the first snapshot.
    pub fn staleness(&self) -> Option<Duration> {
        let heard = self.heard();
        (heard > 0).then(|| self.started.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// What the table can be relied on for at this moment.
    pub fn freshness(&self) -> Freshness {
        match self.staleness() {
            Some(age) if age <= self.limits.limit && !self.must_ask() => Freshness::Fresh,
            Some(age) if age <= self.limits.limit + self.limits.grace => Freshness::Stale,
            _ => Freshness::Lost,
        }
    }

    /// Whether something is in force that this edge does not understand, as from a newer identity-svc, or tokens are about
    /// that a restored database knows nothing of.
    fn must_ask(&self) -> bool {
        self.ask_until.load(Ordering::Relaxed) > 0
    }

    /// Changes whenever something that concerns the user does.
    pub fn changes_of(&self, user_id: &str) -> watch::Receiver<()> {
        let mut watched = lock(&self.watched);
        watched.entry(user_id.to_owned()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Seconds since the beginning, by a clock that nobody sets.
    pub fn age(&self) -> i64 {
        self.started.elapsed().as_secs() as i64
    }

    /// Drops what no token can need any more at this age.
    pub fn forget(&self, now: i64) {
        self.ended.pin().retain(|_, forget_at| *forget_at > now);
        self.accounts.pin().retain(|_, account| account.forget_at > now);
        let is_over = |until| (until <= now).then_some(0);
        let _ = self.ask_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_over);
        lock(&self.watched).retain(|_, changes| changes.receiver_count() > 0);
        ENTRIES.set(self.entries());
    }

    /// Sessions and accounts of which something is known.
    pub fn entries(&self) -> i64 {
        (self.ended.len() + self.accounts.len()) as i64
    }

    fn remember(&self, event: &AuthEvent) {
        // For as long as it has mattered from its beginning on, counted from now: whoever puts the clock of this machine
        // forward and back again must not have made good what was ended.
        let life = match (&event.at, &event.forget_at) {
            (Some(at), Some(until)) => until.seconds.saturating_sub(at.seconds).saturating_add(1),
            _ => i64::MAX,
        };
        let forget_at = self.age().saturating_add(life);
        match &event.change {
            Some(Change::SessionEnded(ended)) => {
                self.ended.pin().insert(ended.session_id.clone(), forget_at);
            }
            Some(Change::AccountChanged(changed)) => {
                let known = changed.role.parse::<Role>().ok().zip(changed.tier.parse::<Tier>().ok());
                if known.is_none() {
                    tracing::error!(
                        "an account has a role or tier that this edge does not know; it is shut out"
                    );
                }
                let claims = known.map(|(role, tier)| CurrentClaims {
                    email: changed.email.clone(),
                    role,
                    tier,
                    permissions: changed.permissions.clone(),
                });
                self.remember_account(
                    &changed.user_id,
                    Account { version: changed.version, forget_at, claims },
                );
            }
            Some(Change::AccountDisabled(disabled)) => {
                let account = Account { version: disabled.version, forget_at, claims: None };
                self.remember_account(&disabled.user_id, account);
            }
            Some(Change::Restored(_)) => {
                tracing::warn!(
                    seconds = life,
                    "the database was restored: identity-svc is asked about each caller until former tokens have expired"
                );
                self.ask_until.fetch_max(forget_at, Ordering::Relaxed);
            }
            None => {
                // It may be a revocation: until it can be forgotten, identity-svc is asked for each request.
                tracing::error!("an event of a kind that this edge does not know");
                self.ask_until.fetch_max(forget_at, Ordering::Relaxed);
            }
        }
        // After the change: who has seen this number has seen the change.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A resumed stream may repeat what is known: the higher version wins.
    fn remember_account(&self, user_id: &str, account: Account) {
        let accounts = self.accounts.pin();
        accounts.update_or_insert(
            user_id.to_owned(),
            |known| {
                if known.version > account.version { known.clone() } else { account.clone() }
            },
            account.clone(),
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn user_of(event: &AuthEvent) -> Option<&str> {
    Some(match event.change.as_ref()? {
        Change::SessionEnded(ended) => &ended.user_id,
        Change::AccountChanged(changed) => &changed.user_id,
        Change::AccountDisabled(disabled) => &disabled.user_id,
        Change::Restored(_) => return None,
    })
}

static ENTRIES: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "edge_live_claims_entries",
        "Sessions and accounts in the table of live claims"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
pub(super) mod tests {
    use contract::identity::{AccountChanged, AccountDisabled, Restored, SessionEnded};
    use contract::token::ISSUER;
    use prost_types::Timestamp;

    use super::*;

    /// The claims of a token of the user `u` with this version.
    pub fn claims(ver: i64) -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: String::new(),
            sub: "u".to_owned(),
            jti: String::new(),
            iat: 0,
            nbf: 0,
            exp: 0,
            sid: "s".to_owned(),
            ver,
            user_id: "u".to_owned(),
            email: "u@example.com".to_owned(),
            client_id: "web".to_owned(),
            role: Role::User,
            tier: Tier::Free,
            permissions: vec![],
            scope: None,
            key_exp: None,
        }
    }

    fn live() -> LiveClaims {
        LiveClaims::new(Staleness { limit: Duration::from_millis(50), grace: Duration::from_millis(50) })
    }

    #[test]
    fn a_table_that_never_heard_is_lost_and_one_that_has_just_heard_is_fresh() {
        let live = live();
        assert_eq!(live.freshness(), Freshness::Lost);
        live.heard_at(Position::default());
        assert_eq!(live.freshness(), Freshness::Fresh);
    }

    #[test]
    fn an_event_that_is_not_understood_has_each_request_confirmed_until_it_is_forgotten() {
        let live = live();
        live.apply(&AuthEvent { change: None, ..event(1, upgraded(2, "basic")) });
        assert_eq!(live.freshness(), Freshness::Stale);
        live.forget(99);
        live.heard_at(Position::default());
        assert_eq!(live.freshness(), Freshness::Stale);
        live.forget(100);
        assert_eq!(live.freshness(), Freshness::Fresh);
    }

    #[test]
    fn only_the_user_that_an_event_concerns_is_woken() {
        let live = live();
        let (mut one, mut other) = (live.changes_of("u"), live.changes_of("other"));
        live.apply(&event(1, upgraded(2, "basic")));
        assert!(one.has_changed().expect("watched") && !other.has_changed().expect("watched"));
        one.mark_unchanged();
        live.apply_snapshot(&Snapshot { position: Some(Position::default()), ..Snapshot::default() });
        assert!(one.has_changed().expect("watched") && other.has_changed().expect("watched"));
        other.mark_unchanged();
        drop(one);
        live.forget(0);
        assert_eq!(lock(&live.watched).len(), 1);
    }

    fn event(sequence: i64, change: Change) -> AuthEvent {
        AuthEvent {
            position: Some(Position { epoch: "e".to_owned(), sequence }),
            forget_at: Some(Timestamp { seconds: 1_000_099, nanos: 0 }),
            at: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
            change: Some(change),
        }
    }

    fn upgraded(version: i64, tier: &str) -> Change {
        Change::AccountChanged(AccountChanged {
            user_id: "u".to_owned(),
            version,
            email: "u@example.com".to_owned(),
            role: "user".to_owned(),
            tier: tier.to_owned(),
            permissions: vec![],
        })
    }

    #[test]
    fn an_older_token_is_served_with_the_current_claims_and_a_newer_one_with_its_own() {
        let live = live();
        live.apply(&event(1, upgraded(3, "premium")));
        assert_eq!(live.overrule(&claims(2)).expect("good").expect("claims").tier, Tier::Premium);
        assert!(live.overrule(&claims(3)).expect("good").is_none());
    }

    #[test]
    fn a_snapshot_in_parts_counts_from_its_last_part_and_a_new_epoch_keeps_all_of_them() {
        let live = live();
        live.apply(&event(1, upgraded(3, "premium")));
        let part = |session: &str, more| {
            let ended = SessionEnded { session_id: session.to_owned(), user_id: "u".to_owned() };
            let position = Some(Position { epoch: "restored".to_owned(), sequence: 7 });
            Snapshot { position, events: vec![event(7, Change::SessionEnded(ended))], more }
        };
        live.apply_snapshot(&part("first", true));
        assert_eq!(live.position(), None, "a stream that breaks off here must start over");
        assert_eq!(live.freshness(), Freshness::Lost, "half a table is none");
        live.apply_snapshot(&part("s", false));
        assert_eq!(live.position().map(|position| position.sequence), Some(7));
        assert_eq!(live.ended.len(), 2, "the first part is still there");
        live.ended.pin().clear();
        assert!(live.overrule(&claims(2)).expect("good").is_none(), "the former epoch is forgotten");
    }

    #[test]
    fn what_was_refused_before_a_restore_stays_so_and_its_versions_count_for_nothing() {
        let live = live();
        let (ended, disabled) = (
            SessionEnded { session_id: "s".to_owned(), user_id: "u".to_owned() },
            AccountDisabled { user_id: "u".to_owned(), version: 9 },
        );
        live.apply(&event(1, Change::SessionEnded(ended)));
        live.apply(&event(2, Change::AccountDisabled(disabled)));
        let position = Some(Position { epoch: "restored".to_owned(), sequence: 1 });
        let restored = event(1, Change::Restored(Restored {}));
        live.apply_snapshot(&Snapshot { position, events: vec![restored], more: false });
        assert_eq!((live.epochs(), live.freshness()), (1, Freshness::Stale), "each caller is asked about");
        assert!(live.overrule(&claims(20)).is_err());
        live.ended.pin().clear();
        assert!(live.overrule(&claims(20)).is_err(), "the account was disabled, whatever the token says");
        // Made good again in the new epoch, and banned again, with versions far below those of before.
        live.apply(&event(2, upgraded(3, "basic")));
        assert!(live.overrule(&claims(20)).expect("good").is_none());
        let disabled = AccountDisabled { user_id: "u".to_owned(), version: 4 };
        live.apply(&event(3, Change::AccountDisabled(disabled)));
        assert!(live.overrule(&claims(20)).is_err());
        live.forget(100);
        live.heard_at(Position::default());
        assert_eq!(live.freshness(), Freshness::Fresh, "all tokens of before have expired");
    }

    #[test]
    fn a_repeated_older_event_changes_nothing() {
        let live = live();
        live.apply(&event(2, upgraded(3, "premium")));
        live.apply(&event(1, upgraded(2, "basic")));
        assert_eq!(live.overrule(&claims(1)).expect("good").expect("claims").tier, Tier::Premium);
    }

    #[test]
    fn an_ended_session_and_a_disabled_account_are_refused_until_forgotten() {
        let live = live();
        let ended = SessionEnded { session_id: "s".to_owned(), user_id: "u".to_owned() };
        live.apply(&event(1, Change::SessionEnded(ended)));
        assert!(live.overrule(&claims(9)).is_err());
        // Though it is long over by the clock of the world, it is kept for as long as a token can live.
        live.forget(live.age());
        assert!(live.overrule(&claims(9)).is_err());
        live.forget(100);
        assert!(live.overrule(&claims(9)).is_ok());
        let disabled = AccountDisabled { user_id: "u".to_owned(), version: 5 };
        live.apply(&event(2, Change::AccountDisabled(disabled)));
        assert!(live.overrule(&claims(4)).is_err());
    }
}
