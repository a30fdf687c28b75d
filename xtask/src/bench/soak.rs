//! A soak: the edge at 70 % of what its core carries here, with thousands of open sockets, for minutes. Memory has to stay
//! where it is, nothing may fail, and the last minutes have to be like the first.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use tokio::time::MissedTickBehavior;

use super::cpu::move_to;
use super::echo::Inside;
use super::http_load::{Connection, repeat};
use super::peers::{self, GET_PATH};
use super::report::{SOAK_FAILED, SOAK_MEMORY, SOAK_P99, median, percentile};
use super::sockets::{Socket, open, text};
use super::stage::{Server, Stage};
use crate::Outcome;

/// Connections of the load, each of a user of its own.
const CONNECTIONS: usize = 64;
/// What is asked for of what goes through at most.
const SHARE: f64 = 0.70;
/// Sockets are looked after in so many rows. Each has its turn every few seconds: a ping of the edge waits for 8 s.
const ROWS: usize = 4;
const TURN: Duration = Duration::from_secs(4);
/// How many minutes at each end are compared.
const ENDS: usize = 3;

/// As many minutes as were asked for.
pub async fn run(stage: &mut Stage, minutes: u64) -> Outcome {
    let (count, minute) = stage.choose((2000, Duration::from_secs(60)), (200, Duration::from_secs(4)));
    let echo = Inside::web_sockets().await?;
    let upstream = peers::upstream_with_sockets(echo.address).await?;
    // Beside the edge, or the core of the load would be full long before that of the edge.
    move_to(upstream.pid, stage.cores.tested)?;
    let core_manager = [("CORE_MANAGER_URL", format!("http://{}", upstream.address))];
    let edge = stage.edge("edge-soak", &[stage.cores.tested], &core_manager).await?;
    let mut users = Vec::new();
    for _ in 0..CONNECTIONS {
        users.push(User { authority: edge.authority(), token: stage.mint.token()?.token, connection: None });
    }
    let most = capacity(&mut users, minute / 4).await?;
    stage.report.add("soak: requests a second that a core with the edge and its upstream carries", most);
    let mut sockets = open(stage, &edge, count).await?;
    let failed = Cell::new(0);
    let mut figures = Figures::default();
    {
        let servers = [&edge, &stage.identity, &stage.subscription];
        let load =
            Load { gap: Duration::from_secs_f64(CONNECTIONS as f64 / (most * SHARE)), failed: &failed };
        tokio::select! {
            done = load.minutes(&mut users, &edge, minutes, minute, &mut figures.p99) => done?,
            over = watch(servers, &mut figures.memory) => over?,
            () = talk(&mut sockets, &failed) => {}
        }
    }
    figures.failed = failed.get();
    drop(sockets);
    conclude(stage, &figures);
    edge.stop().await?;
    upstream.stop().await
}

#[derive(Default)]
struct Figures {
    /// Of each minute, in milliseconds.
    p99: Vec<f64>,
    /// Of the edge, identity-svc and subscription-svc each second, in MiB.
    memory: [Vec<f64>; 3],
    failed: usize,
}

/// What goes through when each user asks again at once, in a second.
async fn capacity(users: &mut [User], length: Duration) -> Outcome<f64> {
    // Once around, so that connections are made and tokens are known.
    repeat(users, Duration::from_secs(1), User::get).await?;
    let (done, seconds) = repeat(users, length, User::get).await?;
    Ok(done / seconds)
}

/// Somebody with a connection, which is made again when it breaks.
struct User {
    authority: String,
    token: String,
    connection: Option<Connection>,
}

impl User {
    async fn get(&mut self) -> Outcome {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.authority).await?,
        };
        let (status, _) = connection.send(Method::GET, GET_PATH, Some(&self.token), None).await?;
        self.connection = Some(connection);
        if status == StatusCode::OK { Ok(()) } else { Err(format!("GET: {status}").into()) }
    }
}

