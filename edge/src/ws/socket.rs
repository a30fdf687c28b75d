//! The I/O loop of one socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use contract::identity::GetProjectRequest;
use contract::{Outcome, Resource};
use futures_util::future::select_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error as WsError;

use super::envelope;
use super::session::{Action, Passing, Session, Standing, close};
use super::upstream::Leg;
use super::{Place, Sockets, envelope::message};
use crate::claims::{Caller, Freshness, Intent, now};
use crate::front::RequestContext;
use crate::gateway::quota;
use crate::services::from_identity;

/// A client that takes longer than this to accept a message does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client has to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most legs that were opened with former claims. Who is changed more often than that is told to reconnect.
const MOST_FORMER: usize = 8;

type Check = Pin<Box<dyn Future<Output = (Passing, Outcome<()>)> + Send>>;

/// Why the loop ends: we close with a code, or the client has gone.
enum End {
    Close(u16, &'static str),
    Gone,
}

struct Connection {
    sockets: Arc<Sockets>,
    context: RequestContext,
    session: Session,
    client: WebSocket,
    leg: Option<Leg>,
    /// Legs that were opened with claims that have changed since: what was started there still reports.
    former: Vec<Leg>,
    check: Option<Check>,
    /// When the last frame of the client came, of whatever kind.
    heard: Instant,
    pinged: Option<Instant>,
}

/// Tells the client that it has too many sockets open.
pub async fn refuse(mut socket: WebSocket) {
    finish(&mut socket, close::TOO_MANY, "too many connections").await;
}

/// Serves a socket until it closes. Its inputs: the client's frames, core-manager's texts, the verdict on a start
/// that is being checked, the heartbeat, the token's expiry, changes of live claims, and the drain.
pub async fn run(
    sockets: Arc<Sockets>,
    place: Place,
    caller: Caller,
    context: RequestContext,
    client: WebSocket,
) {
    let session = Session::new(sockets.authenticator.clone(), caller, &sockets.settings);
    let mut connection = Connection {
        sockets,
        context,
        session,
        client,
        leg: None,
        former: Vec::new(),
        check: None,
        heard: Instant::now(),
        pinged: None,
    };
    let Err(end) = connection.serve().await;
    // A socket that is only waiting for the client's close takes nobody's place.
    drop(place);
    if let End::Close(code, reason) = end {
        finish(&mut connection.client, code, reason).await;
    }
    tracing::debug!(request_id = connection.context.id(), "a socket closed");
}

impl Connection {
    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        self.greet().await?;
        let mut changes = self.sockets.authenticator.live().changes_of(self.session.user_id());
        // What changed before the subscription woke nobody.
        self.obey().await?;
        let drain = self.sockets.drain.clone();
        let heartbeat = self.sockets.settings.heartbeat;
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        loop {
            let expiry = Duration::from_secs(u64::try_from(self.session.expires_at() - now()).unwrap_or(0))
                + self.sockets.settings.expiry_grace;
            let silence =
                self.pinged.map(|at| self.sockets.settings.pong_timeout.saturating_sub(at.elapsed()));
            tokio::select! {
                // While a start is being checked the client waits, so that its messages keep their order.
                frame = self.client.recv(), if self.check.is_none() => self.on_frame(frame).await?,
                text = next(&mut self.leg, &mut self.former) => self.on_upstream(text).await?,
                (passing, verdict) = verdict(&mut self.check) => self.on_verdict(passing, verdict).await?,
                _ = beat.tick() => self.beat().await?,
                () = after(silence), if self.check.is_none() => return Err(End::Close(close::HEARTBEAT_LOST, "no answer to a ping")),
                () = tokio::time::sleep(expiry) => return Err(End::Close(close::TOKEN_EXPIRED, "token expired")),
                _ = changes.changed() => self.obey().await?,
                () = drain.stop_accepting() => return Err(End::Close(close::SHUTTING_DOWN, "shutting down")),
            }
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        let caller = self.obeying()?;
        let data = json!({
            "session_id": caller.session_id(),
            "user_id": caller.user_id(),
            "heartbeat_s": self.sockets.settings.heartbeat.as_secs(),
            "max_message_bytes": self.sockets.settings.max_message_bytes,
        });
        self.send(message("connected", None, Some(data))).await
    }

    /// The caller, as long as the session lives.
    fn obeying(&self) -> Result<Caller, End> {
        self.session.caller().map_err(|_| End::Close(close::SESSION_ENDED, "session ended"))
    }

    /// Lives by the claims that count now: an ended session closes the socket, and changed claims are told and go
    /// with everything that is passed on from here.
    async fn obey(&mut self) -> Result<(), End> {
        match self.session.look() {
            Err(_) => Err(End::Close(close::SESSION_ENDED, "session ended")),
            Ok(Standing::Unchanged) => Ok(()),
            Ok(Standing::Changed(text)) => {
                if let Some(leg) = self.leg.take() {
                    self.former.push(leg);
                }
                if self.former.len() > MOST_FORMER {
                    return Err(End::Close(close::CORE_MANAGER_RESTARTED, "too many changes; reconnect"));
                }
                self.send(text).await
            }
        }
    }

