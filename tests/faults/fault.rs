//! The faults: what each does, whom it may touch, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use e2e::{Client, Process, Sandbox, Socket, User};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::load::{End, INSTANCES, Kind};
use super::server::Server;

/// What a fault acts on.
pub struct Field {
    pub sandbox: Sandbox,
    pub server: Server,
    /// What attacks, until it is healed.
    attackers: JoinSet<()>,
    sockets: Vec<Socket>,
    /// Who signs in beyond what can be hashed, and how many a second can be; or whose sessions or trials must outlast it.
    strangers: Vec<User>,
    peak: f64,
    broken: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    EdgeKilled,
    IdentityKilled,
    SubscriptionKilled,
    CoreManagerKilled,
    EdgesRolled,
    IdentitiesRolled,
    SubscriptionsRolled,
    WatchHalfOpen,
    DatabaseKilled,
    DatabaseFrozen,
    DatabaseBlackholed,
    DatabaseReadOnly,
    DatabaseStarved,
    DatabaseFull,
    CoreManagerSlow,
    CoreManagerResets,
    CoreManagerTruncates,
    CoreManagerFails,
    CoreManagerHangsUp,
    CoreManagerGarbles,
    EdgeClockAhead,
    EdgeClockBehind,
    IdentityClockAhead,
    IdentityClockBehind,
    SubscriptionClockAhead,
    SubscriptionClockBehind,
    LoginStorm,
    RefreshHerd,
    IdleSockets,
    ReconnectHerd,
    Slowloris,
    Overload,
    NoDescriptors,
}

/// In the order in which they are run.
pub const FAULTS: [Fault; 33] = [
    Fault::EdgeKilled,
    Fault::IdentityKilled,
    Fault::SubscriptionKilled,
    Fault::CoreManagerKilled,
    Fault::EdgesRolled,
    Fault::IdentitiesRolled,
    Fault::SubscriptionsRolled,
    Fault::WatchHalfOpen,
    Fault::DatabaseKilled,
    Fault::DatabaseFrozen,
    Fault::DatabaseBlackholed,
    Fault::DatabaseReadOnly,
    Fault::DatabaseStarved,
    Fault::DatabaseFull,
    Fault::CoreManagerSlow,
    Fault::CoreManagerResets,
    Fault::CoreManagerTruncates,
    Fault::CoreManagerFails,
    Fault::CoreManagerHangsUp,
    Fault::CoreManagerGarbles,
    Fault::EdgeClockAhead,
    Fault::EdgeClockBehind,
    Fault::IdentityClockAhead,
    Fault::IdentityClockBehind,
    Fault::SubscriptionClockAhead,
    Fault::SubscriptionClockBehind,
    Fault::LoginStorm,
    Fault::RefreshHerd,
    Fault::IdleSockets,
    Fault::ReconnectHerd,
    Fault::Slowloris,
    Fault::Overload,
    Fault::NoDescriptors,
];

/// Sign-ins at once in a storm: several times what two cores can hash while anybody waits.
const STORM: usize = 64;
/// Sockets with a running workflow each.
const SPEAKERS: usize = 200;
/// Sessions that are refreshed at the same moment.
const HERD: usize = 200;
/// Sessions that must outlast wrong clocks.
const SESSIONS: usize = 40;
/// Sockets that say nothing, and those that come back all at once.
const IDLE: usize = 10_000;
const RETURNING: usize = 500;
/// How long it is looked how many sign-ins can be hashed, and how long three times as many come.
const PEAK: Duration = Duration::from_secs(3);
const FLOOD: Duration = Duration::from_secs(6);
/// By when the places of unknown outcomes must be free again.
const SETTLED: Duration = Duration::from_secs(60);
/// How far the clock of an edge jumps, in seconds: further than any access token lives.
const JUMP: i64 = 7200;
/// How far that of a service does: further than anything is kept for that runs out.
const LEAP: i64 = 61 * 86_400;
/// How long core-manager takes to make what is counted, while clocks are wrong: many sweeps go by.
const MAKING_MS: u64 = 2500;
/// By when a process has noticed that its clock was set: libfaketime looks again when more than one second has passed,
/// counted in whole ones.
const LOOK_AT_CLOCK: Duration = Duration::from_millis(2100);
/// After how long a rest core-manager closes a connection just as the next request arrives.
const KEEP_ALIVE_MS: u64 = 250;
/// Connections that send a header byte by byte.
const SLOW: usize = 300;

