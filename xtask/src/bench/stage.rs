//! What every measurement stands on: a throw-away database, the services of the platform, and the upstream.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::cpu::{Cores, Referee, cpu_seconds, pinned, resident_kib};
use super::peers::{self, BENCH_ROUTES};
use super::report::Report;
use super::tokens::Mint;
use crate::Outcome;
use crate::database::{Account, provision};
use crate::http;
use crate::process::Process;
use crate::up::{Plan, Unit, equip, plan};
use crate::workspace::{programs, target};

/// How long a process may take until it can be used; a million live claims take their time.
const READY: Duration = Duration::from_secs(120);
/// Lines that are shown of a process that failed.
const TAIL: usize = 15;

/// Where configurations, logs and tokens of a run lie.
pub fn folder() -> PathBuf {
    target("bench")
}

/// An address for a process to come, below the ports that the system gives to connections.
pub fn free_address() -> Outcome<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= 32_000 {
            return Err("no port between 21000 and 32000 is free".into());
        }
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
}

/// A process that is being measured, or that measuring needs.
pub struct Server {
    pub address: SocketAddr,
    /// The same as `address` for what has no internal listener.
    pub internal: SocketAddr,
    pub pid: u32,
    process: Process,
}

impl Server {
    /// Starts a command, its output in a file, and waits until it takes connections at `address`.
    pub async fn start(name: &str, command: &mut Command, address: SocketAddr) -> Outcome<Self> {
        let mut server = Server::launch(name, command, address)?;
        server.wait(async || TcpStream::connect(address).await.is_ok()).await?;
        Ok(server)
    }

    fn launch(name: &str, command: &mut Command, address: SocketAddr) -> Outcome<Self> {
        let log = std::fs::File::create(folder().join(format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        let process = Process::start(name, command)?;
        let pid = process.id().ok_or_else(|| format!("{name} ended at once"))?;
        Ok(Server { address, internal: address, pid, process })
    }

    async fn wait(&mut self, ready: impl AsyncFn() -> bool) -> Outcome {
        let started = Instant::now();
        while !ready().await {
            let ended = self.process.ended()?;
            if ended.is_some() || started.elapsed() > READY {
                let name = self.process.name();
                let log = std::fs::read_to_string(folder().join(format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
                return Err(format!("{name} did not become ready. Its last lines:\n  {last}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu_seconds(self.pid)
    }

    pub fn resident_kib(&self) -> Outcome<f64> {
        resident_kib(self.pid)
    }

    /// Ends it and waits for that.
    pub async fn stop(mut self) -> Outcome {
        self.process.stop().await
    }
}

/// A unit with settings of its own besides those of the plan.
pub type More<'a> = &'a [(&'static str, String)];

/// Everything that the scenarios share.
pub struct Stage {
    pub cores: Cores,
    pub quick: bool,
    pub admin: Account,
    pub mint: Mint,
    pub referee: Referee,
    pub report: Report,
    pub plan: Plan,
    pub upstream: Server,
    /// On the core of the load; scenarios that measure a service move it.
    pub identity: Server,
    pub subscription: Server,
}

impl Stage {
    pub async fn set_up(cores: Cores, quick: bool, admin: &Account) -> Outcome<Self> {
        let services = provision(admin).await?;
        let plan = plan(1, &services)?;
        let upstream = peers::upstream().await?;
        let (identity, subscription) = (first(&plan.identity)?, first(&plan.subscription)?);
        let identity = start_unit("identity-svc", identity, &[cores.load], &[]).await?;
        let urls = [("IDENTITY_URL", format!("http://{}", identity.address))];
        let subscription = start_unit("subscription-svc", subscription, &[cores.load], &urls).await?;
        Ok(Stage {
            cores,
            quick,
            admin: admin.clone(),
            mint: Mint::new(&plan.jwt_secret),
            referee: Referee::new(cores, quick),
            report: Report::default(),
            plan,
            upstream,
            identity,
            subscription,
        })
    }

    /// An edge before the upstream, with everything on that an operator has on: access log, metrics, live claims.
    pub async fn edge(&self, name: &str, cores: &[usize], more: More<'_>) -> Outcome<Server> {
        let mut settings = self.addresses();
        settings.extend([
            ("CORE_MANAGER_URL", format!("http://{}", self.upstream.address)),
            ("GATEWAY_ROUTES", BENCH_ROUTES.to_owned()),
            ("WS_MESSAGES_PER_SECOND", "10000".to_owned()),
        ]);
        settings.extend(more.iter().cloned());
        start_unit(name, first(&self.plan.edge)?, cores, &settings).await
    }

    /// Where the services are.
    pub fn addresses(&self) -> Vec<(&'static str, String)> {
        vec![
            ("IDENTITY_URL", format!("http://{}", self.identity.address)),
            ("SUBSCRIPTION_URL", format!("http://{}", self.subscription.address)),
        ]
    }

    /// `long` in a run that is to be believed, `short` in one that only looks whether everything works.
    pub fn choose<T>(&self, long: T, short: T) -> T {
        if self.quick { short } else { long }
    }
}

pub fn first(units: &[Unit]) -> Outcome<&Unit> {
    units.first().ok_or_else(|| "nothing is planned".into())
}

/// Starts a process of the platform on these cores, at free addresses, and waits until it is ready.
pub async fn start_unit(name: &str, unit: &Unit, cores: &[usize], more: More<'_>) -> Outcome<Server> {
    start_unit_at((free_address()?, free_address()?), name, unit, cores, more).await
}

/// The same at these addresses, public and internal: what comes back where it was is found there.
pub async fn start_unit_at(
    (public, internal): (SocketAddr, SocketAddr),
    name: &str,
    unit: &Unit,
    cores: &[usize],
    more: More<'_>,
) -> Outcome<Server> {
    let listeners = match unit.program {
        "edge" => ["EDGE_LISTEN", "EDGE_INTERNAL_LISTEN"],
        "identity-svc" => ["IDENTITY_LISTEN", "IDENTITY_INTERNAL_LISTEN"],
        _ => ["SUBSCRIPTION_LISTEN", "SUBSCRIPTION_INTERNAL_LISTEN"],
    };
    let mut command = unit_command(unit, cores);
    command.env("LOG_FORMAT", "json").env("LOG_LEVEL", "info");
    command.env(listeners[0], public.to_string()).env(listeners[1], internal.to_string());
    command.envs(more.iter().map(|(name, value)| (name, value)));
    let mut server = Server { internal, ..Server::launch(name, &mut command, public)? };
    let url = format!("http://{internal}/readyz");
    server.wait(async || is_ready(&url).await).await?;
    Ok(server)
}

/// A program of the platform with its settings, on these cores.
pub fn unit_command(unit: &Unit, cores: &[usize]) -> Command {
    equip(pinned(&programs("release").join(unit.program), cores), unit)
}

async fn is_ready(url: &str) -> bool {
    let answer = http::send(Method::GET, url, None, None).await;
    answer.is_ok_and(|answer| answer.status == StatusCode::OK)
}
