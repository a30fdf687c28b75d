//! A steady load that does not wait for answers, as the world's does not, and a ledger of all that was acknowledged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::{Client, Reply, Sandbox, User};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How long a client waits for an answer. Everything must have been refused before.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the balancer asks an edge whether it wants requests.
const PROBE: Duration = Duration::from_millis(100);
/// How long an edge may take to say so.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// People who use the platform, each fourth of whom may make only so many.
const PEOPLE: usize = 20;
const LIMIT: usize = 5;
pub const INSTANCES: &str = "/api/v1/personas/instances";

/// What a request is about, and so on whom it depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Through the gateway to core-manager.
    Proxied,
    /// Read by identity-svc from the database.
    Profile,
    /// Written by identity-svc to the database.
    Update,
    /// Counted by subscription-svc, made by core-manager.
    Create,
    /// With a token whose session was ended before the fault.
    Revoked,
}

pub const KINDS: [Kind; 5] = [Kind::Proxied, Kind::Profile, Kind::Update, Kind::Create, Kind::Revoked];
/// Twenty requests, in this order again and again.
const MIX: [Kind; 20] = {
    use Kind::{Create, Profile, Proxied, Revoked, Update};
    [
        Proxied, Profile, Proxied, Proxied, Update, Proxied, Proxied, Create, Proxied, Profile, Proxied,
        Proxied, Revoked, Proxied, Profile, Proxied, Update, Proxied, Proxied, Proxied,
    ]
};

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Fine,
    /// An answer of this status, with this code.
    Refused(u16, String),
    /// The connection broke, or nothing came in time.
    Unanswered,
    /// What must not happen under any fault.
    Wrong(String),
}

pub struct Record {
    pub kind: Kind,
    pub due: Instant,
    /// From when it was due, not from when it left.
    pub took: Duration,
    pub end: End,
}

/// An edge as a balancer sees it.
struct Edge {
    client: Client,
    internal: Client,
    is_ready: AtomicBool,
}

/// Somebody who uses the platform.
struct Person {
    user: User,
    project: String,
    /// How many things may be made.
    limit: usize,
    /// The largest number that an acknowledged update wrote, and the largest that was tried.
    acknowledged: AtomicU64,
    tried: AtomicU64,
    /// Updates of one person go one after the other.
    updating: tokio::sync::Mutex<()>,
    /// Every key that something was to be made under, and whether that was acknowledged.
    made: Mutex<HashMap<String, bool>>,
}

pub struct Load {
    people: Vec<Person>,
    edges: Vec<Edge>,
    revoked: String,
    turn: AtomicUsize,
    is_stopped: AtomicBool,
    records: Mutex<Vec<Record>>,
}

impl Load {
    /// People with a project each, who may make as much as they like.
    pub async fn of(sandbox: &Sandbox) -> Arc<Load> {
        let mut people = Vec::new();
        let admin = sandbox.administrator().await;
        for place in 0..PEOPLE {
            let user = sandbox.register().await;
            let (tier, limit) = if place % 4 == 0 { ("basic", LIMIT) } else { ("enterprise", usize::MAX) };
            let path = format!("/api/v1/admin/subscriptions/{}", user.id);
            sandbox.edge().put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
            people.push(Person {
                project: sandbox.project(&user).await,
                user,
                limit,
                acknowledged: AtomicU64::new(0),
                tried: AtomicU64::new(0),
                updating: tokio::sync::Mutex::new(()),
                made: Mutex::default(),
            });
        }
        let leaver = sandbox.register().await;
        sandbox.edge().post("/api/v1/auth/logout", &leaver.token, json!({})).await.must_be(200);
        let edges = sandbox.edges.iter().zip(&sandbox.internals).map(|(edge, internal)| Edge {
            client: Client::new(format!("http://{}", edge.authority())),
            internal: Client::new(format!("http://{}", internal.authority())),
            is_ready: AtomicBool::new(true),
        });
        Arc::new(Load {
            people,
            edges: edges.collect(),
            revoked: leaver.token,
            turn: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            records: Mutex::default(),
        })
    }

