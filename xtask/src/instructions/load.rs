//! What is asked of the edge: one request after the other on one connection, so that what is counted is the same each
//! time.

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::Outcome;
use crate::http::socket_request;

const GET_PATH: &str = "/api/v1/personas/instances/0199c0de-0000-7000-8000-000000000001";
/// A path that every user may POST to, without a quota.
const POST_PATH: &str = "/api/v1/instructions/1";
/// The route for it.
pub const ROUTES: &str = "POST /api/v1/instructions/{id} user";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Get,
    Post,
    ForgedToken,
    Frame,
}

impl Work {
    pub const ALL: [Work; 4] = [Work::Get, Work::Post, Work::ForgedToken, Work::Frame];

    /// What it is called where figures are kept.
    pub fn name(self) -> &'static str {
        match self {
            Work::Get => "proxied_get",
            Work::Post => "proxied_post",
            Work::ForgedToken => "forged_token",
            Work::Frame => "web_socket_frame",
        }
    }

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Work::Get => "proxied GET, token seen before, answer of 1 KiB",
            Work::Post => "proxied POST of 4 KiB, answer of 1 KiB",
            Work::ForgedToken => "refusal of a forged token",
            Work::Frame => "WebSocket frame of 200 bytes, there and back",
        }
    }

    /// Connects for it.
    pub async fn open(self, edge: &str, token: &str) -> Outcome<Load> {
        let stream = TcpStream::connect(edge).await?;
        stream.set_nodelay(true)?;
        if self == Work::Frame {
            return Ok(Load::Frames(open_socket(edge, stream, token).await?));
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with its sender.
        tokio::spawn(connection);
        let (request, expected) = match self {
            Work::Post => {
                let post = ask(edge, token).method("POST").uri(POST_PATH);
                let post = post.header(CONTENT_TYPE, "application/json");
                let body = Bytes::from(format!("\"{}\"", "x".repeat(4096 - 2)));
                (post.body(Full::new(body))?, StatusCode::OK)
            }
            Work::ForgedToken => {
                (ask(edge, &forged(token)?).uri(GET_PATH).body(Full::default())?, StatusCode::UNAUTHORIZED)
            }
            Work::Get | Work::Frame => {
                (ask(edge, token).uri(GET_PATH).body(Full::default())?, StatusCode::OK)
            }
        };
        Ok(Load::Requests { sender, request, expected })
    }
}

/// A request with the headers that a client has, and one that it must not have.
fn ask(edge: &str, token: &str) -> hyper::http::request::Builder {
    Request::builder()
        .header(HOST, edge)
        .header(USER_AGENT, "persona-app/1.0")
        .header(ACCEPT, "application/json")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header("x-user-role", "admin")
}

/// The token with another first character in its signature: everything is as it should be but the signature, so that
/// the whole token is looked at.
fn forged(token: &str) -> Outcome<String> {
    let (signed, signature) = token.rsplit_once('.').ok_or("a token without a signature")?;
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    Ok(format!("{signed}.{other}{}", signature.get(1..).ok_or("a token with an empty signature")?))
}

async fn open_socket(edge: &str, stream: TcpStream, token: &str) -> Outcome<WebSocketStream<TcpStream>> {
    Ok(tokio_tungstenite::client_async(socket_request(edge, token)?, stream).await?.0)
}

/// A message of 200 bytes.
fn frame() -> String {
    let (head, tail) = (r#"{"type":"note","id":"1","data":{"text":""#, r#""}}"#);
    format!("{head}{}{tail}", "x".repeat(200 - head.len() - tail.len()))
}

/// A connection to the edge, and what is asked on it.
pub enum Load {
    Requests { sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>, expected: StatusCode },
    Frames(WebSocketStream<TcpStream>),
}

impl Load {
    /// Asks so often, each time when the last answer has come.
    ///
    /// # Errors
    /// When an answer is another than it should be: then something else would be counted.
    pub async fn repeat(&mut self, times: u32) -> Outcome {
        match self {
            Load::Requests { sender, request, expected } => {
                for _ in 0..times {
                    sender.ready().await?;
                    let answer = sender.send_request(request.clone()).await?;
                    let status = answer.status();
                    let body = answer.into_body().collect().await?.to_bytes();
                    if status != *expected {
                        let body = String::from_utf8_lossy(&body);
                        return Err(
                            format!("{} should be {expected}, not {status}: {body}", request.uri()).into()
                        );
                    }
                }
            }
            Load::Frames(socket) => {
                let text = frame();
                for _ in 0..times {
                    socket.send(Message::text(&text)).await?;
                    // What else comes, such as the greeting, is passed over.
                    let is_back = |message: &Message| message.to_text().is_ok_and(|back| back == text);
                    while !is_back(&socket.next().await.ok_or("the socket closed")??) {}
                }
            }
        }
        Ok(())
    }
}
