//! WebSockets: what relaying a frame costs, and what an idle socket holds.

use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::echo::{Inside, small_buffers};
use super::http_load::repeat;
use super::peers;
use super::report::{FRAME, SOCKET, median};
use super::stage::{Server, Stage};
use crate::Outcome;
use crate::http::socket_request;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long idle sockets are left alone before memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// A client of one socket.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(authority: &str, token: &str) -> Outcome<Self> {
        let request = socket_request(authority, token)?;
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(small_buffers())).await?;
        Ok(Socket(socket))
    }

    /// Sends a text and waits for it to come back. What else comes, such as the greeting, is passed over.
    pub async fn there_and_back(&mut self, text: &str) -> Outcome {
        self.0.send(Message::text(text)).await?;
        let answer = async {
            while let Some(message) = self.0.next().await {
                if matches!(message?, Message::Text(answer) if answer.as_str() == text) {
                    return Ok(());
                }
            }
            Outcome::Err("the socket closed".into())
        };
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| "a text did not come back")?
    }
}

/// A message of 200 bytes.
pub fn text() -> String {
    let (head, tail) = (r#"{"type":"bench","id":"1","data":{"text":""#, r#""}}"#);
    format!("{head}{}{tail}", "x".repeat(200 - head.len() - tail.len()))
}

/// So many sockets of as many users, each of which has already passed a text there and back.
pub async fn open(stage: &Stage, server: &Server, count: usize) -> Outcome<Vec<Socket>> {
    let (authority, text) = (server.authority(), text());
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let some = (sockets.len()..count.min(sockets.len() + 50)).map(|_| async {
            let mut socket = Socket::open(&authority, &stage.mint.token()?.token).await?;
            socket.there_and_back(&text).await?;
            Outcome::Ok(socket)
        });
        sockets.extend(try_join_all(some).await?);
    }
    Ok(sockets)
}

/// The edge and HAProxy's tunnel before the same echo.
async fn field(stage: &Stage, echo: &Inside) -> Outcome<[(&'static str, Server); 2]> {
    let core_manager = [("CORE_MANAGER_URL", format!("http://{}", echo.address))];
    let edge = stage.edge("edge-sockets", &[stage.cores.tested], &core_manager).await?;
    let haproxy = peers::plain_haproxy("haproxy-tunnel", stage.cores, echo.address).await?;
    Ok([("edge", edge), ("HAProxy tunnel", haproxy)])
}

/// 100 sockets that each send a text as soon as the last one is back.
pub async fn relay(stage: &mut Stage) -> Outcome {
    let echo = Inside::web_sockets().await?;
    let field = field(stage, &echo).await?;
    let (rounds, length) = (stage.choose(7, 1), Duration::from_secs(stage.choose(4, 1)));
    let mut opened = Vec::new();
    for (_, server) in &field {
        opened.push(tokio::sync::Mutex::new(open(stage, server, 100).await?));
    }
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let title = format!("WebSocket, round {} of {rounds}", round + 1);
        let both = async || {
            let mut measured = [0.0; 2];
            for step in 0..2 {
                let place = (step + round) % 2;
                let mut sockets = opened[place].lock().await;
                measured[place] = cpu_per_frame(&field[place].1, &mut sockets, length).await?;
            }
            Ok(measured)
        };
        let measured = stage.referee.round(&title, both).await?;
        println!("  {title}: {:.2} µs a frame, HAProxy {:.2} µs", measured[0], measured[1]);
        costs.iter_mut().zip(measured).for_each(|(costs, cost)| costs.push(cost));
    }
    for (place, (name, _)) in field.iter().enumerate() {
        stage.report.add(format!("WebSocket: {name}: CPU per relayed frame, µs"), median(&costs[place]));
    }
    let ratios: Vec<_> = costs[0].iter().zip(&costs[1]).map(|(edge, tunnel)| edge / tunnel).collect();
    stage.report.add(FRAME, median(&ratios));
    drop(opened);
    for (_, server) in field {
        server.stop().await?;
    }
    Ok(())
}

/// In microseconds. Each text is relayed twice: there, and back.
async fn cpu_per_frame(server: &Server, sockets: &mut [Socket], length: Duration) -> Outcome<f64> {
    let text = text();
    let before = server.cpu_seconds()?;
    let (texts, _) = repeat(sockets, length, async |socket| socket.there_and_back(&text).await).await?;
    Ok((server.cpu_seconds()? - before) * 1e6 / (2.0 * texts))
}

/// 2,000 sockets that say nothing, after one text there and back.
pub async fn idle(stage: &mut Stage) -> Outcome {
    let count = stage.choose(2000, 200);
    let echo = Inside::web_sockets().await?;
    for (name, server) in field(stage, &echo).await? {
        // What the first sockets bring along is not counted.
        let first = open(stage, &server, 20).await?;
        tokio::time::sleep(REST).await;
        let before = server.resident_kib()?;
        let sockets = open(stage, &server, count).await?;
        tokio::time::sleep(REST).await;
        let each = (server.resident_kib()? - before) / count as f64;
        let name = if name == "edge" { SOCKET.to_owned() } else { format!("{name}: KiB per idle socket") };
        stage.report.add(name, each);
        drop((first, sockets));
        server.stop().await?;
    }
    Ok(())
}
