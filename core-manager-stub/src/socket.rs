//! `/ws`: the other end of the gateway's relay.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::identity::{header, received};
use crate::recorder::Frame;
use crate::server::Stub;
use crate::workflow;

/// Messages on their way to one client.
const BUFFER: usize = 64;
/// Service restart (RFC 6455, IANA registry of close codes).
const RESTART: u16 = 1012;

pub async fn upgrade(State(stub): State<Stub>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        stub.0.sockets.fetch_add(1, Ordering::Relaxed);
        serve(&stub, &headers, socket).await;
        stub.0.sockets.fetch_sub(1, Ordering::Relaxed);
    })
}

/// Inputs: the client's frames, texts of running workflows, and the end of the process. Workflows end with the socket.
async fn serve(stub: &Stub, headers: &HeaderMap, mut socket: WebSocket) {
    let (sender, mut texts) = mpsc::channel(BUFFER);
    let mut workflows = JoinSet::new();
    let user_id = header(headers, "x-user-id").to_owned();
    loop {
        tokio::select! {
            frame = socket.recv() => match frame {
                Some(Ok(Message::Text(text))) => {
                    stub.0.recorder.frame(Frame { user_id: user_id.clone(), text: text.to_string() });
                    if handle(&mut socket, &text, headers, &sender, &mut workflows).await.is_none() {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_) | Message::Binary(_)) | Err(_)) | None => return,
            },
            Some(text) = texts.recv() => {
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            () = stub.0.end.cancelled() => {
                close(&mut socket, RESTART, "restarting").await;
                return;
            }
        }
    }
}

/// `None` when the socket is over.
async fn handle(
    socket: &mut WebSocket,
    text: &str,
    headers: &HeaderMap,
    sender: &mpsc::Sender<String>,
    workflows: &mut JoinSet<()>,
) -> Option<()> {
    let envelope: Value = serde_json::from_str(text).unwrap_or_default();
    let data = &envelope["data"];
    match envelope["type"].as_str().unwrap_or_default() {
        "start_workflow" => {
            workflows.spawn(workflow::run(envelope.clone(), sender.clone()));
            Some(())
        }
        "stub.close" => {
            close(socket, data["code"].as_u64().unwrap_or(1000) as u16, "as asked").await;
            None
        }
        "stub.drop" => None,
        "stub.raw" => {
            send(
                socket,
                Message::Text(data["text"].as_str().unwrap_or_default().into()),
            )
            .await
        }
        "stub.binary" => send(socket, Message::Binary(vec![0; 16].into())).await,
        "stub.flood" => {
            let filler = "x".repeat(data["bytes"].as_u64().unwrap_or(100) as usize);
            for number in 0..data["count"].as_u64().unwrap_or(100) {
                let flood = json!({ "type": "stub.flood", "id": number.to_string(), "data": filler });
                send(socket, Message::Text(flood.to_string().into())).await?;
            }
            Some(())
        }
        _ => {
            let id = Uuid::now_v7();
            let data = json!({ "received": envelope, "headers": received(headers) });
            let echo = json!({ "type": "echo", "id": id, "correlation_id": envelope["id"], "data": data });
            send(socket, Message::Text(echo.to_string().into())).await
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Option<()> {
    socket.send(message).await.ok()
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    // A peer that has gone needs no close.
    let _ = socket
        .send(Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        })))
        .await;
}
