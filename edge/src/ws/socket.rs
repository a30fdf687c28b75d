//! The I/O loop of one socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use contract::identity::GetProjectRequest;
use contract::{Outcome, Resource};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error as WsError;

use super::envelope;
use super::session::{Action, Session, Start, close};
use super::upstream::Leg;
use super::{Place, Sockets, envelope::message};
use crate::claims::{Caller, now};
use crate::front::RequestContext;
use crate::gateway::quota;
use crate::services::from_identity;

/// A client that takes longer than this to accept a message does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client has to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Check = Pin<Box<dyn Future<Output = (Start, Outcome<()>)> + Send>>;

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
        let mut changes = self.sockets.authenticator.live().changes();
        let drain = self.sockets.drain.clone();
        let heartbeat = self.sockets.settings.heartbeat;
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        loop {
            let expiry = Duration::from_secs(u64::try_from(self.session.expires_at() - now()).unwrap_or(0));
            let silence =
                self.pinged.map(|at| self.sockets.settings.pong_timeout.saturating_sub(at.elapsed()));
            tokio::select! {
                // While a start is being checked the client waits, so that its messages keep their order.
                frame = self.client.recv(), if self.check.is_none() => self.on_frame(frame).await?,
                text = next(&mut self.leg) => self.on_upstream(text).await?,
                (start, verdict) = verdict(&mut self.check) => self.on_verdict(start, verdict).await?,
                _ = beat.tick() => self.ping().await?,
                () = after(silence), if self.check.is_none() => return Err(End::Close(close::HEARTBEAT_LOST, "no answer to a ping")),
                () = tokio::time::sleep(expiry) => return Err(End::Close(close::TOKEN_EXPIRED, "token expired")),
                _ = changes.changed() => self.obey()?,
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

    fn obey(&self) -> Result<(), End> {
        self.obeying().map(drop)
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
            Action::Check(start) => {
                let caller = self.obeying()?;
                self.check = Some(Box::pin(check(self.sockets.clone(), caller, self.context.clone(), start)));
                Ok(())
            }
        }
    }

    /// What a start's project and quota came to. Once it is on its way it counts.
    async fn on_verdict(&mut self, start: Start, verdict: Outcome<()>) -> Result<(), End> {
        self.check = None;
        let admitted = verdict.is_ok();
        let action = self.session.checked(start, verdict);
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

/// Is the project the caller's, and is there quota left for one more workflow?
async fn check(
    sockets: Arc<Sockets>,
    caller: Caller,
    context: RequestContext,
    start: Start,
) -> (Start, Outcome<()>) {
    let verdict = async {
        let request =
            GetProjectRequest { actor_id: caller.user_id().to_owned(), project_id: start.project_id.clone() };
        from_identity(sockets.services.projects().get_project(context.call(request)).await)?;
        quota::admit(Resource::Content, &caller, &sockets.services, &context).await
    };
    let verdict = verdict.await;
    (start, verdict)
}

async fn next(leg: &mut Option<Leg>) -> Option<String> {
    match leg {
        Some(leg) => leg.next().await,
        None => std::future::pending().await,
    }
}

async fn verdict(check: &mut Option<Check>) -> (Start, Outcome<()>) {
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
