//! Tier changes: what subscription-svc commits reaches identity-svc, once in effect and in the order of each user, through
//! whatever becomes of the network, the database and the processes.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use contract::identity::user_service_server::{UserService, UserServiceServer};
use contract::identity::*;
use contract::{ErrorCode, Failure, Outcome};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simulation::accounts::Accounts;
use simulation::outbox::{Open, Subscriptions};
use subscription_svc::simulated::{BATCH, Outbox, Relay, Row};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use turmoil::Sim;

use crate::faults::{Faults, duration, statement};
use crate::history::History;
use crate::{network, seeds};

const RELAYS: [&str; 2] = ["subscription-0", "subscription-1"];
const IDENTITIES: [&str; 2] = ["identity-0", "identity-1"];
const USERS: usize = 4;
const TIERS: [&str; 4] = ["free", "basic", "premium", "enterprise"];
/// How long things break, and how long after that everything may take to arrive: a connection that was cut in silence is
/// found out by its keepalive, as the simulated network sends nothing again.
const BREAKING: Duration = Duration::from_secs(8);
const HEALING: Duration = Duration::from_secs(30);

#[test]
fn every_tier_change_takes_effect_once_and_in_order_whatever_dies() {
    seeds::check("outbox", run);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 4] {
        assert_eq!(seeds::history(run, seed), seeds::history(run, seed));
    }
}

