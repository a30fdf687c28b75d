//! Edges without an edge: what each of a thousand does to identity-svc, from this one process. Every one has
//! connections, a stream and a place in it of its own, and comes back after a pause as the edge does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::watch_auth_events_response::Message;
use contract::identity::{
    AuthEvent, EdgeState, Enforced, Position, ReportEnforcementRequest, WatchAuthEventsResponse,
};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::{Request, Status};

use super::grpc::{Plane, lazy_plane};
use super::light::{Counted, watch};
use crate::Outcome;

/// As `edge/src/claims/watch.rs` has them.
const SILENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a channel of the internal plane asks each replica for its health.
const PROBE: Duration = Duration::from_millis(300);
/// How often an edge says that it is alive, and the least time between two reports.
const REPORT: Duration = Duration::from_secs(3);
const GATHER: Duration = Duration::from_secs(1);
/// How long all of them may take to become current.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watchers have been told.
#[derive(Default)]
pub struct Deliveries {
    /// How many have had each event, and how long the last of them waited for it, in milliseconds.
    pub events: BTreeMap<i64, (usize, f64)>,
    /// As gRPC frames, without HTTP/2 and TCP around them.
    pub bytes: u64,
}

#[derive(Default)]
struct Ledger {
    deliveries: Mutex<Deliveries>,
    current: AtomicUsize,
    /// Whether they also report and ask for health, as whole edges do.
    whole: AtomicBool,
    /// Whether one that connects has been nowhere before.
    forgetful: AtomicBool,
    /// Reports that were not taken.
    refused: AtomicUsize,
}

/// Some watchers, which end with this.
pub struct Watchers {
    ledger: Arc<Ledger>,
    count: usize,
    _running: JoinSet<()>,
}

impl Watchers {
    /// Starts so many on these replicas in turn.
    pub fn start(count: usize, replicas: &[SocketAddr], token: &str) -> Outcome<Self> {
        let ledger = Arc::<Ledger>::default();
        let mut running = JoinSet::new();
        for number in 0..count {
            let plane = lazy_plane(replicas[number % replicas.len()], token)?;
            running.spawn(Watcher { number, plane, ledger: ledger.clone() }.run());
        }
        Ok(Watchers { ledger, count, _running: running })
    }

