//! `cargo xtask instructions`: how many instructions the edge spends on a request, which no busy machine changes, against
//! what is accepted. `docs/performance.md` says how to move the gate.

mod accepted;
mod callgrind;
mod load;
mod profile;
mod upstream;

use std::path::PathBuf;

use tokio::process::Command;

use accepted::Accepted;
use callgrind::Callgrind;
use load::Work;
use upstream::Upstream;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::database::{Account, Database, drop_schema, make_scratch, provision};
use crate::http;
use crate::process::{bound_to_us, unless_interrupted};
use crate::terminal::step;
use crate::up::{Plan, Running, Unit, equip, plan};
use crate::workspace::{private_folder, programs, random_hex, target};

#[derive(clap::Args)]
pub struct Options {
    /// Write down what is measured as what is accepted from now on
    #[arg(long)]
    accept: bool,
    /// Show as well which functions of ours the instructions go to
    #[arg(long)]
    profile: bool,
}

/// How often each kind of work is done before it is counted: until caches are filled and tables have grown.
const WARM: u32 = 300;
/// How often it is done for one count.
const TIMES: u32 = 300;
/// Counts of which the least is taken: what the edge does by the clock falls into some more than into others.
const COUNTS: usize = 5;

/// Where the files of callgrind lie.
fn folder() -> PathBuf {
    target("instructions")
}

/// `cargo xtask instructions`
pub async fn run(options: Options) -> Outcome {
    let mut services = cargo(&["build", "--package", "identity-svc", "--package", "subscription-svc"]);
    unless_interrupted(step("Build the services", run_cargo(&mut services))).await?;
    let mut database =
        unless_interrupted(step("Start a throw-away database", Database::open_throw_away())).await?;
    let outcome = unless_interrupted(gate(&database.admin, options)).await;
    database.stop().await.and(outcome)
}

/// The gate at the end of `cargo xtask test`, which has built the services and has a database.
pub async fn hold(admin: &Account) -> Outcome {
    gate(admin, Options { accept: false, profile: false }).await
}

async fn gate(admin: &Account, options: Options) -> Outcome {
    callgrind::ensure().await?;
    step("Build the edge, optimised", build_edge(options.profile)).await?;
    private_folder(&folder())?;
    let scratch = make_scratch(admin, "persona_instructions").await?;
    let counted = step("Count the instructions of the edge", count(&scratch, options.profile)).await;
    drop_schema(&scratch).await?;
    let counted = counted?;
    if options.accept {
        return Accepted::from(counted).write();
    }
    Accepted::read()?.compare(&counted)
}

/// For a profile the names of the functions stay in the program, which changes none of its instructions.
async fn build_edge(with_names: bool) -> Outcome {
    let kind = if with_names { "rustc" } else { "build" };
    let mut build = cargo(&[kind, "--release", "--package", "edge", "--bin", "edge"]);
    if with_names {
        build.args(["--", "-C", "strip=none"]);
    }
    run_cargo(&mut build).await
}

/// Instructions for each kind of work, in the order of [`Work::ALL`].
type Counted = Vec<(Work, u64)>;

/// Starts the services and an edge between a client and an upstream of our own, and counts.
async fn count(scratch: &Account, with_profile: bool) -> Outcome<Counted> {
    let plan = plan(1, &provision(scratch).await?)?;
    let upstream = Upstream::start().await?;
    let mut running = Vec::new();
    let counted = count_on(&plan, &upstream, &mut running, with_profile).await;
    while let Some(mut process) = running.pop() {
        process.stop().await?;
    }
    counted
}

async fn count_on(
    plan: &Plan,
    upstream: &Upstream,
    running: &mut Vec<Running>,
    with_profile: bool,
) -> Outcome<Counted> {
    let (identity, subscription, edge) =
        (only(&plan.identity)?, only(&plan.subscription)?, only(&plan.edge)?);
    for unit in [identity, subscription] {
        let mut command = equip(bound_to_us(&programs("debug").join(unit.program)), unit);
        bring_up(running, unit, command.env("IDENTITY_URL", url(identity))).await?;
    }
    let mut command = equip(callgrind::command(&programs("release").join(edge.program)), edge);
    command.envs([
        ("IDENTITY_URL", url(identity)),
        ("SUBSCRIPTION_URL", url(subscription)),
        ("CORE_MANAGER_URL", format!("http://{}", upstream.address)),
    ]);
    // As in production, but for limits: the client asks more often than a user may.
    command.envs([
        ("LOG_FORMAT", "json"),
        ("LOG_LEVEL", "info"),
        ("TOKIO_WORKER_THREADS", "1"),
        ("RATE_LIMITS", "off"),
        ("WS_MESSAGES_PER_SECOND", "10000"),
        ("GATEWAY_ROUTES", load::ROUTES),
    ]);
    bring_up(running, edge, &mut command).await?;
    let pid = running.last().and_then(Running::id).ok_or("the edge has ended")?;
    let callgrind = Callgrind::new(pid);
    let token = register(edge).await?;
    let mut counted = Vec::new();
    for work in Work::ALL {
        counted.push((work, count_work(work, edge, &token, &callgrind, with_profile).await?));
    }
    Ok(counted)
}

async fn bring_up(running: &mut Vec<Running>, unit: &Unit, command: &mut Command) -> Outcome {
    let mut process = Running::start(&unit.name, command, None)?;
    let ready = process.wait_until_ready(&unit.ready).await;
    running.push(process);
    ready
}

async fn count_work(
    work: Work,
    edge: &Unit,
    token: &str,
    callgrind: &Callgrind,
    with_profile: bool,
) -> Outcome<u64> {
    let mut load = work.open(&edge.public.to_string(), token).await?;
    load.repeat(WARM).await?;
    let mut counts = Vec::new();
    for _ in 0..COUNTS {
        callgrind.begin().await?;
        load.repeat(TIMES).await?;
        let dump = callgrind.end().await?;
        counts.push((dump.total()? / u64::from(TIMES), dump));
    }
    let least = counts.into_iter().min_by_key(|(instructions, _)| *instructions);
    let (instructions, dump) = least.ok_or("nothing was counted")?;
    if with_profile {
        println!("\n{}: {instructions} instructions", work.title());
        profile::print(&dump).await?;
    }
    Ok(instructions)
}

/// A new account, and its access token.
async fn register(edge: &Unit) -> Outcome<String> {
    let account = serde_json::json!({
        "email": "instructions@example.com", "password": random_hex()?, "client_id": "web"
    });
    let url = format!("{}/api/v1/auth/register", url(edge));
    let answer = http::send(hyper::Method::POST, &url, None, Some(&account)).await?;
    let token = answer.json()["access_token"].as_str().map(str::to_owned);
    token.ok_or_else(|| format!("registering: {}: {}", answer.status, answer.body).into())
}

fn only(units: &[Unit]) -> Outcome<&Unit> {
    units.first().ok_or_else(|| "nothing is planned".into())
}

fn url(unit: &Unit) -> String {
    format!("http://{}", unit.public)
}
