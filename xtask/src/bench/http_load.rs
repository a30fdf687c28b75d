//! HTTP clients of our own, for what wrk cannot do: answers that lead to the next request, and a fixed pace.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::Outcome;

/// A connection that stays open.
pub struct Connection {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub async fn open(authority: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Connection { authority: authority.to_owned(), sender, driver })
    }

    /// Sends a request with a JSON body, or none, and reads the whole answer. A connection that the server has closed
    /// while nothing was to be sent is made again.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Outcome<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if self.sender.is_closed() {
            *self = Connection::open(&self.authority.clone()).await?;
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// Posts JSON and takes the JSON of an answer that is a success.
    pub async fn post(&mut self, path: &str, body: &Value) -> Outcome<Value> {
        let (status, bytes) = self.send(Method::POST, path, None, Some(body)).await?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&bytes)?);
        }
        Err(format!("POST {path}: {status}: {}", String::from_utf8_lossy(&bytes)).into())
    }
}

/// GETs at a fixed pace over a few connections.
pub struct Pace {
    pub path: &'static str,
    pub token: String,
    pub connections: u32,
    pub per_second: u32,
}

impl Pace {
    /// Keeps the pace for so long, and gives each request's time in milliseconds, counted from when it was due: a
    /// request that had to wait for the one before it has waited all the same.
    pub async fn run(&self, authority: &str, length: Duration) -> Outcome<Vec<f64>> {
        let until = Instant::now() + length;
        let gap = Duration::from_secs(1) * self.connections / self.per_second;
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            let (authority, path, token) = (authority.to_owned(), self.path, self.token.clone());
            let offset = gap * number / self.connections;
            clients.spawn(async move {
                let mut connection = Connection::open(&authority).await?;
                let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + offset, gap);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut times = Vec::new();
                while Instant::now() < until {
                    let due = ticks.tick().await;
                    let (status, _) = connection.send(Method::GET, path, Some(&token), None).await?;
                    if status != StatusCode::OK {
                        return Err(format!("GET {path}: {status}").into());
                    }
                    times.push(due.elapsed().as_secs_f64() * 1e3);
                }
                Outcome::Ok(times)
            });
        }
        let mut all = Vec::new();
        while let Some(times) = clients.join_next().await {
            all.extend(times??);
        }
        Ok(all)
    }
}

/// Lets each client repeat something until the time is over. Gives how often it was done, and in how many seconds.
pub async fn repeat<C>(
    clients: &mut [C],
    length: Duration,
    work: impl AsyncFn(&mut C) -> Outcome,
) -> Outcome<(f64, f64)> {
    let (started, work) = (Instant::now(), &work);
    let running = clients.iter_mut().map(|client| async move {
        let mut done = 0.0;
        while started.elapsed() < length {
            work(client).await?;
            done += 1.0;
        }
        Outcome::Ok(done)
    });
    let done: f64 = try_join_all(running).await?.iter().sum();
    Ok((done, started.elapsed().as_secs_f64()))
}
