//! 1 GiB through the gateway: whether a body is held in memory on its way.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::echo::{Inside, LARGE, PIECE};
use super::peers::{GET_PATH, POST_PATH};
use super::report::{DOWNLOAD, UPLOAD};
use super::stage::{Server, Stage};
use crate::Outcome;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Each way once, and the most memory that the edge had meanwhile.
pub async fn run(stage: &mut Stage) -> Outcome {
    let upstream = Inside::large_bodies().await?;
    let core_manager = [("CORE_MANAGER_URL", format!("http://{}", upstream.address))];
    let edge = stage.edge("edge-streams", &[stage.cores.tested], &core_manager).await?;
    let token = stage.mint.token()?.token;
    let idle = settled(&edge).await?;
    for (name, path) in [(DOWNLOAD, GET_PATH), (UPLOAD, POST_PATH)] {
        let before = edge.cpu_seconds()?;
        let most = most_during(&edge, transfer(&edge, path, &token)).await?;
        stage.report.add(name, (most - idle) / 1024.0);
        let way = if path == GET_PATH { "to a client" } else { "from a client" };
        stage.report.add(format!("streaming 1 GiB {way}: CPU seconds"), edge.cpu_seconds()? - before);
    }
    edge.stop().await
}

/// The memory, in KiB, of an edge that has served a request and come to rest.
async fn settled(edge: &Server) -> Outcome<f64> {
    let mut connection = super::http_load::Connection::open(&edge.authority()).await?;
    connection.send(hyper::Method::GET, "/health", None, None).await?;
    drop(connection);
    tokio::time::sleep(Duration::from_millis(500)).await;
    edge.resident_kib()
}

/// Does the work, and gives the most memory, in KiB, that the edge had meanwhile.
async fn most_during(edge: &Server, work: impl Future<Output = Outcome>) -> Outcome<f64> {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(LOOK);
    let mut most = 0.0_f64;
    loop {
        tokio::select! {
            outcome = &mut work => return outcome.map(|()| most),
            _ = ticks.tick() => most = most.max(edge.resident_kib()?),
        }
    }
}

/// Moves 1 GiB to us, or from us.
async fn transfer(edge: &Server, path: &str, token: &str) -> Outcome {
    let upload = path == POST_PATH;
    let (method, length) = if upload { ("POST", LARGE) } else { ("GET", 0) };
    let mut stream = TcpStream::connect(edge.address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut piece = vec![0; PIECE];
    for _ in 0..length / PIECE as u64 {
        stream.write_all(&piece).await?;
    }
    let (mut received, mut beginning) = (0_u64, Vec::new());
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        if beginning.len() < PIECE {
            beginning.extend_from_slice(&piece[..count]);
        }
        received += count as u64;
    }
    let said = String::from_utf8_lossy(&beginning);
    let whole = if upload { said.ends_with(&LARGE.to_string()) } else { received > LARGE };
    if said.starts_with("HTTP/1.1 200 ") && whole {
        return Ok(());
    }
    Err(format!("{method} of 1 GiB: {received} bytes came back: {:.300}", said).into())
}