impl Fault {
    /// As it is asked for and shown.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// Whether all is well again while it lasts, because others are there.
    pub fn mends_itself(self) -> bool {
        matches!(
            self,
            Fault::EdgeKilled | Fault::IdentityKilled | Fault::SubscriptionKilled | Fault::WatchHalfOpen
        )
    }

    /// Whether core-manager has afterwards what it said it made: the stand-in loses everything with its process, and
    /// makes nothing where it answers with less than it declares.
    pub fn is_kept_by_core_manager(self) -> bool {
        !matches!(self, Fault::CoreManagerKilled | Fault::CoreManagerTruncates)
    }

    /// What may fail while it lasts. Everything else must not notice.
    pub fn touches(self) -> &'static [Kind] {
        use Kind::{Create, Profile, Proxied, Revoked, Update};
        match self {
            Fault::EdgeKilled | Fault::NoDescriptors | Fault::EdgeClockAhead | Fault::EdgeClockBehind => {
                &[Proxied, Profile, Update, Create, Revoked]
            }
            Fault::IdentityKilled | Fault::WatchHalfOpen => &[Profile, Update, Create],
            Fault::SubscriptionKilled => &[Create],
            Fault::CoreManagerKilled
            | Fault::CoreManagerSlow
            | Fault::CoreManagerResets
            | Fault::CoreManagerTruncates
            | Fault::CoreManagerFails
            | Fault::CoreManagerGarbles => &[Proxied, Create],
            Fault::DatabaseKilled
            | Fault::DatabaseFrozen
            | Fault::DatabaseBlackholed
            | Fault::DatabaseStarved => &[Profile, Update, Create],
            Fault::DatabaseReadOnly | Fault::DatabaseFull => &[Update, Create],
            Fault::EdgesRolled
            | Fault::IdentitiesRolled
            | Fault::SubscriptionsRolled
            | Fault::LoginStorm
            | Fault::RefreshHerd
            | Fault::IdleSockets
            | Fault::ReconnectHerd
            | Fault::Slowloris
            | Fault::Overload
            | Fault::CoreManagerHangsUp
            | Fault::IdentityClockAhead
            | Fault::IdentityClockBehind
            | Fault::SubscriptionClockAhead
            | Fault::SubscriptionClockBehind => &[],
        }
    }

    /// What takes longer while it lasts, and must succeed all the same.
    pub fn slows(self) -> &'static [Kind] {
        match self {
            Fault::SubscriptionClockAhead | Fault::SubscriptionClockBehind => &[Kind::Create],
            _ => &[],
        }
    }

    /// Whether an answer is what it must cause, though it puts the blame on the client: an edge believes its own clock,
    /// by which a token is over, or not good yet.
    pub fn excuses(self, end: &End) -> bool {
        let code = match self {
            Fault::EdgeClockAhead => "AUTH002",
            Fault::EdgeClockBehind => "AUTH003",
            _ => return false,
        };
        matches!(end, End::Refused(401, told) if told == code)
    }

    /// Whose clock is wrong, and by how many seconds.
    pub fn clock(self) -> Option<(&'static str, i64)> {
        match self {
            Fault::EdgeClockAhead => Some(("edge-0", JUMP)),
            Fault::EdgeClockBehind => Some(("edge-0", -JUMP)),
            Fault::IdentityClockAhead => Some(("identity-svc-0", LEAP)),
            Fault::IdentityClockBehind => Some(("identity-svc-0", -LEAP)),
            Fault::SubscriptionClockAhead => Some(("subscription-svc-0", LEAP)),
            Fault::SubscriptionClockBehind => Some(("subscription-svc-0", -LEAP)),
            _ => None,
        }
    }
}