/// Requests at a fixed pace.
struct Load<'a> {
    /// Between two requests of one user.
    gap: Duration,
    failed: &'a Cell<usize>,
}

impl Load<'_> {
    async fn minutes(
        &self,
        users: &mut [User],
        edge: &Server,
        minutes: u64,
        minute: Duration,
        p99: &mut Vec<f64>,
    ) -> Outcome {
        for number in 1..=minutes {
            let (cpu, started) = (edge.cpu_seconds()?, Instant::now());
            let asking = users.iter_mut().zip(0..).map(|(user, place)| self.ask(user, place, minute));
            let times = join_all(asking).await.concat();
            let busy = 100.0 * (edge.cpu_seconds()? - cpu) / started.elapsed().as_secs_f64();
            println!(
                "  minute {number}: {} requests, p50 {:.2} ms, p99 {:.2} ms, {} failed; edge {busy:.0} % of its core",
                times.len(),
                median(&times),
                percentile(&times, 99.0),
                self.failed.get()
            );
            p99.push(percentile(&times, 99.0));
        }
        Ok(())
    }

    /// The times of one user's requests in milliseconds, each counted from when it was due.
    async fn ask(&self, user: &mut User, place: u32, minute: Duration) -> Vec<f64> {
        let until = Instant::now() + minute;
        let first = tokio::time::Instant::now() + self.gap * place / CONNECTIONS as u32;
        let mut ticks = tokio::time::interval_at(first, self.gap);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut times = Vec::new();
        while Instant::now() < until {
            let due = ticks.tick().await;
            match user.get().await {
                Ok(()) => times.push(due.elapsed().as_secs_f64() * 1e3),
                Err(fault) => {
                    println!("  {fault}");
                    self.failed.set(self.failed.get() + 1);
                }
            }
        }
        times
    }
}

/// Notes the memory of each process every second, for as long as it is asked to.
async fn watch(servers: [&Server; 3], memory: &mut [Vec<f64>; 3]) -> Outcome {
    loop {
        for (server, samples) in servers.iter().zip(memory.iter_mut()) {
            samples.push(server.resident_kib()? / 1024.0);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Has each socket pass a text there and back in its turn, for as long as it is asked to. One that fails stays silent
/// from then on and counts once.
async fn talk(sockets: &mut [Socket], failed: &Cell<usize>) {
    let row = sockets.len().div_ceil(ROWS);
    let gap = TURN / row as u32;
    join_all(sockets.chunks_mut(row).map(|row| async move {
        let text = text();
        let mut row: Vec<_> = row.iter_mut().map(Some).collect();
        let mut ticks = tokio::time::interval(gap);
        loop {
            for place in &mut row {
                ticks.tick().await;
                let Some(socket) = place else { continue };
                if let Err(fault) = socket.there_and_back(&text).await {
                    println!("  a socket: {fault}");
                    failed.set(failed.get() + 1);
                    *place = None;
                }
            }
        }
    }))
    .await;
}

fn conclude(stage: &mut Stage, figures: &Figures) {
    let mut worst: f64 = 0.0;
    for (name, samples) in ["edge", "identity-svc", "subscription-svc"].iter().zip(&figures.memory) {
        let thirds: Vec<_> = samples.chunks(samples.len().div_ceil(3).max(1)).map(mean).collect();
        if let [first, middle, last] = thirds[..] {
            println!("  memory of {name}, MiB, by thirds: {first:.1}, {middle:.1}, {last:.1}");
            worst = worst.max(last / middle);
        }
    }
    let ends = ENDS.min(figures.p99.len());
    let (first, last) = (&figures.p99[..ends], &figures.p99[figures.p99.len() - ends..]);
    stage.report.add(SOAK_FAILED, figures.failed as f64);
    stage.report.add(SOAK_MEMORY, worst);
    stage.report.add(SOAK_P99, median(last) / median(first));
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
