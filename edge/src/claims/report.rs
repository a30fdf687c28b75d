//! Tells identity-svc what this edge enforces and which keys it accepts: for the audit log, and so that a new signing
//! key signs only once every edge knows it.

use std::sync::LazyLock;
use std::time::Duration;

use chassis::grpc::InternalChannel;
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::{AuthEvent, Enforced, ReportEnforcementRequest, Snapshot};
use prometheus::Histogram;
use tokio::sync::{mpsc, watch};

/// How often the edge says that it is alive when nothing else is to be told.
const INTERVAL: Duration = Duration::from_secs(5);
/// The least time between two reports, so that many events share one: with a thousand edges each report counts.
const GATHER: Duration = Duration::from_secs(1);
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Reports that wait while one is on its way, and the most that go together.
const WAITING: usize = 8192;
const BATCH: usize = 1000;

/// What the watch on identity-svc tells the [`Reporter`].
pub struct Enforcement {
    ranges: mpsc::Sender<Enforced>,
    key_ids: watch::Sender<Vec<String>>,
}

/// Sends the reports.
pub struct Reporter {
    edge: String,
    ranges: mpsc::Receiver<Enforced>,
    key_ids: watch::Receiver<Vec<String>>,
}

/// The two ends of the reports of the edge with this name.
pub fn enforcement(edge: String) -> (Enforcement, Reporter) {
    let (ranges, reported) = mpsc::channel(WAITING);
    let (key_ids, held) = watch::channel(Vec::new());
    (Enforcement { ranges, key_ids }, Reporter { edge, ranges: reported, key_ids: held })
}

impl Enforcement {
    /// An event has just been taken in.
    pub fn began(&self, event: &AuthEvent) {
        let now = chassis::clock::now();
        if let Some(at) = event.at.and_then(contract::from_timestamp) {
            SECONDS.observe((now - at).as_seconds_f64().max(0.0));
        }
        if let Some(position) = &event.position {
            self.range(position.sequence, position.sequence);
        }
    }

    /// A part of a snapshot has just been taken in.
    pub fn began_all(&self, snapshot: &Snapshot) {
        let position = |event: Option<&AuthEvent>| event.and_then(|event| event.position.clone());
        let first = position(snapshot.events.first());
        let last = if snapshot.more { position(snapshot.events.last()) } else { snapshot.position.clone() };
        if let (Some(first), Some(last)) = (first, last) {
            self.range(first.sequence, last.sequence);
        }
    }

    fn range(&self, first_sequence: i64, last_sequence: i64) {
        let at = Some(contract::to_timestamp(chassis::clock::now()));
        // Without room the time is not kept; what counts is that the event is enforced.
        let _ = self.ranges.try_send(Enforced { first_sequence, last_sequence, at });
    }

    /// Tokens of these keys are accepted from now on.
    pub fn accepts(&self, key_ids: Vec<String>) {
        self.key_ids.send_replace(key_ids);
    }
}

impl Reporter {
    /// Reports for as long as the process lives.
    pub async fn run(mut self, channel: InternalChannel) {
        let mut client = LiveClaimsServiceClient::new(channel);
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut ranges = Vec::new();
        loop {
            tokio::select! {
                _ = self.ranges.recv_many(&mut ranges, BATCH) => {}
                _ = self.key_ids.changed() => {}
                _ = ticks.tick() => {}
            }
            let key_ids = self.key_ids.borrow_and_update().clone();
            if key_ids.is_empty() {
                continue;
            }
            let enforced = merge(std::mem::take(&mut ranges));
            let edge = self.edge.clone();
            let mut request = tonic::Request::new(ReportEnforcementRequest { edge, key_ids, enforced });
            request.set_timeout(REPORT_TIMEOUT);
            if let Err(status) = client.report_enforcement(request).await {
                tracing::debug!(%status, "what is enforced could not be told");
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Ranges that were enforced in the same moment, as one.
fn merge(ranges: Vec<Enforced>) -> Vec<Enforced> {
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
