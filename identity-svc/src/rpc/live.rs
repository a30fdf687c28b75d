use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chassis::drain::Drain;
use chassis::grpc::answer;
use contract::Outcome;
use contract::identity::live_claims_service_server::LiveClaimsService;
use contract::identity::watch_auth_events_response::Message;
use contract::identity::{
    AccountChanged, AuthEvent, CheckSessionRequest, CheckSessionResponse, Heartbeat, Position,
    ReportEnforcementRequest, ReportEnforcementResponse, WatchAuthEventsRequest, WatchAuthEventsResponse,
};
use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::identity::{Identity, id};
use crate::keys::Keys;
use crate::snapshots::Snapshot;
use crate::{events, sign_in};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Messages on their way to one subscriber.
const BUFFER: usize = 256;
/// A subscriber that takes no message for this long is cut off; it resumes where it was.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct LiveClaims {
    pub identity: Identity,
    pub drain: Drain,
}

type Messages = Pin<Box<dyn Stream<Item = Result<WatchAuthEventsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl LiveClaimsService for LiveClaims {
    type WatchAuthEventsStream = Messages;

    async fn watch_auth_events(
        &self,
        request: Request<WatchAuthEventsRequest>,
    ) -> Result<Response<Self::WatchAuthEventsStream>, Status> {
        let since = request.into_inner().since;
        // Subscribed before the table is read: what commits meanwhile may come twice, but never not at all.
        let (events, readings) = (self.identity.tail.subscribe(), self.identity.tail.readings());
        let start = answer(Beginning::of(&self.identity, since).await)?.into_inner();
        let (sender, receiver) = mpsc::channel(BUFFER);
        let keys = self.identity.tokens.keys.changes();
        tokio::spawn(feed(Subscriber(sender), start, events, readings, keys));
        let drain = self.drain.clone();
        // The stream does not end by itself: the edge goes on at another replica, and the process can end.
        let messages = ReceiverStream::new(receiver).take_until(async move { drain.stop_accepting().await });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn report_enforcement(
        &self,
        request: Request<ReportEnforcementRequest>,
    ) -> Result<Response<ReportEnforcementResponse>, Status> {
        let noted = self.identity.reports.take(request.into_inner());
        answer(noted.map(|()| ReportEnforcementResponse {}))
    }

    async fn check_session(
        &self,
        request: Request<CheckSessionRequest>,
    ) -> Result<Response<CheckSessionResponse>, Status> {
        let CheckSessionRequest { user_id, session_id } = request.into_inner();
        let account = async {
            id("user_id", &user_id)?;
            id("session_id", &session_id)?;
            sign_in::holder(&self.identity, &user_id, &session_id).await
        };
        answer(account.await.map(|account| CheckSessionResponse {
            account: Some(AccountChanged {
                user_id: account.id,
                version: account.version,
                email: account.email,
                role: account.role.name().to_owned(),
                tier: account.tier.name().to_owned(),
                permissions: account.permissions,
            }),
        }))
    }
}

/// What a subscriber gets before it follows.
enum Beginning {
    /// What it has missed since it was last here.
    Missed(Vec<AuthEvent>),
    Snapshot(Snapshot),
}

impl Beginning {
    async fn of(identity: &Identity, since: Option<Position>) -> Outcome<Self> {
        if let Some(since) = since
            && let Some(missed) = events::resume(&identity.pool, &since).await?
        {
            return Ok(Beginning::Missed(missed));
        }
        Ok(Beginning::Snapshot(identity.snapshots.begin().await?))
    }
}

struct Subscriber(mpsc::Sender<Result<WatchAuthEventsResponse, Status>>);

impl Subscriber {
    /// Whether the subscriber is still there and has taken the message.
    async fn send(&self, message: Message) -> bool {
        let message = WatchAuthEventsResponse { message: Some(message) };
        self.0.send_timeout(Ok(message), PATIENCE).await.is_ok()
    }

    /// Sends the beginning, a snapshot as it is being read. Whether the subscriber has taken all of it.
    async fn begin(&self, start: Beginning) -> bool {
        match start {
            Beginning::Missed(events) => {
                for event in events {
                    if !self.send(Message::Event(event)).await {
                        return false;
                    }
                }
                true
            }
            Beginning::Snapshot(mut snapshot) => loop {
                let part = match snapshot.part().await {
                    Ok(part) => part,
                    Err(failure) => {
                        tracing::warn!(cause = ?failure.cause(), "a snapshot broke off");
                        self.cut_off("the snapshot broke off; start over").await;
                        return false;
                    }
                };
                let more = part.more;
                if !self.send(Message::Snapshot(part)).await {
                    return false;
                }
                if !more {
                    return true;
                }
            },
        }
    }

    async fn cut_off(&self, why: &'static str) {
        // One that does not even read this finds its stream ended.
        let _ = self.0.try_send(Err(Status::aborted(why)));
    }
}

/// Sends the beginning, then events as they come, and a heartbeat each second in which the table could be read: a
/// database that does not answer silences the stream, so that edges see how old their knowledge is.
async fn feed(
    subscriber: Subscriber,
    start: Beginning,
    mut events: broadcast::Receiver<Arc<AuthEvent>>,
    mut readings: watch::Receiver<Option<Position>>,
    mut keys: watch::Receiver<Arc<Keys>>,
) {
    // Keys first: who knows what has ended but not what is genuine cannot serve yet.
    let set = keys.borrow_and_update().set.clone();
    if !subscriber.send(Message::KeySet(set)).await || !subscriber.begin(start).await {
        return;
    }
    let mut epoch: Option<String> = None;
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Events first, so that a heartbeat never claims what has not been sent.
            biased;
            event = events.recv() => match event {
                Ok(event) => if !subscriber.send(Message::Event(AuthEvent::clone(&event))).await { return },
                Err(RecvError::Lagged(_)) => return subscriber.cut_off("too far behind; resume").await,
                Err(RecvError::Closed) => return,
            },
            () = subscriber.0.closed() => return,
            Ok(()) = keys.changed() => {
                let set = keys.borrow_and_update().set.clone();
                if !subscriber.send(Message::KeySet(set)).await {
                    return;
                }
            }
            _ = beat.tick() => {
                if !readings.has_changed().unwrap_or(false) {
                    continue;
                }
                let position = readings.borrow_and_update().clone();
                if let Some(position) = &position
                    && epoch.get_or_insert_with(|| position.epoch.clone()) != &position.epoch
                {
                    return subscriber.cut_off("the event table is another one; start over").await;
                }
                // An event that was published between the look above and this reading goes first.
                if events.is_empty() && !subscriber.send(Message::Heartbeat(Heartbeat { position })).await {
                    return;
                }
            }
        }
    }
}
