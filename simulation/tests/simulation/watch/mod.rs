//! Live claims: what identity-svc commits binds at every edge, through whatever becomes of the network, the database and
//! the processes.

mod edge;
mod identity;
mod world;

use std::time::Duration;

use rand::Rng;
use simulation::accounts::Change;
use turmoil::Sim;

use crate::history::History;
use crate::{network, seeds};
use world::{Backup, EDGES, IDENTITIES, MANY, Shared, Standing, TOKEN_LIFE, Token, USERS, World, name};

/// How long things break.
const BREAKING: Duration = Duration::from_secs(9);
/// How long after that every edge may take to be current: a connection that was cut in silence is found out by its
/// keepalive, as the simulated network sends nothing again.
const HEALING: Duration = Duration::from_secs(25);
/// The longest that anything is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// How long a change may take to bind when nothing is broken.
const BINDING: Duration = Duration::from_secs(1);
/// How probable it is in each step that the database is restored.
const RESTORING: f64 = 0.001;

#[test]
fn whatever_breaks_every_edge_enforces_what_it_has_heard_and_catches_up() {
    seeds::check("watch", run);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 4, 6] {
        assert_eq!(seeds::history(run, seed), seeds::history(run, seed));
    }
}

fn run(seed: u64) -> History {
    let world = World::new(seed);
    let mut sim = network::build(seed);
    for (place, host) in IDENTITIES.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || identity::run(world.clone(), place));
    }
    for (place, host) in EDGES.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || edge::run(world.clone(), place));
    }
    while sim.elapsed() < BREAKING && world.lock().history.faults.is_empty() {
        step(&mut sim, &world);
        let probability = world.lock().changes;
        change(&world, probability);
        break_and_mend(&mut sim, &world);
    }
    if world.lock().history.faults.is_empty() {
        must_heal(&mut sim, &world);
    }
    std::mem::take(&mut world.lock().history)
}

fn must_heal(sim: &mut Sim<'_>, world: &World) {
    let turn = {
        let Shared { faults, history, now, .. } = &mut *world.lock();
        history.note(*now, "everything is healed");
        faults.end_all()
    };
    turn.take(sim);
    let healed = sim.elapsed();
    // What is heard later than that was not on its way before: the stream on which it came goes on.
    let is_in_touch = || {
        let heard_at = healed + ON_ITS_WAY;
        world.lock().edges.iter().all(|edge| edge.as_ref().is_some_and(|edge| edge.heard > heard_at))
    };
    while !(is_current(world) && is_in_touch()) && sim.elapsed() < healed + HEALING {
        step(sim, world);
    }
    must_be_current(world, "after everything was healed");
    world.lock().is_healed = true;
    change(world, 1.0);
    change(world, 1.0);
    let changed = sim.elapsed();
    while sim.elapsed() < changed + BINDING {
        step(sim, world);
    }
    must_be_current(world, "a second after a change");
}

fn step(sim: &mut Sim<'_>, world: &World) {
    sim.step().expect("the processes run");
    let mut shared = world.lock();
    let before = std::mem::replace(&mut shared.now, sim.elapsed()).as_secs();
    let now = shared.now.as_secs();
    if now != before {
        shared.database.sweep(now as i64);
    }
    if shared.random.random_bool(0.005) {
        shared.backup = Backup { database: shared.database.clone(), ended: shared.ended.clone() };
    }
}

/// Every edge has heard all there is.
fn is_current(world: &World) -> bool {
    let shared = world.lock();
    let database = &shared.database;
    shared.edges.iter().all(|edge| {
        edge.as_ref().is_some_and(|Standing { position, is_fresh, .. }| {
            *is_fresh && position.epoch == database.epoch && position.sequence == database.last_sequence
        })
    })
}

fn must_be_current(world: &World, when: &str) {
    if !is_current(world) {
        let mut shared = world.lock();
        let (now, end) = (shared.now, shared.database.last_sequence);
        let fault = format!("{when} not every edge is at {end}: {:?}", shared.edges);
        shared.history.fault(now, fault);
    }
}

