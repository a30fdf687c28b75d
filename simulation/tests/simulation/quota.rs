//! The quota: a place is reserved, something is made, and the place is committed, released or left to expire, through
//! whatever becomes of the network, the database, the edges and subscription-svc.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request as Incoming;
use contract::{ErrorCode, Resource};
use edge::simulated::{Caller, Reserved, Services, context, reserve};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::quota::{Quota, State};
use tokio::time::sleep;
use turmoil::Sim;

use crate::callers::claims;
use crate::faults::{Faults, duration, statement};
use crate::history::History;
use crate::{network, seeds};

mod subscription;

const EDGES: [&str; 2] = ["edge-0", "edge-1"];
const SUBSCRIPTIONS: [&str; 2] = ["subscription-0", "subscription-1"];
const USERS: usize = 2;
/// The life of a reservation.
const LIFE: Duration = Duration::from_secs(3);
const BREAKING: Duration = Duration::from_secs(10);
/// How long after that an edge may take to tell its outcomes, which it tries for 25 s, and the last place to expire.
const HEALING: Duration = Duration::from_secs(50);

#[test]
fn whatever_dies_no_place_is_given_twice_or_kept_for_ever_and_what_is_made_counts() {
    seeds::check("quota", run);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 4] {
        assert_eq!(seeds::history(run, seed), seeds::history(run, seed));
    }
}

pub struct Shared {
    pub quotas: BTreeMap<String, Quota>,
    /// What was made after its place was given to others counts all the same.
    pub late: BTreeMap<String, i64>,
    /// What core-manager has, by its keys.
    made: BTreeSet<String>,
    /// What an edge knows to be made, and the life of that edge.
    known: Vec<(String, String, usize, u32)>,
    lives: [u32; EDGES.len()],
    admitted: BTreeMap<String, i64>,
    refused: BTreeMap<String, i64>,
    failed: i64,
    running: i64,
    keys: u32,
    is_ending: bool,
    is_calm: bool,
    pub faults: Faults,
    random: SmallRng,
    /// Milliseconds between two requests at an edge, at most.
    rest: u64,
    pub history: History,
    pub now: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Mutex<Shared>>);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let quotas = (0..USERS).map(|user| (name(user), Quota::new(random.random_range(1..6)))).collect();
        World(Arc::new(Mutex::new(Shared {
            quotas,
            late: BTreeMap::new(),
            made: BTreeSet::new(),
            known: Vec::new(),
            lives: [0; EDGES.len()],
            admitted: BTreeMap::new(),
            refused: BTreeMap::new(),
            failed: 0,
            running: 0,
            keys: 0,
            is_ending: false,
            is_calm: seed.is_multiple_of(4),
            faults: Faults::new(&mut random, &EDGES, &SUBSCRIPTIONS),
            rest: random.random_range(60..900),
            random,
            history: History::default(),
            now: Duration::ZERO,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no panic")
    }

    /// One statement of a process at this place.
    pub async fn statement(&self, place: usize) -> contract::Outcome<()> {
        let time = duration(&mut self.lock().random);
        statement(time, || self.lock().faults.mode(place)).await
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// An edge, with the requests that come to it.
async fn edge(world: World, place: usize) -> turmoil::Result {
    let channel = network::channel(&SUBSCRIPTIONS);
    let services = Services::over(channel.clone(), channel);
    let life = {
        let mut shared = world.lock();
        shared.lives[place] += 1;
        shared.lives[place]
    };
    loop {
        let (rest, request) = {
            let mut shared = world.lock();
            let rest = shared.rest;
            let rest = shared.random.random_range(10..rest);
            (rest, (!shared.is_ending).then(|| next(&mut shared)))
        };
        if let Some((user, key)) = request {
            tokio::spawn(serve(world.clone(), services.clone(), (place, life), user, key));
        }
        sleep(Duration::from_millis(rest)).await;
    }
}

/// Who asks, and under which key: sometimes one that was used before, or is in use at the other edge.
fn next(shared: &mut Shared) -> (String, String) {
    let user = shared.random.random_range(0..USERS);
    if shared.keys == 0 || shared.random.random_bool(0.85) {
        shared.keys += 1;
    }
    let key = if shared.is_calm {
        shared.keys
    } else {
        shared.random.random_range(shared.keys.saturating_sub(3)..=shared.keys)
    };
    // A key belongs to one user.
    let user = if shared.is_calm { user } else { key as usize % USERS };
    (name(user), format!("key {key} of {user}"))
}

/// What the gateway does with a request that makes something.
async fn serve(world: World, services: Services, (place, life): (usize, u32), user: String, key: String) {
    let context = context(incoming()).await.expect("a context");
    let caller = Caller::new(claims(&user, "session", 1));
    world.lock().running += 1;
    let reserved = reserve(Resource::Personas, key.clone(), &caller, &services, &context, LIFE).await;
    let reservation = match reserved {
        Ok(Reserved::New(reservation)) => reservation,
        Ok(Reserved::Before) => return world.lock().running -= 1,
        Err(failure) => {
            let mut shared = world.lock();
            if failure.code() == ErrorCode::QuotaExceeded {
                *shared.refused.entry(user).or_default() += 1;
            } else {
                shared.failed += 1;
            }
            return shared.running -= 1;
        }
    };
    {
        let mut shared = world.lock();
        let now = shared.now;
        shared.history.note(now, format!("edge-{place} has a place of {user} for {key}"));
        *shared.admitted.entry(user.clone()).or_default() += 1;
    }
    match reservation.during(make(&world, &key)).await {
        Made::Yes => {
            world.lock().known.push((user, key, place, life));
            reservation.commit().await;
        }
        Made::No => reservation.release().await,
        Made::Unknown => {}
    }
    world.lock().running -= 1;
}

fn incoming() -> Incoming {
    let request = Incoming::builder().uri("/api/v1/personas/instances").header("host", "localhost");
    request.body(Body::empty()).expect("a request")
}

enum Made {
    Yes,
    No,
    Unknown,
}

/// core-manager, which may take longer than a place lives, or break off before or after it has made something.
async fn make(world: &World, key: &str) -> Made {
    let (before, after, what) = {
        let mut shared = world.lock();
        let longest = if shared.random.random_bool(0.1) { 7000 } else { 400 };
        let random = &mut shared.random;
        (random.random_range(1..longest), random.random_range(1..400), random.random_range(0..100))
    };
    sleep(Duration::from_millis(before)).await;
    let (is_made, answer) = match what {
        _ if world.lock().is_calm => (true, Made::Yes),
        0..60 => (true, Made::Yes),
        60..70 => (true, Made::Unknown),
        70..75 => (false, Made::Unknown),
        _ => (false, Made::No),
    };
    if is_made {
        let mut shared = world.lock();
        let now = shared.now;
        shared.history.note(now, format!("{key} is made"));
        shared.made.insert(key.to_owned());
    }
    sleep(Duration::from_millis(after)).await;
    answer
}

fn run(seed: u64) -> History {
    let world = World::new(seed);
    let mut sim = network::build(seed);
    for (place, host) in SUBSCRIPTIONS.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || subscription::run(world.clone(), place));
    }
    for (place, host) in EDGES.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || edge(world.clone(), place));
    }
    while sim.elapsed() < BREAKING && world.lock().history.faults.is_empty() {
        step(&mut sim, &world);
        if !world.lock().is_calm {
            break_and_mend(&mut sim, &world);
        }
    }
    heal(&mut sim, &world);
    let healed = sim.elapsed();
    while !is_settled(&world.lock()) && sim.elapsed() < healed + HEALING {
        step(&mut sim, &world);
    }
    let mut shared = world.lock();
    judge(&mut shared);
    std::mem::take(&mut shared.history)
}

