//! Tells identity-svc what this edge enforces, which keys it accepts and how it is: for the audit log, so that a new
//! signing key signs only once every edge knows it, and for administrators.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chassis::grpc::InternalChannel;
use chrono::{DateTime, Utc};
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::{AuthEvent, EdgeState, Enforced, ReportEnforcementRequest, Snapshot};
use prometheus::Histogram;
use tokio::sync::{mpsc, watch};

use super::LiveClaims;
use super::pace::Pace;

/// How often the edge says that it is alive when nothing else is to be told.
const INTERVAL: Duration = Duration::from_secs(3);
/// The least time between two reports, so that many events share one: with a thousand edges each report counts.
const GATHER: Duration = Duration::from_secs(1);
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Reports that wait while one is on its way, and the most that go together.
const WAITING: usize = 8192;
const BATCH: usize = 1000;

/// What the watch on identity-svc tells the [`Reporter`].
pub struct Enforcement {
    begun: mpsc::Sender<Begun>,
    key_ids: watch::Sender<Vec<String>>,
}

/// What is enforced from now on, and how long that took, if it is one event.
type Begun = (Enforced, Option<Duration>);

/// Sends the reports.
pub struct Reporter {
    edge: String,
    begun: mpsc::Receiver<Begun>,
    key_ids: watch::Receiver<Vec<String>>,
    started_at: DateTime<Utc>,
    pace: Pace,
}

/// What the edge says of itself.
pub struct Itself {
    pub live: Arc<LiveClaims>,
    pub open_sockets: fn() -> i64,
}

/// The two ends of the reports of the edge with this name.
pub fn enforcement(edge: String) -> (Enforcement, Reporter) {
    let (begun, reported) = mpsc::channel(WAITING);
    let (key_ids, held) = watch::channel(Vec::new());
    let started_at = chassis::clock::now();
    let reporter = Reporter { edge, begun: reported, key_ids: held, started_at, pace: Pace::default() };
    (Enforcement { begun, key_ids }, reporter)
}

impl Enforcement {
    /// An event has just been taken in.
    pub fn began(&self, event: &AuthEvent) {
        let made = event.at.and_then(contract::from_timestamp);
        // By two clocks, of which either may be ahead.
        let took = made.map(|at| (chassis::clock::now() - at).to_std().unwrap_or_default());
        if let Some(took) = took {
            SECONDS.observe(took.as_secs_f64());
        }
        if let Some(position) = &event.position {
            self.range(position.sequence, position.sequence, took);
        }
    }

    /// A part of a snapshot has just been taken in.
    pub fn began_all(&self, snapshot: &Snapshot) {
        let position = |event: Option<&AuthEvent>| event.and_then(|event| event.position.clone());
        let first = position(snapshot.events.first());
        let last = if snapshot.more { position(snapshot.events.last()) } else { snapshot.position.clone() };
        if let (Some(first), Some(last)) = (first, last) {
            self.range(first.sequence, last.sequence, None);
        }
    }

    fn range(&self, first_sequence: i64, last_sequence: i64, took: Option<Duration>) {
        let at = Some(contract::to_timestamp(chassis::clock::now()));
        // Without room the time is not kept; what counts is that the event is enforced.
        let _ = self.begun.try_send((Enforced { first_sequence, last_sequence, at }, took));
    }

    /// Tokens of these keys are accepted from now on.
    pub fn accepts(&self, key_ids: Vec<String>) {
        self.key_ids.send_replace(key_ids);
    }
}

impl Reporter {
    /// Reports for as long as the process lives.
    pub async fn run(mut self, channel: InternalChannel, itself: Itself) {
        let mut client = LiveClaimsServiceClient::new(channel);
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut begun = Vec::new();
        loop {
            tokio::select! {
                _ = self.begun.recv_many(&mut begun, BATCH) => {}
                _ = self.key_ids.changed() => {}
                _ = ticks.tick() => {}
            }
            let key_ids = self.key_ids.borrow_and_update().clone();
            if key_ids.is_empty() {
                continue;
            }
            begun.iter().filter_map(|(_, took)| *took).for_each(|took| self.pace.add(took));
            let enforced = merge(begun.drain(..).map(|(range, _)| range));
            let (edge, state) = (self.edge.clone(), Some(self.state(&itself)));
            let mut request =
                tonic::Request::new(ReportEnforcementRequest { edge, key_ids, enforced, state });
            request.set_timeout(REPORT_TIMEOUT);
            if let Err(status) = client.report_enforcement(request).await {
                tracing::debug!(%status, "what is enforced could not be told");
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    fn state(&self, Itself { live, open_sockets }: &Itself) -> EdgeState {
        // Whoever has heard nothing yet has heard nothing since the beginning.
        let lived = || (chassis::clock::now() - self.started_at).to_std().unwrap_or_default();
        let staleness = live.staleness().unwrap_or_else(lived);
        EdgeState {
            version: chassis::VERSION.to_owned(),
            started_at: Some(contract::to_timestamp(self.started_at)),
            position: live.position(),
            staleness_ms: i64::try_from(staleness.as_millis()).unwrap_or(i64::MAX),
            freshness: live.freshness().name().to_owned(),
            live_entries: live.entries(),
            open_sockets: open_sockets(),
            times: self.pace.times(),
        }
    }
}

/// Ranges that were enforced in the same moment, as one.
fn merge(ranges: impl IntoIterator<Item = Enforced>) -> Vec<Enforced> {
    let mut merged: Vec<Enforced> = Vec::new();
    for next in ranges {
        match merged.last_mut() {
            Some(last) if last.last_sequence + 1 == next.first_sequence && same_moment(last, &next) => {
                last.last_sequence = next.last_sequence;
            }
            _ => merged.push(next),
        }
    }
    merged
}

/// Within 5 ms.
fn same_moment(one: &Enforced, other: &Enforced) -> bool {
    const NEAR: i64 = 5_000_000;
    let nanos = |range: &Enforced| {
        range.at.as_ref().map(|at| at.seconds.saturating_mul(1_000_000_000) + i64::from(at.nanos))
    };
    nanos(one).zip(nanos(other)).is_some_and(|(one, other)| other - one < NEAR)
}

static SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
    prometheus::register_histogram!(
        "edge_enforcement_seconds",
        "From a change to the moment in which this edge enforces it",
        buckets
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn neighbours_of_one_moment_are_one_range() {
        let range = |sequence, nanos| Enforced {
            first_sequence: sequence,
            last_sequence: sequence,
            at: Some(Timestamp { seconds: 1, nanos }),
        };
        let merged = merge(vec![range(1, 0), range(2, 1), range(3, 9_000_000), range(5, 9_000_001)]);
        let bounds: Vec<_> = merged.iter().map(|r| (r.first_sequence, r.last_sequence)).collect();
        assert_eq!(bounds, [(1, 2), (3, 3), (5, 5)]);
    }
}
