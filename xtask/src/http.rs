//! One HTTP request on one connection: all that readiness checks and the demo need.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::Outcome;

/// The gateway's own limit is 30 seconds.
const TIMEOUT: Duration = Duration::from_secs(35);

pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Sends a request to an `http://` URL and reads the whole answer.
pub async fn send(method: Method, url: &str, token: Option<&str>, body: Option<&Value>) -> Outcome<Answer> {
    let exchange = tokio::time::timeout(TIMEOUT, exchange(&method, url, token, body)).await;
    let outcome = exchange.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}").into()));
    outcome.map_err(|e| format!("{method} {url}: {e}").into())
}

/// What opens a socket of the edge (RFC 6455 section 4.1).
pub fn socket_request(authority: &str, token: &str) -> Outcome<Request<()>> {
    let request = Request::get(format!("ws://{authority}/ws"))
        .header(HOST, authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .header(AUTHORIZATION, format!("Bearer {token}"));
    Ok(request.body(())?)
}

async fn exchange(method: &Method, url: &str, token: Option<&str>, body: Option<&Value>) -> Outcome<Answer> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the URL names no host")?;
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);

    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path).header(HOST, authority.as_str());
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}
