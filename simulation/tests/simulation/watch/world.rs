//! What all processes of a run share: the database, and what is true.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use contract::identity::auth_event::Change as Wire;
use contract::identity::{AccountChanged, AccountDisabled, AuthEvent, Position, SessionEnded};
use identity_svc::simulated::Tail;
use prost_types::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::accounts::{Accounts, Change, Event};

use crate::faults::Faults;
use crate::history::History;

pub const EDGES: [&str; 2] = ["edge-0", "edge-1"];
pub const IDENTITIES: [&str; 2] = ["identity-0", "identity-1"];
/// How sessions are called of which there are too many to look at each.
pub const MANY: &str = "one of many";
pub const USERS: usize = 3;
/// Seconds that a token lives, and that an event matters.
pub const TOKEN_LIFE: i64 = 9;
pub const EVENT_LIFE: i64 = TOKEN_LIFE + 1;

#[derive(Clone, Debug)]
pub struct Token {
    pub user: String,
    pub session: String,
    pub version: i64,
    pub expires: i64,
}

/// The state of an account or session from a moment on, in milliseconds.
#[derive(Clone, Debug)]
pub struct Since<T> {
    pub at: u64,
    pub state: T,
}

/// The database of before.
#[derive(Clone)]
pub struct Backup {
    pub database: Accounts,
    pub ended: Vec<(String, u64)>,
}

pub struct Shared {
    pub database: Accounts,
    pub backup: Backup,
    /// What is being read while the database is replaced fails.
    pub generation: u64,
    pub tails: [Option<Tail>; IDENTITIES.len()],
    pub random: SmallRng,
    pub faults: Faults,
    /// How probable a change is in each step.
    pub changes: f64,
    pub history: History,
    pub tokens: Vec<Token>,
    /// How many there ever were.
    pub sessions: usize,
    /// Every event of the epoch, those that were swept, too.
    pub truth: Vec<Event>,
    /// The version of each user's claims over time, and since when sessions are ended.
    pub versions: Vec<Vec<Since<i64>>>,
    pub ended: Vec<(String, u64)>,
    /// Sessions that had ended, and accounts that had been disabled, before the database was restored. An edge that has
    /// heard of it may go on refusing them, whatever became of them since.
    pub refused_before: BTreeSet<String>,
    /// Those that are alive and know something.
    pub edges: Vec<Option<Standing>>,
    /// Everything works again.
    pub is_healed: bool,
    pub now: Duration,
}

/// How an edge is.
#[derive(Clone, Debug)]
pub struct Standing {
    pub position: Position,
    /// Whether what it knows is fresh.
    pub is_fresh: bool,
    /// When it last heard of identity-svc.
    pub heard: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Mutex<Shared>>);

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        // Near a number at which parts of snapshots end, so that they have several.
        let mut database = Accounts::new("epoch 0".to_owned(), random.random_range(960..1000), EVENT_LIFE);
        (0..USERS).for_each(|user| database.register(&name(user)));
        World(Arc::new(Mutex::new(Shared {
            backup: Backup { database: database.clone(), ended: Vec::new() },
            database,
            generation: 0,
            tails: [const { None }; IDENTITIES.len()],
            faults: Faults::new(&mut random, &EDGES, &IDENTITIES),
            changes: random.random_range(0.02..0.5),
            random,
            history: History::default(),
            tokens: Vec::new(),
            sessions: 0,
            truth: Vec::new(),
            versions: vec![vec![Since { at: 0, state: 1 }]; USERS],
            ended: Vec::new(),
            refused_before: BTreeSet::new(),
            edges: vec![None; EDGES.len()],
            is_healed: false,
            now: Duration::ZERO,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no panic")
    }
}

pub fn name(user: usize) -> String {
    format!("user-{user}")
}

/// The time of the whole simulation.
pub fn now() -> Duration {
    turmoil::sim_elapsed().expect("in a simulation")
}

impl Shared {
    /// Changes the database in one transaction, and tells some replica to hurry.
    pub fn change(&mut self, what: String, act: impl FnOnce(&mut Accounts, i64)) {
        let (before, at) = (self.database.last_sequence, self.now.as_millis() as u64);
        act(&mut self.database, self.now.as_secs() as i64);
        let new = self.database.after(before, usize::MAX);
        if new.is_empty() {
            return;
        }
        let now = self.now;
        self.history.note(now, format!("{what}: {} to {}", before + 1, self.database.last_sequence));
        for event in &new {
            let user = event.user.strip_prefix("user-").and_then(|user| user.parse::<usize>().ok());
            match &event.change {
                Change::Ended { session } => self.ended.push((session.clone(), at)),
                Change::Changed { version, .. } | Change::Disabled { version } => {
                    self.versions[user.expect("a user")].push(Since { at, state: *version });
                }
            }
        }
        self.truth.extend(new);
        let replica = self.random.random_range(0..=IDENTITIES.len());
        if let Some(tail) = self.tails.get(replica).and_then(Option::as_ref) {
            tail.hurry();
        }
    }

    /// The least version that the claims of a user had from `from` on.
    pub fn least_version(&self, user: &str, from: u64) -> i64 {
        let user = user.strip_prefix("user-").and_then(|user| user.parse::<usize>().ok()).expect("a user");
        let all = &self.versions[user];
        let first = all.iter().rposition(|since| since.at <= from).unwrap_or(0);
        all[first..].iter().map(|since| since.state).min().expect("a version")
    }

    /// Whether whoever has heard all up to this number knows that the session is over.
    pub fn has_told_end(&self, session: &str, upto: i64) -> bool {
        let told = self.truth.iter().filter(|event| event.sequence <= upto);
        told.map(|event| &event.change)
            .any(|change| matches!(change, Change::Ended { session: ended } if ended == session))
    }

    pub fn is_ended_since(&self, session: &str, at: u64) -> bool {
        self.ended.iter().any(|(ended, since)| ended == session && *since <= at)
    }
}

/// As the table gives it.
pub fn to_wire(event: Event, epoch: &str) -> AuthEvent {
    let user_id = event.user;
    let change = match event.change {
        Change::Ended { session } => Wire::SessionEnded(SessionEnded { session_id: session, user_id }),
        Change::Changed { version, tier } => Wire::AccountChanged(AccountChanged {
            email: format!("{user_id}@example.com"),
            user_id,
            version,
            role: "user".to_owned(),
            tier,
            permissions: Vec::new(),
        }),
        Change::Disabled { version } => Wire::AccountDisabled(AccountDisabled { user_id, version }),
    };
    AuthEvent {
        position: Some(Position { epoch: epoch.to_owned(), sequence: event.sequence }),
        forget_at: Some(Timestamp { seconds: event.forget_at, nanos: 0 }),
        at: Some(Timestamp { seconds: event.forget_at - EVENT_LIFE, nanos: 0 }),
        change: Some(change),
    }
}
