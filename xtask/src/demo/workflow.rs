//! A workflow over the WebSocket, with a progress bar.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::story::act;
use crate::Outcome;
use crate::terminal::{Colour, is_watched, paint};

/// Longest wait for the next message.
const PATIENCE: Duration = Duration::from_secs(20);
const WIDTH: usize = 40;

/// The close code of an ended session.
const SESSION_ENDED: u16 = 4403;

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What the workflow works on.
pub struct Start<'a> {
    pub project: &'a str,
    pub instance: &'a str,
}

/// Opens the socket as a browser would, starts a workflow, follows it to its end and gives the open socket.
pub async fn run(edge: &str, token: &str, start: &Start<'_>) -> Outcome<Socket> {
    let mut socket = act("open the WebSocket", connect(edge, token)).await?;
    act("run a workflow", follow(&mut socket, start)).await?;
    Ok(socket)
}

/// Waits until the socket is told of the tier.
pub async fn told_of_tier(socket: &mut Socket, tier: &str) -> Outcome {
    loop {
        let message = next(socket).await?;
        if message["type"] == "auth.changed" && message["data"]["tier"] == tier {
            return Ok(());
        }
    }
}

/// Waits until the socket is closed because its session has ended.
pub async fn closed_by_logout(socket: &mut Socket) -> Outcome {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await;
        match message.map_err(|_| format!("not closed for {PATIENCE:?}"))? {
            Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == SESSION_ENDED => return Ok(()),
            Some(Ok(Message::Close(frame))) => {
                return Err(format!("closed, but not for the logout: {frame:?}").into());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the socket ended without a word".into()),
        }
    }
}

async fn connect(edge: &str, token: &str) -> Outcome<Socket> {
    let url = format!("{}/ws", edge.replacen("http", "ws", 1));
    let mut request = url.as_str().into_client_request()?;
    // A browser cannot set Authorization, so that the token travels as a subprotocol.
    let protocols = format!("persona.v1, bearer.{token}").parse()?;
    request.headers_mut().insert("sec-websocket-protocol", protocols);
    let (mut socket, _) = connect_async(request).await.map_err(|e| refusal(&url, e))?;
    let greeting = next(&mut socket).await?;
    if greeting["type"] != "connected" {
        return Err(format!("the first message is not `connected`: {greeting}").into());
    }
    Ok(socket)
}

async fn follow(socket: &mut Socket, start: &Start<'_>) -> Outcome {
    let message = json!({
        "type": "start_workflow",
        "id": "demo-1",
        "data": {
            "workflow_type": "story",
            "agent_instance_id": start.instance,
            "project_id": start.project,
            "parameters": {"steps": 8, "step_ms": 250},
        },
    });
    socket.send(Message::text(message.to_string())).await?;
    loop {
        let message = next(socket).await?;
        if message["type"] != "workflow_status" || message["correlation_id"] != "demo-1" {
            return Err(format!("this is not the workflow's status: {message}").into());
        }
        let data = &message["data"];
        draw(data["progress"].as_f64().unwrap_or_default(), data["step"].as_str().unwrap_or_default());
        match data["status"].as_str() {
            Some("in_progress") => {}
            Some("completed") => break,
            _ => return Err(format!("the workflow did not complete: {message}").into()),
        }
    }
    if is_watched() {
        println!();
    }
    Ok(())
}

/// One line that is drawn over on a terminal, a line for each step elsewhere.
fn draw(progress: f64, step: &str) {
    let full = (progress.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full));
    let line = format!("    {} {:>3.0} % {step:<24}", paint(Colour::Cyan, &bar), progress * 100.0);
    if is_watched() {
        use std::io::Write;
        print!("\r{line}");
        // A progress bar that is late does no harm.
        let _ = std::io::stdout().flush();
    } else {
        println!("{}", line.trim_end());
    }
}

async fn next(socket: &mut Socket) -> Outcome<Value> {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await;
        let message =
            message.map_err(|_| format!("no message for {PATIENCE:?}"))?.ok_or("the socket ended")??;
        match message {
            Message::Text(text) => return Ok(serde_json::from_str(&text)?),
            Message::Close(frame) => return Err(format!("the socket was closed: {frame:?}").into()),
            // Pings are answered by the library.
            _ => {}
        }
    }
}

/// A refused handshake is told with the body of the answer.
fn refusal(url: &str, error: tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(answer) => {
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            format!("GET {url}: {}:\n{body}", answer.status())
        }
        other => format!("GET {url}: {other}"),
    }
}