impl Field {
    pub fn new(sandbox: Sandbox, server: Server) -> Field {
        Field {
            sandbox,
            server,
            attackers: JoinSet::new(),
            sockets: Vec::new(),
            strangers: Vec::new(),
            peak: 0.0,
            broken: Vec::new(),
        }
    }

    /// What the fault needs beforehand and what is not part of it.
    pub async fn prepare(&mut self, fault: Fault) {
        match fault {
            Fault::EdgesRolled => {
                for (place, user) in self.users(SPEAKERS).await.into_iter().enumerate() {
                    let project = self.sandbox.project(&user).await;
                    let edges: Vec<String> =
                        self.sandbox.edges.iter().map(|edge| edge.authority().to_owned()).collect();
                    self.attackers.spawn(speak(edges, place, user.token, project));
                }
            }
            Fault::ReconnectHerd => self.sockets = self.connect(RETURNING).await,
            Fault::IdentityClockAhead | Fault::IdentityClockBehind => {
                let users = self.users(10).await;
                for user in users.iter().cycle().take(SESSIONS) {
                    self.strangers.push(self.sandbox.log_in(user).await);
                }
            }
            Fault::SubscriptionClockAhead | Fault::SubscriptionClockBehind => {
                let admin = self.sandbox.administrator().await;
                self.strangers = self.users(10).await;
                for user in &self.strangers {
                    let trial = json!({ "user_id": user.id, "tier": "premium", "trial_days": 14 });
                    let made = self.sandbox.edge().post("/api/v1/admin/subscriptions", &admin.token, trial);
                    made.await.must_be(201);
                }
            }
            Fault::Overload => {
                let users = self.users(10).await;
                let started = Instant::now();
                let counts =
                    (0..16).map(|place| self.sign_in_until(started + PEAK, &users[place % users.len()]));
                self.peak = join_all(counts).await.into_iter().sum::<f64>() / PEAK.as_secs_f64();
                self.strangers = users;
            }
            _ => {}
        }
    }