/// With this probability, something that people do.
fn change(world: &World, probability: f64) {
    let mut shared = world.lock();
    if !shared.random.random_bool(probability) {
        return;
    }
    let user = name(shared.random.random_range(0..USERS));
    let open: Vec<String> = shared.database.accounts[&user].sessions.iter().cloned().collect();
    let chosen = (!open.is_empty()).then(|| open[shared.random.random_range(0..open.len())].clone());
    match shared.random.random_range(0..100) {
        0..40 => {
            let session = chosen.filter(|_| shared.random.random_bool(0.4));
            shared.sessions += 1;
            let session = session.unwrap_or_else(|| format!("session {}", shared.sessions));
            let expires = shared.now.as_secs() as i64 + TOKEN_LIFE;
            if let Some(version) = shared.database.sign_in(&user, &session) {
                shared.tokens.push(Token { user, session, version, expires });
            }
        }
        40..60 => {
            if let Some(session) = chosen {
                shared.change(format!("{session} ends"), |accounts, now| accounts.end(&user, &session, now));
            }
        }
        60..85 => {
            let revision = shared.database.accounts[&user].tier_revision + 1;
            let tier = ["free", "basic", "premium"][shared.random.random_range(0..3)];
            shared.change(format!("{user} is {tier}"), |accounts, now| {
                accounts.set_tier(&user, tier, revision, now);
            });
        }
        85..=98 => {
            let is_active = !shared.database.accounts[&user].is_active;
            shared.change(format!("{user} is active: {is_active}"), |accounts, now| {
                accounts.set_active(&user, is_active, now);
            });
        }
        _ if shared.random.random_bool(0.1) => many(&mut shared, &user),
        _ => {}
    }
}

/// More than one reading, or one part of a snapshot, holds.
fn many(shared: &mut Shared, user: &str) {
    let count = shared.random.random_range(300..1300);
    shared.change(format!("{count} sessions of {user} end"), |accounts, now| {
        for number in 0..count {
            let session = format!("{MANY} {number} at {now}");
            if accounts.sign_in(user, &session).is_some() {
                accounts.end(user, &session, now);
            }
        }
    });
}

/// Perhaps something breaks, and what has been broken for long enough is whole again.
fn break_and_mend(sim: &mut Sim<'_>, world: &World) {
    let turn = {
        let mut shared = world.lock();
        let Shared { faults, random, history, now, .. } = &mut *shared;
        let turn = faults.turn(random, history, *now);
        if shared.random.random_bool(RESTORING) {
            restore(&mut shared);
        }
        turn
    };
    turn.take(sim);
}

/// The database is another one: as old as the last backup, and with an epoch of its own.
fn restore(shared: &mut Shared) {
    let (now, at) = (shared.now, shared.now.as_millis() as u64);
    let backup = shared.backup.clone();
    shared.generation += 1;
    let refused = shared.truth.drain(..).filter_map(|event| match event.change {
        Change::Ended { session } => Some(session),
        Change::Disabled { .. } => Some(event.user),
        Change::Changed { .. } => None,
    });
    shared.refused_before.extend(refused);
    shared.database = backup.database;
    shared.database.epoch = format!("epoch {}", shared.generation);
    shared.ended = backup.ended;
    shared.truth = shared.database.events.values().cloned().collect();
    // Of sessions that the backup does not have nothing was promised.
    let Shared { tokens, database, .. } = shared;
    tokens.retain(|token| database.accounts[&token.user].sessions.contains(&token.session));
    for (user, versions) in shared.versions.iter_mut().enumerate() {
        versions.push(world::Since { at, state: shared.database.accounts[&name(user)].version });
    }
    let end = shared.database.last_sequence;
    shared.history.note(now, format!("the database is restored to {end} of before"));
}