    /// Waits until all of them know all that there is, and gives how long that took.
    pub async fn all_current(&self) -> Outcome<Duration> {
        let started = Instant::now();
        loop {
            let current = self.ledger.current.load(Ordering::Relaxed);
            if current == self.count {
                return Ok(started.elapsed());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{current} of {} watchers are current", self.count).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all of them have noticed that their stream broke off.
    pub async fn none_current(&self) {
        while self.ledger.current.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// From now on they report and ask for health, as whole edges do.
    pub fn be_whole(&self) {
        self.ledger.whole.store(true, Ordering::Relaxed);
    }

    /// From now on each that connects has been nowhere before.
    pub fn be_forgetful(&self) {
        self.ledger.forgetful.store(true, Ordering::Relaxed);
    }

    /// What came since the last call.
    pub fn take(&self) -> Deliveries {
        std::mem::take(&mut *lock(&self.ledger.deliveries))
    }

    /// Reports that were not taken.
    pub fn refused(&self) -> usize {
        self.ledger.refused.load(Ordering::Relaxed)
    }
}

/// One of them.
struct Watcher {
    number: usize,
    plane: Plane,
    ledger: Arc<Ledger>,
}

impl Watcher {
    async fn run(self) {
        let (reports, taken) = tokio::sync::mpsc::unbounded_channel();
        let side = async { tokio::join!(self.report(taken), self.probe()) };
        let follow = async {
            let (mut position, mut pause) = (None, FIRST_PAUSE);
            loop {
                let mut current = false;
                // Why it ended does not matter: the edge comes back, whatever the reason.
                let _ = self.follow(&mut position, &mut current, &reports).await;
                if current {
                    self.ledger.current.fetch_sub(1, Ordering::Relaxed);
                }
                pause = if current { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                let jitter = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
                tokio::time::sleep(pause.mul_f64(0.5 + jitter / 2.0)).await;
            }
        };
        tokio::join!(side, follow);
    }

    async fn follow(
        &self,
        position: &mut Option<Position>,
        current: &mut bool,
        reports: &tokio::sync::mpsc::UnboundedSender<Enforced>,
    ) -> Result<(), Status> {
        if self.ledger.forgetful.load(Ordering::Relaxed) {
            *position = None;
        }
        let watching = watch(self.plane.clone(), position.clone());
        let late = |_| Status::deadline_exceeded("silence");
        let mut stream = tokio::time::timeout(SILENCE, watching).await.map_err(late)??;
        while let Some(next) = tokio::time::timeout(SILENCE, stream.message()).await.map_err(late)?? {
            let Counted { message: next, bytes } = next;
            self.note(&next, bytes);
            match next.message {
                Some(Message::Event(event)) => {
                    let sequence = event.position.as_ref().map_or(0, |position| position.sequence);
                    let at = Some(SystemTime::now().into());
                    if self.ledger.whole.load(Ordering::Relaxed) {
                        let _ =
                            reports.send(Enforced { first_sequence: sequence, last_sequence: sequence, at });
                    }
                    *position = event.position;
                }
                Some(Message::Snapshot(snapshot)) if !snapshot.more => *position = snapshot.position,
                Some(Message::Heartbeat(heartbeat)) => {
                    *position = heartbeat.position.or(position.take());
                    if !std::mem::replace(current, true) {
                        self.ledger.current.fetch_add(1, Ordering::Relaxed);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note(&self, message: &WatchAuthEventsResponse, bytes: usize) {
        /// In front of each message.
        const FRAME: usize = 5;
        let mut deliveries = lock(&self.ledger.deliveries);
        deliveries.bytes += (bytes + FRAME) as u64;
        if let Some(Message::Event(event)) = &message.message
            && let Some(position) = &event.position
        {
            let (count, last) = deliveries.events.entry(position.sequence).or_default();
            *count += 1;
            *last = last.max(age_ms(event));
        }
    }

    /// Says what it enforces, as `edge/src/claims/report.rs` does.
    async fn report(&self, mut taken: tokio::sync::mpsc::UnboundedReceiver<Enforced>) {
        let mut client = LiveClaimsServiceClient::new(self.plane.clone());
        let mut ticks = tokio::time::interval(REPORT);
        loop {
            let mut enforced = Vec::new();
            tokio::select! {
                _ = taken.recv_many(&mut enforced, 1000) => {}
                _ = ticks.tick() => {}
            }
            if !self.ledger.whole.load(Ordering::Relaxed) {
                continue;
            }
            let edge = format!("edge-{}", self.number);
            let (key_ids, state) = (vec![String::new()], Some(EdgeState::default()));
            let mut request = Request::new(ReportEnforcementRequest { edge, key_ids, enforced, state });
            request.set_timeout(Duration::from_secs(2));
            if client.report_enforcement(request).await.is_err() {
                self.ledger.refused.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn probe(&self) {
        let mut client = tonic_health::pb::health_client::HealthClient::new(self.plane.clone());
        let mut ticks = tokio::time::interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.ledger.whole.load(Ordering::Relaxed) {
                // While it is away there is nothing to hear.
                let _ = client.check(tonic_health::pb::HealthCheckRequest::default()).await;
            }
        }
    }
}

/// How long ago the change was made: just before its commit, so that the commit counts.
fn age_ms(event: &AuthEvent) -> f64 {
    let at = event.at.as_ref().map_or(0.0, |at| at.seconds as f64 * 1e3 + f64::from(at.nanos) / 1e6);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs_f64() * 1e3 - at
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
