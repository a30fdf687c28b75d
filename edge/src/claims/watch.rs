//! Follows the auth events of identity-svc and keeps the table of live claims current.

use std::sync::LazyLock;
use std::time::Duration;

use chassis::grpc::InternalChannel;
use chassis::health::Health;
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::watch_auth_events_response::Message;
use contract::identity::{KeySet, WatchAuthEventsRequest};
use contract::token::{KeyFault, TokenFault, Verifier, key_set};
use prometheus::{Gauge, IntGauge};
use secrecy::SecretString;
use tonic::{Code, Status};

use super::{Authenticator, Enforcement, LiveClaims, now};

/// Heartbeats come each second; a stream that is silent for this long is dead.
const SILENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Said by an edge that can verify no token that is given out now.
const OTHER_KEYS: &str =
    "tokens of identity-svc cannot be verified: JWT_SECRET_KEY or JWT_AUDIENCE is another one there";

/// How the watch makes keys of what identity-svc says.
pub struct KeySettings {
    /// The secrets of HS256, the first of which signs.
    pub secrets: Vec<SecretString>,
    pub audience: String,
}

/// The watch on identity-svc.
pub struct Watch {
    pub channel: InternalChannel,
    pub authenticator: Authenticator,
    pub keys: KeySettings,
    pub enforcement: Enforcement,
    pub health: Health,
    /// From 0 to 1, another one each time, so that edges do not come back in step.
    pub jitter: fn() -> f64,
}

/// At random.
pub fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}

impl Watch {
    /// Watches for as long as the process lives. The edge is ready with the keys and the first snapshot.
    pub async fn run(self) {
        let live = self.authenticator.live();
        let mut pause = FIRST_PAUSE;
        loop {
            let heard_before = live.heard();
            let ended = self.follow().await;
            let was_heard = live.heard() > heard_before;
            pause = if was_heard { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tracing::warn!(reason = reason(&ended), "the watch on identity-svc broke off; connecting again");
            tokio::time::sleep(pause.mul_f64(0.5 + (self.jitter)() / 2.0)).await;
        }
    }

    /// Follows one stream until it ends, which is never good.
    async fn follow(&self) -> Status {
        let live = self.authenticator.live();
        let request = WatchAuthEventsRequest { since: live.position() };
        let mut client =
            LiveClaimsServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut stream = match tokio::time::timeout(SILENCE, client.watch_auth_events(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no answer"),
        };
        loop {
            let next = match tokio::time::timeout(SILENCE, stream.message()).await {
                Err(_) => return Status::deadline_exceeded("no heartbeat"),
                Ok(Err(status)) => return status,
                Ok(Ok(None)) => return Status::unavailable("the stream ended"),
                Ok(Ok(Some(next))) => next,
            };
            match next.message {
                Some(Message::KeySet(set)) => {
                    if let Err(fault) = self.accept(&set) {
                        tracing::error!(%fault, "the keys of identity-svc cannot be used");
                        return Status::failed_precondition("the keys cannot be used");
                    }
                }
                Some(Message::Snapshot(snapshot)) => {
                    live.apply_snapshot(&snapshot);
                    self.enforcement.began_all(&snapshot);
                }
                Some(Message::Event(event)) => {
                    live.apply(&event);
                    self.enforcement.began(&event);
                }
                Some(Message::Heartbeat(heartbeat)) => {
                    if let Some(position) = heartbeat.position {
                        live.heard_at(position);
                    }
                }
                None => {}
            }
            if !self.health.is_ready() && live.position().is_some() && self.health.hindrance().is_none() {
                // Not only with the next tick: who is ready must not be shown as one that has heard nothing.
                show_staleness(live);
                self.health.now_ready();
            }
        }
    }

    fn accept(&self, set: &KeySet) -> Result<(), KeyFault> {
        let keys = key_set(&set.keys, &self.keys.secrets)?;
        let verifier = Verifier::new(keys, &self.keys.audience);
        let knows = set.sample.is_empty() || verifier.verify(&set.sample, now()) == Err(TokenFault::Expired);
        // One that is ready stays so: it may have been given a new secret too late, and still serves tokens of the old one.
        KEYS_KNOWN.set(knows.into());
        let is_news = self.health.hindered_by((!knows).then_some(OTHER_KEYS));
        if is_news && !knows {
            tracing::error!("{OTHER_KEYS}");
        }
        self.authenticator.accept(verifier);
        self.enforcement.accepts(set.keys.iter().map(|key| key.kid.clone()).collect());
        Ok(())
    }
}

/// What is wrong, also where the other side has not said it.
fn reason(ended: &Status) -> String {
    match (ended.code(), ended.message()) {
        (Code::Unimplemented, _) => "what answers at IDENTITY_URL is not identity-svc".to_owned(),
        (code, "") => code.description().to_owned(),
        (_, message) => message.to_owned(),
    }
}

fn show_staleness(live: &LiveClaims) {
    STALENESS.set(live.staleness().map_or(f64::INFINITY, |age| age.as_secs_f64()));
}

/// Keeps the gauge of staleness true and forgets what has expired, for as long as the process lives.
pub async fn housekeeping(authenticator: Authenticator) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        show_staleness(authenticator.live());
        authenticator.forget(now());
    }
}

static KEYS_KNOWN: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "edge_token_keys_known",
        "1 while this edge can verify the tokens that identity-svc gives out now"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static STALENESS: LazyLock<Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "edge_live_claims_staleness_seconds",
        "Seconds since identity-svc was last heard"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