struct Shared {
    subscriptions: Subscriptions,
    accounts: Accounts,
    /// Users that identity-svc has deleted.
    deleted: Vec<String>,
    open: Vec<(Duration, Open)>,
    hurries: Vec<Option<Relay<Table>>>,
    faults: Faults,
    random: SmallRng,
    changes: f64,
    history: History,
    now: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
struct World(Arc<Mutex<Shared>>);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut accounts = Accounts::new("epoch".to_owned(), 0, 1000);
        (0..USERS).for_each(|user| accounts.register(&name(user)));
        World(Arc::new(Mutex::new(Shared {
            subscriptions: Subscriptions::default(),
            accounts,
            deleted: Vec::new(),
            open: Vec::new(),
            hurries: vec![None; RELAYS.len()],
            faults: Faults::new(&mut random, &RELAYS, &IDENTITIES),
            changes: random.random_range(0.02..0.4),
            random,
            history: History::default(),
            now: Duration::ZERO,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no panic")
    }

    /// One statement of a process at this place.
    async fn statement(&self, place: usize) -> Outcome<()> {
        let time = duration(&mut self.lock().random);
        statement(time, || self.lock().faults.mode(place)).await
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// The outbox as one replica of subscription-svc reaches it.
#[derive(Clone)]
struct Table {
    world: World,
    place: usize,
}

impl Outbox for Table {
    async fn after(&self, id: i64) -> Outcome<Vec<Row>> {
        self.world.statement(self.place).await?;
        let rows = self.world.lock().subscriptions.after(id, BATCH as usize);
        Ok(rows.into_iter().map(|row| Row { id: row.id, user_id: row.user, tier: row.tier }).collect())
    }

    async fn delete(&self, id: i64) -> Outcome<()> {
        self.world.statement(self.place).await?;
        {
            let mut shared = self.world.lock();
            let row = shared.subscriptions.rows.remove(&id);
            let lost = row.filter(|row| {
                shared.accounts.accounts[&row.user].tier_revision < id && !shared.deleted.contains(&row.user)
            });
            if let Some(row) = lost {
                let now = shared.now;
                shared.history.fault(now, format!("{row:?} was forgotten before it took effect"));
            }
        }
        // The answer may be lost.
        self.world.statement(self.place).await
    }

    async fn waiting(&self) -> Outcome<(i64, Option<chrono::DateTime<chrono::Utc>>)> {
        self.world.statement(self.place).await?;
        Ok((self.world.lock().subscriptions.rows.len() as i64, None))
    }
}

/// A replica of subscription-svc: the real relay.
async fn relay(world: World, place: usize) -> turmoil::Result {
    let relay = Relay::new(Table { world: world.clone(), place }, network::channel(&IDENTITIES));
    world.lock().hurries[place] = Some(relay.clone());
    relay.run().await;
    Ok(())
}

/// A replica of identity-svc, as far as tiers are concerned.
struct Identity {
    world: World,
    place: usize,
}

impl Identity {
    async fn set(&self, request: SetTierRequest) -> Outcome<()> {
        let SetTierRequest { user_id, tier, revision } = request;
        self.world.statement(self.place).await?;
        {
            let mut shared = self.world.lock();
            if shared.deleted.contains(&user_id) {
                return Err(Failure::new(ErrorCode::UserNotFound));
            }
            let now = shared.now;
            let before = shared.accounts.accounts[&user_id].tier_revision;
            if shared.accounts.set_tier(&user_id, &tier, revision, now.as_secs() as i64) {
                shared.history.note(now, format!("{user_id} is {tier} by {revision} after {before}"));
            }
        }
        // The answer may be lost.
        self.world.statement(self.place).await
    }
}

#[tonic::async_trait]
impl UserService for Identity {
    async fn set_tier(&self, request: Request<SetTierRequest>) -> Result<Response<SetTierResponse>, Status> {
        let set = self.set(request.into_inner()).await;
        chassis::grpc::answer(set.map(|()| SetTierResponse {}))
    }

    unused! {
        get_user: GetUserRequest => GetUserResponse,
        update_profile: UpdateProfileRequest => UpdateProfileResponse,
        change_password: ChangePasswordRequest => ChangePasswordResponse,
        delete_user: DeleteUserRequest => DeleteUserResponse,
        approve_subscription_change: ApproveSubscriptionChangeRequest => ApproveSubscriptionChangeResponse,
        exchange_newcomers: ExchangeNewcomersRequest => ExchangeNewcomersResponse,
    }
}

fn run(seed: u64) -> History {
    let world = World::new(seed);
    let mut sim = network::build(seed);
    for (place, host) in IDENTITIES.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || {
            let service = Identity { world: world.clone(), place };
            network::serve(Routes::new(UserServiceServer::new(service)))
        });
    }
    for (place, host) in RELAYS.into_iter().enumerate() {
        let world = world.clone();
        sim.host(host, move || relay(world.clone(), place));
    }
    while sim.elapsed() < BREAKING && world.lock().history.faults.is_empty() {
        step(&mut sim, &world);
        change(&mut world.lock());
        break_and_mend(&mut sim, &world);
    }
    heal(&mut sim, &world);
    let healed = sim.elapsed();
    while !has_arrived(&world.lock()) && sim.elapsed() < healed + HEALING {
        step(&mut sim, &world);
    }
    let mut shared = world.lock();
    if !has_arrived(&shared) {
        let now = shared.now;
        let fault = format!("not arrived: {:?}, {:?}", shared.subscriptions, shared.accounts.accounts);
        shared.history.fault(now, fault);
    }
    must_be_in_order(&mut shared);
    std::mem::take(&mut shared.history)
}

fn step(sim: &mut Sim<'_>, world: &World) {
    sim.step().expect("the processes run");
    let mut shared = world.lock();
    shared.now = sim.elapsed();
    let now = shared.now;
    let due: Vec<Open> =
        shared.open.extract_if(.., |(until, _)| *until <= now).map(|(_, open)| open).collect();
    for open in due {
        if shared.random.random_bool(0.1) {
            shared.subscriptions.roll_back(open);
            continue;
        }
        let id = shared.subscriptions.commit(open);
        shared.history.note(now, format!("{id} commits"));
        let replica = shared.random.random_range(0..=RELAYS.len());
        if let Some(relay) = shared.hurries.get(replica).and_then(Option::as_ref) {
            relay.hurry();
        }
    }
}

/// Perhaps somebody buys something. Transactions take their time, so that of several users a later id may be seen first.
fn change(shared: &mut Shared) {
    let probability = shared.changes;
    if !shared.random.random_bool(probability) {
        return;
    }
    let user = name(shared.random.random_range(0..USERS));
    if shared.random.random_bool(0.005) && shared.deleted.is_empty() {
        let now = shared.now;
        shared.history.note(now, format!("{user} is deleted"));
        return shared.deleted.push(user);
    }
    let tier = TIERS[shared.random.random_range(0..TIERS.len())];
    let until = shared.now + Duration::from_millis(shared.random.random_range(0..400));
    if let Some(open) = shared.subscriptions.begin(&user, tier) {
        shared.open.push((until, open));
    }
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
        let Shared { faults, history, now, .. } = &mut *world.lock();
        history.note(*now, "everything is healed");
        faults.end_all()
    };
    turn.take(sim);
}

/// Nothing waits, and every account has the tier that its subscription has.
fn has_arrived(shared: &Shared) -> bool {
    shared.open.is_empty()
        && shared.subscriptions.rows.is_empty()
        && shared.subscriptions.tiers.iter().all(|(user, (tier, id))| {
            let account = &shared.accounts.accounts[user];
            shared.deleted.contains(user) || (&account.tier, account.tier_revision) == (tier, *id)
        })
}

/// Each effect is one version of the claims, and no event tells of an older one.
fn must_be_in_order(shared: &mut Shared) {
    let mut faults = Vec::new();
    for (user, account) in &shared.accounts.accounts {
        let told = shared.accounts.events.values().filter(|event| event.user == *user).count() as i64;
        if account.version != told + 1 {
            faults.push(format!("{user} has version {} after {told} events", account.version));
        }
    }
    let now = shared.now;
    faults.into_iter().for_each(|fault| shared.history.fault(now, fault));
}
