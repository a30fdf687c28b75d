//! What stands behind the edge: 1 KiB of JSON for every request, and every text of a WebSocket sent back.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Outcome;

/// A server inside this process, which ends with its owner.
pub struct Upstream {
    pub address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Upstream {
    pub async fn start() -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Ok(Upstream { address, _accepting: accepting })
    }
}

async fn serve(stream: TcpStream) {
    // Small answers must not wait for an acknowledgement; without it they are only slower.
    let _ = stream.set_nodelay(true);
    let connection = hyper::server::conn::http1::Builder::new();
    // An edge that goes away is no fault of ours.
    let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades().await;
}

async fn answer(mut request: Request<Incoming>) -> Outcome<Response<Full<Bytes>>> {
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) {
        let accept = derive_accept_key(key.as_bytes());
        tokio::spawn(echo(hyper::upgrade::on(&mut request)));
        return Ok(Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, accept)
            .body(Full::default())?);
    }
    request.into_body().collect().await?;
    let (head, tail) = (r#"{"id":"1","padding":""#, r#""}"#);
    let body = format!("{head}{}{tail}", "x".repeat(1024 - head.len() - tail.len()));
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)))?)
}

async fn echo(upgrade: OnUpgrade) {
    let Ok(stream) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() && socket.send(message).await.is_err() {
            return;
        }
    }
}
