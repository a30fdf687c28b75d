use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long a message may take that must come.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client's socket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens `/ws` with these headers.
    ///
    /// # Errors
    /// The status of the answer that is not 101.
    pub async fn open(authority: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
        let mut request = Request::get(format!("ws://{authority}/ws"))
            .header("host", authority)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match tokio_tungstenite::connect_async(request.body(()).expect("a request")).await {
            Ok((stream, _)) => Ok(Socket(stream)),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("no handshake: {error}"),
        }
    }

    /// Opens `/ws` as a browser does, and takes the greeting.
    pub async fn connect(authority: &str, token: &str) -> Socket {
        let protocols = format!("persona.v1, bearer.{token}");
        let opened = Socket::open(authority, &[("sec-websocket-protocol", &protocols)]).await;
        let mut socket = opened.unwrap_or_else(|status| panic!("refused with {status}"));
        assert_eq!(socket.next().await["type"], "connected");
        socket
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.expect("sent");
    }

    pub async fn send_frame(&mut self, frame: Message) {
        self.0.send(frame).await.expect("sent");
    }

    /// Sends a frame for as long as the server takes it.
    pub async fn try_send_frame(&mut self, frame: Message) -> bool {
        self.0.send(frame).await.is_ok()
    }

    /// The next message; pings are answered on the way.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.frame().await {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// The code with which the server closes, messages before it passed over.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.frame().await {
                Message::Close(frame) => return frame.map_or(1005, |frame| frame.code.into()),
                _ => continue,
            }
        }
    }

    /// The code with which the server closes although this is said every so often.
    pub async fn closed_in_spite_of(&mut self, message: &Value, every: Duration) -> u16 {
        let talking = self.0.send(Message::text(message.to_string()));
        talking.await.expect("sent");
        loop {
            match tokio::time::timeout(every, self.frame()).await {
                Ok(Message::Close(frame)) => return frame.map_or(1005, |frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => {
                    // Too late, when the server has just closed.
                    let _ = self.0.send(Message::text(message.to_string())).await;
                }
            }
        }
    }

    /// Closes, and gives the code with which the server answers.
    pub async fn leave(mut self, code: u16) -> u16 {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        self.send_frame(Message::Close(Some(frame))).await;
        let answer = self.closed().await;
        assert!(self.0.next().await.is_none(), "then the server ends the connection");
        answer
    }

    async fn frame(&mut self) -> Message {
        let frame = tokio::time::timeout(PATIENCE, self.0.next()).await;
        let frame = frame.unwrap_or_else(|_| panic!("nothing came within {PATIENCE:?}"));
        frame.expect("an open socket").expect("a frame")
    }
}
