//! An edge: the real watch and table of live claims, looked at again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chassis::health::Health;
use contract::identity::Position;
use contract::token::Claims;
use edge::simulated::{
    Authenticator, Caller, Freshness, Intent, KeySettings, Limits, LiveClaims, RateLimiter, Sights,
    Staleness, Watch, enforcement,
};
use rand::Rng;
use simulation::accounts::Change;
use tokio::time::sleep;

use super::identity::SECRET;
use super::world::{MANY, Standing, Token, World, now};
use crate::callers::claims;
use crate::network;

const STALENESS: Staleness = Staleness { limit: Duration::from_secs(3), grace: Duration::from_secs(3) };
/// How much older than its staleness the word of identity-svc may be: between two heartbeats, on the way, and in the
/// database.
const SLACK: Duration = Duration::from_secs(4);
const LOOKS: Duration = Duration::from_millis(130);

/// Lives until it is killed.
pub async fn run(world: World, place: usize) -> turmoil::Result {
    let channel = network::channel(&["identity-0", "identity-1"]);
    let live = Arc::new(LiveClaims::new(STALENESS));
    let (sights, _reports) = Sights::new();
    let rate = RateLimiter::new(Limits::off(), None);
    let authenticator = Authenticator::new(live.clone(), sights, rate, channel.clone());
    let (enforcement, _reporter) = enforcement(format!("edge-{place}"));
    let watch = Watch {
        channel,
        authenticator: authenticator.clone(),
        keys: KeySettings { secrets: vec![SECRET.to_owned().into()], audience: "simulation".to_owned() },
        enforcement,
        health: Health::default(),
        jitter: network::jitter,
    };
    tokio::spawn(watch.run());
    tokio::spawn(confirm(world.clone(), place, authenticator));
    let mut seen = Seen::default();
    world.lock().edges[place] = None;
    loop {
        look(&world, place, &live, &mut seen);
        live.forget(live.age());
        sleep(LOOKS).await;
    }
}

/// What this life of the edge has said, in one epoch.
#[derive(Default)]
struct Seen {
    position: Option<Position>,
    freshness: Option<Freshness>,
    versions: BTreeMap<String, i64>,
    ended: BTreeSet<String>,
}

/// Compares the table with what is true.
fn look(world: &World, place: usize, live: &LiveClaims, seen: &mut Seen) {
    let (mut shared, now) = (world.lock(), now());
    let (position, freshness) = (live.position(), live.freshness());
    shared.edges[place] = position.clone().zip(live.staleness()).map(|(position, age)| Standing {
        position,
        is_fresh: freshness == Freshness::Fresh,
        heard: now.saturating_sub(age),
    });
    if (&position, Some(freshness)) != (&seen.position, seen.freshness) {
        let at = position.as_ref().map(|position| position.sequence);
        shared.history.note(now, format!("edge-{place} is at {at:?}, {freshness:?}"));
    }
    let epoch = |position: &Option<Position>| position.as_ref().map(|position| position.epoch.clone());
    if epoch(&position) != epoch(&seen.position) {
        *seen = Seen::default();
    }
    (seen.position, seen.freshness) = (position.clone(), Some(freshness));
    // Half a table of another epoch says nothing, and is not relied on; nor does the truth of another epoch of it.
    let Some(position) = position.filter(|position| position.epoch == shared.database.epoch) else { return };
    let mut faults = Vec::new();
    let matters = |forget_at: i64| forget_at > now.as_secs() as i64;
    for event in
        shared.truth.iter().filter(|event| event.sequence <= position.sequence && matters(event.forget_at))
    {
        let is_enforced = match &event.change {
            Change::Ended { session } if session.starts_with(MANY) && event.sequence % 50 > 0 => true,
            Change::Ended { session } => live.overrule(&claims(&event.user, session, 0)).is_err(),
            Change::Changed { .. } | Change::Disabled { .. } => {
                let current = live.overrule(&claims(&event.user, "-", 0)).map(|claims| claims.map(told));
                let later = shared
                    .truth
                    .iter()
                    .filter(|other| other.user == event.user && other.sequence >= event.sequence);
                later.map(|event| &event.change).any(|change| match (&current, change) {
                    (Ok(Some((known, has))), Change::Changed { version, tier }) => {
                        version == known && tier == has
                    }
                    (Err(_), Change::Disabled { .. }) => true,
                    _ => false,
                })
            }
        };
        if !is_enforced {
            faults.push(format!("edge-{place} is at {} without {event:?}", position.sequence));
        }
    }
    for token in shared.tokens.iter().filter(|token| matters(token.expires)) {
        match live.overrule(&claims(&token.user, &token.session, token.version)) {
            // Its account may be refused for what it was before a restore, and only for as long as a token of then lives.
            Err(_) if shared.has_told_end(&token.session, position.sequence) => {
                seen.ended.insert(token.session.clone());
            }
            Err(_) => {}
            Ok(_) if seen.ended.contains(&token.session) => {
                faults.push(format!("edge-{place} brought {} back", token.session));
            }
            Ok(_) => {}
        }
    }
    // By a token of before all changes: what the table itself says, which never gets older.
    for user in shared.database.accounts.keys() {
        let version = live.overrule(&claims(user, "-", 0)).ok().flatten().map(|current| current.ver);
        let Some(version) = version else { continue };
        let before = seen.versions.insert(user.clone(), version).unwrap_or(0);
        if version < before {
            faults.push(format!("edge-{place} went back from version {before} of {user} to {version}"));
        }
    }
    faults.into_iter().for_each(|fault| shared.history.fault(now, fault));
}