fn step(sim: &mut Sim<'_>, world: &World) {
    sim.step().expect("the processes run");
    let mut shared = world.lock();
    shared.now = sim.elapsed();
    let now = shared.now;
    let over: Vec<String> = shared
        .quotas
        .iter()
        .filter(|(user, quota)| {
            quota.used + quota.reserved > quota.limit + shared.late.get(*user).copied().unwrap_or(0)
        })
        .map(|(user, quota)| format!("{user} has {} and {} of {}", quota.used, quota.reserved, quota.limit))
        .collect();
    over.into_iter().for_each(|fault| shared.history.fault(now, fault));
}

fn break_and_mend(sim: &mut Sim<'_>, world: &World) {
    let turn = {
        let Shared { faults, random, history, now, .. } = &mut *world.lock();
        faults.turn(random, history, *now)
    };
    turn.take(sim);
}

fn heal(sim: &mut Sim<'_>, world: &World) {
    let turn = {
        let Shared { faults, history, now, is_ending, .. } = &mut *world.lock();
        *is_ending = true;
        history.note(*now, "everything is healed, and nobody asks any more");
        faults.end_all()
    };
    turn.take(sim);
}

/// Nothing is reserved, and what a living edge knows to be made is counted.
fn is_settled(shared: &Shared) -> bool {
    shared.quotas.values().all(|quota| quota.reserved == 0) && uncounted(shared).next().is_none()
}

/// What an edge that lives on knows to be made, and is not counted.
fn uncounted(shared: &Shared) -> impl Iterator<Item = &str> {
    let living = shared.known.iter().filter(|(_, _, place, life)| shared.lives[*place] == *life);
    living
        .filter(|(user, key, ..)| shared.quotas[user].state(key) != Some(State::Committed))
        .map(|(_, key, ..)| key.as_str())
}

fn judge(shared: &mut Shared) {
    let mut faults = Vec::new();
    faults.extend(uncounted(shared).map(|key| format!("{key} was made and is not counted")));
    for (user, quota) in &shared.quotas {
        if quota.reserved != 0 {
            faults.push(format!("{user} has {} reserved for ever", quota.reserved));
        }
        let counted = quota.committed().collect::<Vec<_>>();
        if quota.used != counted.len() as i64 {
            faults.push(format!("{user} has used {} of {counted:?}", quota.used));
        }
        let nothing = counted.into_iter().filter(|key| !shared.made.contains(*key));
        faults.extend(nothing.map(|key| format!("{key} counts and was never made")));
        if shared.is_calm {
            let [admitted, refused] =
                [&shared.admitted, &shared.refused].map(|counts| counts.get(user).copied().unwrap_or(0));
            let asked = admitted + refused;
            if asked == 0 || admitted != quota.limit.min(asked) || shared.failed > 0 {
                faults.push(format!("{user} got {admitted} of {} and {refused} refusals", quota.limit));
            }
        }
    }
    let now = shared.now;
    faults.into_iter().for_each(|fault| shared.history.fault(now, fault));
}