    /// Once in a while: is the client there, and is anything known of its rights?
    async fn beat(&mut self) -> Result<(), End> {
        if self.sockets.authenticator.live().freshness() == Freshness::Lost {
            return Err(End::Close(close::TRY_LATER, "sessions cannot be checked at the moment"));
        }
        self.ping().await
    }

    async fn on_frame(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard = Instant::now();
        self.pinged = None;
        match frame {
            None | Some(Ok(Message::Close(_))) => Err(End::Gone),
            Some(Err(error)) => Err(fault(error)),
            Some(Ok(Message::Binary(_))) => Err(End::Close(close::BINARY, "binary frames are refused")),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Text(text))) => {
                let action = self.session.on_text(&text, self.heard);
                self.act(action).await
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), End> {
        match action {
            Action::Reply(text) => self.send(text).await,
            Action::Close(code, reason) => Err(End::Close(code, reason)),
            Action::Forward { id, text } => match self.forward(text).await {
                Ok(()) => Ok(()),
                Err(failure) => {
                    tracing::warn!(request_id = self.context.id(), cause = ?failure.cause(), "{failure}");
                    self.send(envelope::error(Some(&id), &failure)).await
                }
            },
            Action::Check(passing) => {
                let caller = self.obeying()?;
                self.check =
                    Some(Box::pin(check(self.sockets.clone(), caller, self.context.clone(), passing)));
                Ok(())
            }
        }
    }

    /// What a message came to. A start that is on its way counts.
    async fn on_verdict(&mut self, passing: Passing, verdict: Outcome<()>) -> Result<(), End> {
        self.check = None;
        let admitted = verdict.is_ok() && passing.project_id.is_some();
        let action = self.session.checked(passing, verdict);
        self.act(action).await?;
        if admitted && self.leg.is_some() {
            let caller = self.obeying()?;
            quota::record(Resource::Content, 1, &caller, &self.sockets.services, &self.context);
        }
        Ok(())
    }

    async fn forward(&mut self, text: String) -> Outcome<()> {
        let leg = match &mut self.leg {
            Some(leg) => leg,
            None => {
                let caller = self.session.caller()?;
                self.leg.insert(Leg::open(&self.sockets.core_manager, &caller, &self.context).await?)
            }
        };
        leg.send(text).await
    }

    async fn on_upstream(&mut self, text: Option<String>) -> Result<(), End> {
        let Some(text) = text else {
            return Err(End::Close(close::CORE_MANAGER_RESTARTED, "core-manager closed the connection"));
        };
        if !is_envelope(&text) {
            tracing::warn!(request_id = self.context.id(), "core-manager sent what is no envelope; dropped");
            return Ok(());
        }
        self.send(text).await
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.pinged.is_none() {
            self.pinged = Some(Instant::now());
        }
        self.send_frame(Message::Ping(Bytes::new())).await
    }

    async fn send(&mut self, text: String) -> Result<(), End> {
        self.send_frame(Message::Text(text.into())).await
    }

    async fn send_frame(&mut self, frame: Message) -> Result<(), End> {
        match tokio::time::timeout(SEND_TIMEOUT, self.client.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Close(close::POLICY, "does not read")),
        }
    }
}

/// Do the caller's rights stand; and for a start: is the project the caller's, and is there quota left?
async fn check(
    sockets: Arc<Sockets>,
    caller: Caller,
    context: RequestContext,
    passing: Passing,
) -> (Passing, Outcome<()>) {
    let verdict = async {
        let caller = sockets.authenticator.confirm(caller, Intent::Act).await?;
        let Some(project_id) = passing.project_id.clone() else { return Ok(()) };
        let request = GetProjectRequest { actor_id: caller.user_id().to_owned(), project_id };
        from_identity(sockets.services.projects().get_project(context.call(request)).await)?;
        quota::admit(Resource::Content, &caller, &sockets.services, &context).await
    };
    let verdict = verdict.await;
    (passing, verdict)
}

/// The next text of core-manager on any leg; `None` when one has gone.
async fn next(leg: &mut Option<Leg>, former: &mut [Leg]) -> Option<String> {
    match leg {
        Some(leg) if former.is_empty() => leg.next().await,
        None if former.is_empty() => std::future::pending().await,
        leg => select_all(leg.iter_mut().chain(former).map(|leg| Box::pin(leg.next()))).await.0,
    }
}

async fn verdict(check: &mut Option<Check>) -> (Passing, Outcome<()>) {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn is_envelope(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value["type"].is_string())
}

/// The close code for what the client did wrong.
fn fault(error: axum::Error) -> End {
    match error.into_inner().downcast_ref::<WsError>() {
        Some(WsError::Capacity(_)) => End::Close(close::TOO_BIG, "the message is too big"),
        Some(WsError::Utf8(_)) => End::Close(close::BAD_UTF8, "not UTF-8"),
        Some(WsError::Protocol(_)) => End::Close(close::PROTOCOL_ERROR, "protocol error"),
        _ => End::Gone,
    }
}

/// Says why, and waits a little for the client's own close, so that the reason is not lost with the connection.
async fn finish(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let farewell = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // A client that does not answer is dropped all the same.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
}