/// Has callers confirmed, as requests do.
async fn confirm(world: World, place: usize, authenticator: Authenticator) {
    loop {
        let (pause, chosen, intent) = {
            let mut shared = world.lock();
            let (pause, intent) = (
                shared.random.random_range(20..200),
                [Intent::Read, Intent::Act][shared.random.random_range(0..2)],
            );
            let good: Vec<Token> = shared
                .tokens
                .iter()
                .filter(|token| token.expires > now().as_secs() as i64)
                .cloned()
                .collect();
            let chosen = (!good.is_empty()).then(|| good[shared.random.random_range(0..good.len())].clone());
            (pause, chosen, intent)
        };
        if let Some(token) = chosen {
            confirm_one(&world, place, &authenticator, &token, intent).await;
        }
        sleep(Duration::from_millis(pause)).await;
    }
}

async fn confirm_one(
    world: &World,
    place: usize,
    authenticator: &Authenticator,
    token: &Token,
    intent: Intent,
) {
    let began = now();
    let (generation, was_healed) = {
        let shared = world.lock();
        (shared.generation, shared.is_healed)
    };
    let caller = Caller::new(claims(&token.user, &token.session, token.version));
    let confirmed = match caller.under(authenticator.live()) {
        Ok(caller) => authenticator.confirm(caller, intent).await,
        refused => refused,
    };
    let mut shared = world.lock();
    // A restored database takes back what was known of another; the look above sees to what follows.
    if shared.generation != generation {
        return;
    }
    let grace = if intent == Intent::Read { STALENESS.grace } else { Duration::ZERO };
    let bound = began.saturating_sub(STALENESS.limit + grace + SLACK).as_millis() as u64;
    match confirmed {
        Ok(caller) => {
            if shared.is_ended_since(&token.session, bound) {
                let fault = format!("edge-{place} lets {} {intent:?} long after its end", token.session);
                shared.history.fault(now(), fault);
            }
            let least = shared.least_version(&token.user, bound);
            if caller.claims().ver < least {
                let fault = format!(
                    "edge-{place} serves {} with version {} where {least} has long been",
                    token.user,
                    caller.claims().ver
                );
                shared.history.fault(now(), fault);
            }
        }
        Err(failure) => {
            let is_open = shared
                .database
                .accounts
                .get(&token.user)
                .is_some_and(|account| account.is_active && account.sessions.contains(&token.session));
            let may_be_refused =
                [&token.user, &token.session].iter().any(|who| shared.refused_before.contains(*who));
            if was_healed && is_open && !may_be_refused {
                let fault = format!("edge-{place} refuses {}: {failure}", token.session);
                shared.history.fault(now(), fault);
            }
        }
    }
}

/// The version and the tier.
fn told(claims: Claims) -> (i64, String) {
    (claims.ver, claims.tier.name().to_owned())
}
