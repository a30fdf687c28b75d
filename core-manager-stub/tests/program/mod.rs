//! The program under test, and a client as plain as possible: what a lenient library would hide is what is tested.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// The six headers of the contract.
pub const IDENTITY: [(&str, &str); 6] = [
    ("X-User-ID", "user-1"),
    ("X-Client-ID", "client-1"),
    ("X-User-Role", "user"),
    ("X-User-Tier", "free"),
    ("X-User-Email", "user@example.com"),
    ("X-User-Permissions", "personas.create"),
];

/// A request with the six headers, until told otherwise.
pub fn request(method: &str, path: &str) -> Request {
    Request {
        line: format!("{method} {path} HTTP/1.1"),
        headers: IDENTITY.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        body: String::new(),
    }
}

pub struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.with("Content-Type", "application/json").body(&body.to_string())
    }

    fn wire(&self) -> String {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (line, body) = (&self.line, &self.body);
        let length = body.len();
        format!(
            "{line}\r\nHost: stub\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    }
}

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    fn parse(wire: &str) -> Self {
        let (head, body) = wire.split_once("\r\n\r\n").expect("an answer");
        Answer {
            status: head[9..12].parse().expect("a status"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

pub fn json(message: &Message) -> Value {
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

pub struct Stub {
    process: Child,
    address: String,
}

impl Stub {
    pub async fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_core-manager-stub"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        output.read_line(&mut line).await.expect("its address");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Stub { process, address }
    }

    pub async fn ask(&self, request: Request) -> Answer {
        self.try_ask(request).await.expect("an answer")
    }

    pub async fn try_ask(&self, request: Request) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(request.wire().as_bytes()).await?;
        let mut wire = String::new();
        stream.read_to_string(&mut wire).await?;
        Ok(Answer::parse(&wire))
    }

    pub async fn socket(&self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().expect("a request");
        for (name, value) in IDENTITY {
            let name: HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        connect_async(request).await.expect("a socket").0
    }

    pub async fn state(&self) -> Value {
        self.ask(request("GET", "/stub/state")).await.json()
    }

    /// Waits for what must come true.
    pub async fn until(&self, is_true: impl AsyncFn() -> bool) {
        let true_at_last = async {
            while !is_true().await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), true_at_last).await.expect("it comes true in time");
    }

    pub fn terminate(&self) {
        let pid = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
        let pid = pid.expect("a running program");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        let end = timeout(Duration::from_secs(10), self.process.wait()).await;
        end.expect("an end in time").expect("a status").code()
    }
}