    /// Sends so many requests a second until [`Load::stop`], and waits for what became of each.
    pub async fn run(self: Arc<Self>, per_second: u32) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut running = JoinSet::new();
        let probe = tokio::spawn(self.clone().probe());
        while !self.is_stopped.load(Relaxed) {
            let due = pace.tick().await.into_std();
            let load = self.clone();
            let turn = self.turn.fetch_add(1, Relaxed);
            running.spawn(async move {
                let kind = MIX[turn % MIX.len()];
                let end = tokio::time::timeout(PATIENCE, load.request(kind, turn)).await;
                let record = Record { kind, due, took: due.elapsed(), end: end.unwrap_or(End::Unanswered) };
                load.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            });
            while running.try_join_next().is_some() {}
        }
        while let Some(ended) = running.join_next().await {
            ended.expect("each request has an end");
        }
        probe.abort();
    }

    pub fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
    }

    /// Takes edges out that do not want requests, and lets them in again.
    async fn probe(self: Arc<Self>) {
        loop {
            for edge in &self.edges {
                let asked = edge.internal.try_send(Method::GET, "/readyz", None, &[], None);
                let answer = tokio::time::timeout(PROBE_PATIENCE, asked).await;
                let is_ready = matches!(answer, Ok(Some(reply)) if reply.status == 200);
                edge.is_ready.store(is_ready, Relaxed);
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// The edge that a balancer would take.
    fn edge(&self, turn: usize) -> &Client {
        let all = (0..self.edges.len()).map(|step| &self.edges[(turn + step) % self.edges.len()]);
        let ready = all.clone().find(|edge| edge.is_ready.load(Relaxed));
        &ready.unwrap_or(&self.edges[turn % self.edges.len()]).client
    }

    async fn request(&self, kind: Kind, turn: usize) -> End {
        let person = &self.people[turn % self.people.len()];
        let edge = self.edge(turn);
        let User { id, token, .. } = &person.user;
        match kind {
            Kind::Proxied => {
                let reply = edge.try_send(Method::GET, "/api/v1/echo/faults", Some(token), &[], None).await;
                end(reply, 200, |reply| {
                    let sent = reply.body["headers"].as_array()?;
                    let is_ours = |header: &Value| header[0] == "x-user-id" && header[1] == id.as_str();
                    (!sent.iter().any(is_ours))
                        .then(|| format!("{id} was passed on as {:?}", reply.body["headers"]))
                })
            }
            Kind::Profile => {
                let reply = edge.try_send(Method::GET, "/api/v1/user/profile", Some(token), &[], None).await;
                end(reply, 200, |reply| {
                    (reply.body["id"] != id.as_str()).then(|| format!("{id} was shown {}", reply.body["id"]))
                })
            }
            Kind::Update => self.update(edge, person).await,
            Kind::Create => self.create(edge, person, Uuid::now_v7().to_string()).await,
            Kind::Revoked => {
                let reply =
                    edge.try_send(Method::GET, "/api/v1/echo/faults", Some(&self.revoked), &[], None).await;
                match reply {
                    Some(reply) if reply.status == 401 => End::Fine,
                    reply => end(reply, 0, |reply| {
                        reply.status.is_success().then(|| "a token of an ended session was good".to_owned())
                    }),
                }
            }
        }
    }

    async fn update(&self, edge: &Client, person: &Person) -> End {
        let _one_at_a_time = person.updating.lock().await;
        let number = person.tried.fetch_add(1, Relaxed) + 1;
        let path = format!("/api/v1/projects/{}", person.project);
        let body = json!({ "description": number.to_string() });
        let reply = edge.try_send(Method::PUT, &path, Some(&person.user.token), &[], Some(&body)).await;
        let end = end(reply, 200, |_| None);
        if end == End::Fine {
            person.acknowledged.fetch_max(number, Relaxed);
        }
        end
    }

    async fn create(&self, edge: &Client, person: &Person, key: String) -> End {
        let made = || person.made.lock().unwrap_or_else(PoisonError::into_inner);
        made().entry(key.clone()).or_default();
        let body = json!({ "template_id": "assistant", "name": key });
        let headers = [("idempotency-key", key.as_str())];
        let reply =
            edge.try_send(Method::POST, INSTANCES, Some(&person.user.token), &headers, Some(&body)).await;
        let end = end(reply, 201, |_| None);
        if end == End::Fine {
            made().insert(key, true);
        }
        let is_full = matches!(&end, End::Refused(_, code) if code == "SUB002");
        if is_full && person.limit < usize::MAX { End::Fine } else { end }
    }

    /// What was recorded since the last time.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares what there is with what was acknowledged. `keeps`: whether core-manager has kept its own all the while.
    pub async fn audit(&self, keeps: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for (place, person) in self.people.iter().enumerate() {
            let (edge, token) = (&self.edges[place % self.edges.len()].client, &person.user.token);
            let project = edge.get(&format!("/api/v1/projects/{}", person.project), token).await.must_be(200);
            let number = project["description"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            let (low, high) = (person.acknowledged.load(Relaxed), person.tried.load(Relaxed));
            if !(low..=high).contains(&number) {
                faults.push(format!("update {low} was acknowledged, {high} tried, and there is {number}"));
            }
            if keeps {
                faults.extend(self.count(edge, person).await);
            }
        }
        faults
    }

    /// Each key made one thing, those that were acknowledged surely, and the count is what core-manager has.
    async fn count(&self, edge: &Client, person: &Person) -> Vec<String> {
        let token = &person.user.token;
        let list = edge.get(INSTANCES, token).await.must_be(200);
        let there: Vec<&Value> = list["instances"].as_array().into_iter().flatten().collect();
        let mut faults = Vec::new();
        let made = person.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (key, is_acknowledged) in made {
            let times = there.iter().filter(|instance| instance["name"] == key.as_str()).count();
            if times > 1 || (is_acknowledged && times == 0) {
                faults.push(format!("{key} (acknowledged: {is_acknowledged}) is there {times} times"));
            }
        }
        let total = there.len();
        if total > person.limit {
            faults.push(format!("{total} are there where {} are admitted", person.limit));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let usage = edge.get("/api/v1/subscription/usage", token).await.must_be(200);
            if usage["personas_count"] == total {
                return faults;
            }
            if Instant::now() > deadline {
                faults.push(format!("{} count as used, core-manager has {total}", usage["personas_count"]));
                return faults;
            }
            // Places whose outcome nobody knew are given back when their time is over.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn end(reply: Option<Reply>, fine: u16, wrong: impl Fn(&Reply) -> Option<String>) -> End {
    let Some(reply) = reply else { return End::Unanswered };
    if let Some(wrong) = (reply.status.is_success()).then(|| wrong(&reply)).flatten() {
        return End::Wrong(wrong);
    }
    if reply.status == fine {
        return End::Fine;
    }
    let code = reply.body["error"]["code"].as_str().unwrap_or_default().to_owned();
    End::Refused(reply.status.as_u16(), code)
}