    /// Begins the fault.
    pub async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::EdgeKilled => self.sandbox.edge_processes[0].kill(),
            Fault::IdentityKilled => self.sandbox.identity_processes[0].kill(),
            Fault::SubscriptionKilled => self.sandbox.subscription_processes[0].kill(),
            Fault::CoreManagerKilled => self.sandbox.stub_process.kill(),
            Fault::EdgesRolled => {
                for place in 0..self.sandbox.edges.len() {
                    must_end_well(&mut self.sandbox.edge_processes[place]).await;
                    self.sandbox.restart_edge(place).await;
                }
            }
            Fault::IdentitiesRolled => {
                for place in 0..self.sandbox.identity.len() {
                    must_end_well(&mut self.sandbox.identity_processes[place]).await;
                    self.sandbox.restart_identity(place).await;
                }
            }
            Fault::SubscriptionsRolled => {
                for place in 0..self.sandbox.subscription.len() {
                    must_end_well(&mut self.sandbox.subscription_processes[place]).await;
                    self.sandbox.restart_subscription(place);
                    self.sandbox.ready().await;
                }
            }
            Fault::WatchHalfOpen => self.sandbox.identity_processes[0].freeze(),
            Fault::DatabaseKilled => self.server.kill(),
            Fault::DatabaseFrozen => self.server.freeze(),
            Fault::DatabaseBlackholed => self.sandbox.database.freeze(),
            Fault::DatabaseReadOnly => self.server.set_read_only(true).await,
            Fault::DatabaseStarved => self.server.starve().await,
            Fault::CoreManagerSlow => self.misbehave(json!({ "delay_ms": 1500 })).await,
            Fault::CoreManagerResets => self.misbehave(json!({ "reset": true })).await,
            Fault::CoreManagerTruncates => self.misbehave(json!({ "truncate": true })).await,
            Fault::CoreManagerFails => self.misbehave(json!({ "status": 500 })).await,
            Fault::CoreManagerHangsUp => self.keep_alive(KEEP_ALIVE_MS).await,
            Fault::CoreManagerGarbles => {
                self.misbehave(json!({ "path_prefix": "/api/v1/echo", "garbage": "any" })).await;
                // What has no good head makes nothing, and says nothing that was made.
                self.misbehave(json!({ "path_prefix": INSTANCES, "garbage": "noise" })).await;
            }
            Fault::DatabaseFull => self.server.fill_disk(),
            Fault::EdgeClockAhead | Fault::EdgeClockBehind => self.set_clock(fault, true).await,
            Fault::IdentityClockAhead | Fault::IdentityClockBehind => {
                self.set_clock(fault, true).await;
                self.refresh_all().await;
            }
            Fault::SubscriptionClockAhead | Fault::SubscriptionClockBehind => {
                self.misbehave(json!({ "path_prefix": INSTANCES, "delay_ms": MAKING_MS })).await;
                self.set_clock(fault, true).await;
            }
            Fault::LoginStorm => self.storm().await,
            Fault::RefreshHerd => self.herd().await,
            Fault::IdleSockets => self.sockets = self.connect(IDLE).await,
            Fault::ReconnectHerd => {
                self.sockets.clear();
                self.sockets = self.connect(RETURNING).await;
            }
            Fault::Slowloris => {
                for place in 0..SLOW {
                    let authority = self.authority(place).to_owned();
                    self.attackers.spawn(dawdle(authority));
                }
            }
            Fault::Overload => self.overload().await,
            Fault::NoDescriptors => {
                let edge = &self.sandbox.edge_processes[0];
                edge.limit_descriptors(edge.descriptors() + 4);
                for _ in 0..50 {
                    self.attackers.spawn(dawdle(self.sandbox.edges[0].authority().to_owned()));
                }
            }
        }
    }

    /// Ends the fault.
    pub async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::EdgeKilled => self.sandbox.restart_edge(0).await,
            Fault::IdentityKilled => self.sandbox.restart_identity(0).await,
            Fault::SubscriptionKilled => self.sandbox.restart_subscription(0),
            Fault::CoreManagerKilled => self.sandbox.restart_stub(),
            Fault::WatchHalfOpen => self.sandbox.identity_processes[0].thaw(),
            // Whoever started it starts it again as soon as it is dead.
            Fault::DatabaseKilled => self.server.wait().await,
            Fault::DatabaseFrozen => self.server.thaw(),
            Fault::DatabaseBlackholed => self.sandbox.database.set_open(true),
            Fault::DatabaseReadOnly => self.server.set_read_only(false).await,
            Fault::DatabaseStarved => self.server.feed().await,
            Fault::CoreManagerSlow
            | Fault::CoreManagerResets
            | Fault::CoreManagerTruncates
            | Fault::CoreManagerFails
            | Fault::CoreManagerGarbles => {
                self.sandbox.stub.send(Method::DELETE, "/stub/behaviour", None, &[], None).await.must_be(204);
            }
            Fault::CoreManagerHangsUp => self.keep_alive(0).await,
            Fault::DatabaseFull => self.server.free_disk(),
            Fault::EdgeClockAhead | Fault::EdgeClockBehind => self.set_clock(fault, false).await,
            Fault::IdentityClockAhead | Fault::IdentityClockBehind => {
                self.set_clock(fault, false).await;
                self.refresh_all().await;
                for user in &self.strangers {
                    self.sandbox.edge().get("/api/v1/user/profile", &user.token).await.must_be(200);
                }
            }
            Fault::SubscriptionClockAhead | Fault::SubscriptionClockBehind => {
                self.set_clock(fault, false).await;
                for user in &self.strangers {
                    let reply =
                        self.sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);
                    if reply["status"] != "trialing" {
                        self.broken.push(format!("a trial is over: {reply}"));
                    }
                }
                self.sandbox.stub.send(Method::DELETE, "/stub/behaviour", None, &[], None).await.must_be(204);
            }
            Fault::IdleSockets | Fault::ReconnectHerd => self.sockets.clear(),
            Fault::LoginStorm => self.attackers.abort_all(),
            Fault::NoDescriptors => {
                self.attackers.abort_all();
                self.sandbox.edge_processes[0].limit_descriptors(4096);
            }
            Fault::EdgesRolled
            | Fault::IdentitiesRolled
            | Fault::SubscriptionsRolled
            | Fault::RefreshHerd
            | Fault::Slowloris
            | Fault::Overload => {}
        }
    }

    /// Waits for what else was going on, and gives what went wrong there.
    pub async fn finish(&mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.broken);
        while let Some(ended) = self.attackers.join_next().await {
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                faults.push(error.to_string());
            }
        }
        faults
    }

    /// Places that are still taken for something that is on its way, when nothing is any more.
    pub async fn left_reserved(&self) -> Option<String> {
        let mut connection = self.sandbox.connection().await;
        let deadline = Instant::now() + SETTLED;
        loop {
            let reserved = "SELECT CAST(COALESCE(SUM(reserved), 0) AS SIGNED) FROM usage_counters";
            let reserved: i64 = sqlx::query_scalar(reserved).fetch_one(&mut connection).await.expect("a sum");
            if reserved == 0 {
                return None;
            }
            if Instant::now() > deadline {
                return Some(format!("{reserved} places are still taken for what is over"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Where the next of some that take turns goes.
    fn authority(&self, place: usize) -> &str {
        self.sandbox.edges[place % self.sandbox.edges.len()].authority()
    }

    /// The same with connections of its own.
    fn client(&self, place: usize) -> Client {
        Client::new(format!("http://{}", self.authority(place)))
    }

    async fn misbehave(&self, how: Value) {
        self.sandbox.stub.open_post("/stub/behaviour", how).await.must_be(204);
    }

    async fn keep_alive(&self, ms: u64) {
        // On a connection of its own: the others hang up.
        let stub = Client::new(format!("http://{}", self.sandbox.stub.authority()));
        stub.open_post("/stub/keep-alive", json!({ "ms": ms })).await.must_be(204);
    }

    /// Sets the clock of the fault wrong or right, and waits until the process has looked at it.
    async fn set_clock(&self, fault: Fault, is_wrong: bool) {
        let (process, seconds) = fault.clock().expect("a fault of clocks");
        let clocks = self.sandbox.clocks.as_ref().expect("planned");
        clocks.set(process, if is_wrong { seconds } else { 0 });
        tokio::time::sleep(LOOK_AT_CLOCK).await;
    }

    /// Refreshes the sessions, each of which must go on, though the first answer is lost and the token presented again.
    async fn refresh_all(&mut self) {
        let refreshing = self.strangers.iter().enumerate().map(|(place, user)| {
            let client = self.client(place);
            async move {
                let body = json!({ "refresh_token": user.refresh_token });
                client.open_post("/api/v1/auth/refresh", body.clone()).await.must_be(200);
                let tokens = client.open_post("/api/v1/auth/refresh", body).await.must_be(200);
                User::of(&tokens, user.email.clone())
            }
        });
        self.strangers = join_all(refreshing).await;
    }

    /// New accounts, ten at a time, so that none waits too long for its hash.
    async fn users(&self, count: usize) -> Vec<User> {
        let mut users = Vec::with_capacity(count);
        while users.len() < count {
            users.extend(join_all((0..10).map(|_| self.sandbox.register())).await);
        }
        users
    }

    /// Signs in again and again until then; gives how often it succeeded.
    async fn sign_in_until(&self, end: Instant, user: &User) -> f64 {
        let mut count = 0.0;
        while Instant::now() < end {
            self.sandbox.log_in(user).await;
            count += 1.0;
        }
        count
    }

    /// Three times as many sign-ins as can be hashed, whether or not they are answered: nearly as many as ever succeed,
    /// and the others are told when to come back.
    async fn overload(&mut self) {
        let good = Arc::new(AtomicUsize::new(0));
        let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / (3.0 * self.peak)));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let edges =
            Arc::new((0..self.sandbox.edges.len()).map(|place| self.client(place)).collect::<Vec<_>>());
        let started = Instant::now();
        let mut place = 0;
        while started.elapsed() < FLOOD {
            pace.tick().await;
            place += 1;
            let (edges, good) = (edges.clone(), good.clone());
            let user = &self.strangers[place % self.strangers.len()];
            let body = json!({ "email": user.email, "password": user.password });
            self.attackers.spawn(async move {
                let edge = &edges[place % edges.len()];
                let reply = edge.try_send(Method::POST, "/api/v1/auth/login", None, &[], Some(&body)).await;
                match reply {
                    Some(reply) if reply.status == 200 => drop(good.fetch_add(1, Relaxed)),
                    Some(reply) => assert!(
                        reply.status == 503 && reply.headers.contains_key("retry-after"),
                        "a sign-in too many was answered {reply:?}"
                    ),
                    None => panic!("a sign-in too many got no answer"),
                }
            });
        }
        let rate = good.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
        if rate < 0.8 * self.peak {
            self.broken.push(format!(
                "{rate:.0} sign-ins a second succeeded at three times the load, {:.0} at most",
                self.peak
            ));
        }
    }

    /// Sockets of some users, on all edges, fifty at a time.
    async fn connect(&self, count: usize) -> Vec<Socket> {
        let users = self.users(10).await;
        let mut sockets = Vec::with_capacity(count);
        while sockets.len() < count {
            let some = (sockets.len()..count.min(sockets.len() + 50))
                .map(|place| Socket::connect(self.authority(place), &users[place % users.len()].token));
            sockets.extend(join_all(some).await);
        }
        sockets
    }

    /// Sign-ins without end.
    async fn storm(&mut self) {
        let users = self.users(10).await;
        for place in 0..STORM {
            let client = self.client(place);
            let user = &users[place % users.len()];
            let body = json!({ "email": user.email, "password": user.password });
            self.attackers.spawn(async move {
                loop {
                    client.try_send(Method::POST, "/api/v1/auth/login", None, &[], Some(&body)).await;
                }
            });
        }
    }

    /// Many sessions are refreshed at the same moment, each of which must go on.
    async fn herd(&mut self) {
        let users = self.users(HERD / 4).await;
        let mut sessions = Vec::new();
        for user in &users {
            // An account has two hashes at once.
            for _ in 0..2 {
                sessions.extend(join_all((0..2).map(|_| self.sandbox.log_in(user))).await);
            }
        }
        for (place, session) in sessions.into_iter().enumerate() {
            let client = self.client(place);
            self.attackers.spawn(async move {
                let body = json!({ "refresh_token": session.refresh_token });
                client.open_post("/api/v1/auth/refresh", body).await.must_be(200);
            });
        }
    }
}

async fn must_end_well(process: &mut Process) {
    assert_eq!(process.terminate().await, Some(0), "a process that is asked to end ends well");
}

/// Keeps a socket with a running workflow, comes back when its edge ends, and hears what became of the workflow.
async fn speak(edges: Vec<String>, place: usize, token: String, project: String) {
    let start = json!({
        "type": "start_workflow", "id": "rolled",
        "data": {
            "workflow_type": "faults", "agent_instance_id": "a", "project_id": project,
            "parameters": { "steps": 200, "step_ms": 500 },
        },
    });
    let mut socket = Socket::connect(&edges[place % edges.len()], &token).await;
    socket.send(start.clone()).await;
    let code = socket.closed().await;
    assert!([1001, 1012].contains(&code), "the edge ended, and the socket was told {code}");
    let mut socket = Socket::connect(&edges[(place + 1) % edges.len()], &token).await;
    // The edge that knows what was started tells it to whoever sends the start again.
    socket.send(start).await;
    let told = socket.next().await;
    assert_eq!(told["correlation_id"], "rolled", "{told}");
    assert_ne!(told["type"], "error", "{told}");
}

/// Sends a header byte by byte until the edge has had enough of it.
async fn dawdle(authority: String) {
    let Ok(mut stream) = TcpStream::connect(authority).await else { return };
    for byte in b"GET / HTTP/1.1\r\nx-slow: ".iter().chain([b'a'].iter().cycle()) {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
