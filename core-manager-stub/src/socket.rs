//! `/ws`: the other end of the gateway's relay.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::app::App;
use crate::identity::Identity;
use crate::recorder::Frame;
use crate::server::Connection;
use crate::switches::Behaviour;
use crate::workflow;

/// Status reports on their way to one client.
const BUFFER: usize = 64;
/// Close codes of RFC 6455 and the IANA registry.
const NORMAL: u16 = 1000;
const UNSUPPORTED: u16 = 1003;
const RESTART: u16 = 1012;
/// How long the peer may take to answer a close.
const CLOSING: Duration = Duration::from_secs(1);

/// `GET /ws`.
pub async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Connection>,
    Extension(identity): Extension<Identity>,
    Extension(behaviour): Extension<Behaviour>,
    upgrade: WebSocketUpgrade,
) -> Response {
    // Counted from here on, so that the process does not end between the answer and the upgrade.
    let open = app.sockets.enter();
    upgrade.protocols(["persona.v1"]).on_upgrade(async move |mut socket| {
        if let Some(garbage) = behaviour.garbage {
            return connection.mark_garbage(garbage);
        }
        let (reporter, reports) = mpsc::channel(BUFFER);
        let session = Session { app, identity, reporter, workflows: JoinSet::new() };
        match session.run(&mut socket, reports).await {
            End::Gone => {}
            End::Close(code, reason) => close(&mut socket, code, reason).await,
            End::Reset => connection.mark_reset(),
        }
        drop(socket);
        drop(open);
    })
}

/// How a socket ends.
enum End {
    Gone,
    Close(u16, String),
    Reset,
}

/// What follows from a message.
enum Reaction {
    /// Lazily, so that a flood is never in memory as a whole.
    Send(Box<dyn Iterator<Item = Message> + Send>),
    End(End),
}

impl Reaction {
    fn send(message: Message) -> Self {
        Reaction::Send(Box::new(iter::once(message)))
    }
}

/// One socket. Its workflows end with it.
struct Session {
    app: Arc<App>,
    identity: Identity,
    reporter: mpsc::Sender<Value>,
    workflows: JoinSet<()>,
}

impl Session {
    async fn run(mut self, socket: &mut WebSocket, mut reports: mpsc::Receiver<Value>) -> End {
        let closing = self.app.closing.clone();
        let mut tiers_that_close = self.app.close_of_tier.subscribe();
        loop {
            let reaction = tokio::select! {
                () = closing.cancelled() => Reaction::End(End::Close(RESTART, "restart".to_owned())),
                Ok(tier) = tiers_that_close.recv() => match self.identity.headers.get("x-user-tier") {
                    Some(own) if *own == tier => Reaction::End(End::Close(NORMAL, "as asked".to_owned())),
                    _ => continue,
                },
                // Takes finished workflows out of the set, which would otherwise grow.
                Some(_) = self.workflows.join_next() => continue,
                Some(report) = reports.recv() => Reaction::send(text(&report)),
                message = socket.recv() => match message {
                    Some(Ok(message)) => self.react(message),
                    Some(Err(_)) | None => return End::Gone,
                },
            };
            match reaction {
                Reaction::End(end) => return end,
                Reaction::Send(messages) => {
                    for message in messages {
                        if socket.send(message).await.is_err() {
                            return End::Gone;
                        }
                    }
                }
            }
        }
    }

    fn react(&mut self, message: Message) -> Reaction {
        match message {
            Message::Text(text) => self.react_to_text(&text),
            Message::Binary(_) => Reaction::End(End::Close(UNSUPPORTED, "text only".to_owned())),
            // The library answers pings and closes itself; after a close there is no next message.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {
                Reaction::Send(Box::new(iter::empty()))
            }
        }
    }

    fn react_to_text(&mut self, received: &str) -> Reaction {
        self.app.recorder.frame(Frame { user_id: self.identity.user_id.clone(), text: received.to_owned() });
        // What is not JSON is echoed as null: the gateway should have kept it.
        let envelope: Value = serde_json::from_str(received).unwrap_or_default();
        let kind = envelope["type"].as_str().unwrap_or_default();
        if kind == "start_workflow" {
            return self.start(envelope);
        }
        let Some(switch) = kind.strip_prefix("stub.") else {
            return Reaction::send(text(&self.echo(&envelope)));
        };
        obey(switch, envelope["data"].clone()).unwrap_or_else(|why| {
            let error = json!({ "code": "STUB", "message": why });
            Reaction::send(text(&answer(&envelope, "error", "error", error)))
        })
    }

    /// Starts the workflow beside those that run already.
    fn start(&mut self, envelope: Value) -> Reaction {
        match workflow::Start::deserialize(&envelope) {
            Ok(start) => {
                let (running, reporter) = (self.app.workflows.enter(), self.reporter.clone());
                self.workflows.spawn(async move {
                    workflow::run(start, reporter).await;
                    drop(running);
                });
                Reaction::Send(Box::new(iter::empty()))
            }
            Err(why) => Reaction::send(text(&workflow::unfit(&envelope["id"], &why.to_string()))),
        }
    }

    fn echo(&self, envelope: &Value) -> Value {
        let data = json!({ "received": envelope, "headers": self.identity.headers });
        answer(envelope, "echo", "data", data)
    }
}

/// The data of a `stub.*` message; each switch takes what it needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Order {
    code: Option<u16>,
    reason: String,
    count: Option<u64>,
    bytes: Option<usize>,
    text: String,
}

fn obey(switch: &str, data: Value) -> Result<Reaction, String> {
    let order: Option<Order> = serde_json::from_value(data).map_err(|e| e.to_string())?;
    let order = order.unwrap_or_default();
    match switch {
        "close" => Ok(Reaction::End(End::Close(order.code.unwrap_or(1000), order.reason))),
        "drop" => Ok(Reaction::End(End::Reset)),
        "raw" => Ok(Reaction::send(Message::text(order.text))),
        "binary" => Ok(Reaction::send(Message::binary(vec![0; order.bytes.unwrap_or(16)]))),
        "flood" => Ok(flood(order.count.unwrap_or(100), order.bytes.unwrap_or(100))),
        _ => Err(format!("there is no switch stub.{switch}")),
    }
}

/// So many messages, each padded with so many bytes.
fn flood(count: u64, bytes: usize) -> Reaction {
    let padding = "x".repeat(bytes);
    Reaction::Send(Box::new((1..=count).map(move |number| {
        let data = json!({ "number": number, "padding": padding });
        text(&json!({ "type": "stub.flood", "id": Uuid::now_v7(), "data": data }))
    })))
}

fn answer(envelope: &Value, kind: &str, field: &str, content: Value) -> Value {
    json!({ "type": kind, "id": Uuid::now_v7(), "correlation_id": envelope["id"], field: content })
}

fn text(message: &Value) -> Message {
    Message::text(message.to_string())
}

/// Closes as RFC 6455 wants it: the server waits for the peer's close before it ends the connection.
async fn close(socket: &mut WebSocket, code: u16, reason: String) {
    let frame = CloseFrame { code, reason: reason.into() };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        // A peer that does not answer in time has had its chance.
        let _ = timeout(CLOSING, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}
