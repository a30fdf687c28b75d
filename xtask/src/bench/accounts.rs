//! Sign-ins against the bare hash rate, what they do to everybody else, and refreshing.

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use futures_util::future::try_join_all;
use hyper::Method;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cpu::move_to;
use super::http_load::{Connection, Pace, repeat};
use super::peers::GET_PATH;
use super::report::{LOGINS, STORM, median, percentile};
use super::stage::Stage;
use crate::Outcome;

const PASSWORD: &str = "correct horse battery";
/// What identity-svc hashes with by default.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// Sign-ins at once: fewer than wait at most, so that none is turned away.
const AT_ONCE: usize = 32;

/// Somebody with a connection to the edge.
pub struct Client {
    connection: Connection,
    pub user_id: String,
    email: String,
    pub token: String,
    refresh_token: String,
}

impl Client {
    /// A new account.
    async fn register(authority: &str) -> Outcome<Self> {
        let email = format!("{}@example.com", Uuid::now_v7().simple());
        let mut connection = Connection::open(authority).await?;
        let body = json!({ "email": email, "password": PASSWORD, "client_id": "web" });
        let tokens = connection.post("/api/v1/auth/register", &body).await?;
        let user_id = text(&tokens["user"]["id"])?;
        let (token, refresh_token) = (text(&tokens["access_token"])?, text(&tokens["refresh_token"])?);
        Ok(Client { connection, user_id, email, token, refresh_token })
    }

    /// Opens a further session and goes on with it.
    pub async fn log_in(&mut self) -> Outcome {
        let body = json!({ "email": self.email, "password": PASSWORD });
        let tokens = self.connection.post("/api/v1/auth/login", &body).await?;
        self.take(&tokens)
    }

    pub async fn refresh(&mut self) -> Outcome {
        let body = json!({ "refresh_token": self.refresh_token });
        let tokens = self.connection.post("/api/v1/auth/refresh", &body).await?;
        self.take(&tokens)
    }

    fn take(&mut self, tokens: &Value) -> Outcome {
        self.token = text(&tokens["access_token"])?;
        self.refresh_token = text(&tokens["refresh_token"])?;
        Ok(())
    }

    pub async fn log_out(&mut self) -> Outcome {
        self.call(Method::POST, "/api/v1/auth/logout", None).await
    }

    pub async fn profile(&mut self) -> Outcome {
        self.call(Method::GET, "/api/v1/user/profile", None).await
    }

    pub async fn make_project(&mut self) -> Outcome {
        self.call(Method::POST, "/api/v1/projects", Some(json!({ "name": "A project" }))).await
    }

    /// Asks for something in the user's name and expects a success.
    async fn call(&mut self, method: Method, path: &str, body: Option<Value>) -> Outcome {
        let (status, bytes) = self.connection.send(method, path, Some(&self.token), body.as_ref()).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&bytes)).into())
    }
}

fn text(value: &Value) -> Outcome<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "an answer lacks a text".into())
}

/// So many new accounts, made a few at a time.
pub async fn register(authority: &str, count: usize) -> Outcome<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let some = AT_ONCE.min(count - clients.len());
        clients.extend(try_join_all((0..some).map(|_| Client::register(authority))).await?);
    }
    Ok(clients)
}

/// identity-svc on a core of its own, everything else on the other: how much of its core becomes sign-ins, and how
/// long proxied requests take meanwhile.
pub async fn login(stage: &mut Stage) -> Outcome {
    let edge = stage.edge("edge-login", &[stage.cores.load], &[]).await?;
    let authority = edge.authority();
    let mut clients = register(&authority, AT_ONCE).await?;
    move_to(stage.identity.pid, stage.cores.tested)?;
    let pace = Pace { path: GET_PATH, token: stage.mint.token()?.token, connections: 8, per_second: 400 };
    let (rounds, length) = (stage.choose(5, 1), Duration::from_secs(stage.choose(6, 2)));
    let (mut shares, mut ratios, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let title = format!("login storm, round {} of {rounds}", round + 1);
        let shared = tokio::sync::Mutex::new(&mut clients);
        let storm = async || {
            let bare = hash_rate(stage.cores.tested, length / 3).await?;
            let quiet = pace.run(&authority, length).await?;
            let mut clients = shared.lock().await;
            let logins = repeat(&mut clients, length, Client::log_in);
            let ((done, seconds), loud) = tokio::try_join!(logins, pace.run(&authority, length))?;
            let bare = (bare + hash_rate(stage.cores.tested, length / 3).await?) / 2.0;
            Ok((done / seconds, bare, percentile(&quiet, 99.0), percentile(&loud, 99.0)))
        };
        let (rate, bare, quiet, loud) = stage.referee.round(&title, storm).await?;
        println!(
            "  {title}: {rate:.1} logins a second, {bare:.1} bare hashes; p99 {quiet:.2} ms, then {loud:.2} ms"
        );
        shares.push(rate / bare);
        ratios.push(loud / quiet);
        rates.push(rate);
    }
    stage.report.add("login: a second, with one core for identity-svc", median(&rates));
    stage.report.add(LOGINS, median(&shares));
    stage.report.add(STORM, median(&ratios));
    move_to(stage.identity.pid, stage.cores.load)?;
    edge.stop().await
}

/// Hashes a second on one core, with nothing around them and the memory at hand.
async fn hash_rate(core: usize, length: Duration) -> Outcome<f64> {
    let hashing = std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set)?;
        let params = Params::new(MEMORY_KIB, PASSES, 1, None)?;
        let mut memory = vec![Block::default(); params.block_count()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let (started, mut count, mut hash) = (Instant::now(), 0.0, [0; 32]);
        while started.elapsed() < length {
            argon2.hash_password_into_with_memory(
                PASSWORD.as_bytes(),
                b"sixteen bytes!!!",
                &mut hash,
                &mut memory,
            )?;
            count += 1.0;
        }
        Outcome::Ok(count / started.elapsed().as_secs_f64())
    });
    let joined = tokio::task::spawn_blocking(|| hashing.join()).await?;
    joined.unwrap_or_else(|_| Err("hashing broke off".into()))
}

/// Chains of refreshes, each with the token that the last one gave.
pub async fn refresh(stage: &mut Stage) -> Outcome {
    let edge = stage.edge("edge-refresh", &[stage.cores.load], &[]).await?;
    let mut clients = register(&edge.authority(), 16).await?;
    move_to(stage.identity.pid, stage.cores.tested)?;
    let before = stage.identity.cpu_seconds()?;
    let length = Duration::from_secs(stage.choose(8, 2));
    let (done, seconds) = repeat(&mut clients, length, Client::refresh).await?;
    let cpu = stage.identity.cpu_seconds()? - before;
    stage.report.add("refresh: a second, 16 sessions at once", done / seconds);
    stage.report.add("refresh: CPU of identity-svc each, µs", cpu / done * 1e6);
    move_to(stage.identity.pid, stage.cores.load)?;
    edge.stop().await
}
