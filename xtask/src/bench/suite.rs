//! A run: what is needed is installed and built, the stage is set, the scenarios follow one another, and the figures
//! are held against the budgets.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::cpu::Cores;
use super::report::{Report, word};
use super::stage::{Stage, folder};
use super::{Options, Scenario};
use super::{
    accounts, cold_build, database, fan_out, grpc, live_claims, peers, processes, proxied, quota, soak,
    sockets, streams,
};
use crate::Outcome;
use crate::database::{Account, Database};
use crate::packages::{Wanted, install, which};
use crate::process::unless_interrupted;
use crate::terminal::step;
use crate::up;
use crate::workspace::private_folder;

/// What the edge is compared with, and what makes the load.
const PEERS: Wanted = Wanted {
    what: "HAProxy, nginx and wrk",
    purpose: "cargo xtask bench runs them on ports of its own. Where the packages also start servers of the system, those \
              are not touched: stop them if you do not want them.",
    packages: &[
        ("apt-get", "haproxy nginx wrk"),
        ("dnf", "haproxy nginx wrk"),
        ("apk", "haproxy nginx wrk"),
        ("pacman", "haproxy nginx wrk"),
        ("zypper", "haproxy nginx wrk"),
    ],
};

/// `cargo xtask bench`, in the build that measures.
pub async fn run(options: Options) -> Outcome {
    let output = if options.json { Some(divert_output()?) } else { None };
    let chosen = options.chosen();
    unless_interrupted(prepare()).await?;
    let mut report = Report::default();
    if chosen.contains(&Scenario::ColdBuild) {
        unless_interrupted(step("cold-build", cold_build::run(&mut report))).await?;
    }
    let cores = Cores::choose()?;
    cores.take_load()?;
    let mut database =
        unless_interrupted(step("Start a throw-away database", Database::open_throw_away())).await?;
    let measured = unless_interrupted(measure(&database.admin, cores, &options, &chosen, report)).await;
    database.stop().await?;
    let (report, doubtful) = measured?;
    report.print_budgets();
    if doubtful > 0 {
        println!(
            "\nIn {doubtful} rounds the machine was busy with other things: measure again when it is quiet."
        );
    }
    if options.quick {
        println!("\nThis was --quick: it shows that everything works, and no more.");
    }
    if let Some(mut output) = output {
        writeln!(output, "{:#}", report.json(facts(cores, options.quick, doubtful).await))?;
    }
    let failed: Vec<_> =
        report.failed.iter().map(|(scenario, why)| format!("\n  {}: {why}", word(*scenario))).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("could not be measured:{}", failed.concat()).into()) }
}

/// Standard output as it was. From now on what we and our children print there goes to standard error.
fn divert_output() -> Outcome<std::fs::File> {
    let output: OwnedFd = rustix::io::dup(std::io::stdout())?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(output.into())
}

async fn prepare() -> Outcome {
    if ["haproxy", "nginx", "wrk"].iter().any(|program| which(program).is_none()) {
        install(&PEERS).await?;
    }
    step("Build the platform, optimised", up::build(true)).await?;
    match std::fs::remove_dir_all(folder()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => private_folder(&folder())?,
    }
    // Thousands of sockets, here and in the children.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: files.maximum, maximum: files.maximum })?;
    Ok(())
}

/// Measures one scenario after the other. One that fails does not keep the others from being measured.
async fn measure(
    admin: &Account,
    cores: Cores,
    options: &Options,
    chosen: &[Scenario],
    report: Report,
) -> Outcome<(Report, u32)> {
    let mut stage = step("Set the stage", Stage::set_up(cores, options.quick, admin)).await?;
    stage.report = report;
    for scenario in chosen.iter().copied().filter(|scenario| *scenario != Scenario::ColdBuild) {
        if let Err(fault) = step(&word(scenario), play(&mut stage, scenario, options)).await {
            eprintln!("{}: {fault}", word(scenario));
            stage.report.failed.push((scenario, fault.to_string()));
        }
    }
    let doubtful = stage.referee.doubtful.get();
    let Stage { report, upstream, identity, subscription, .. } = stage;
    for server in [subscription, identity, upstream] {
        server.stop().await?;
    }
    Ok((report, doubtful))
}

async fn play(stage: &mut Stage, scenario: Scenario, options: &Options) -> Outcome {
    match scenario {
        Scenario::Processes => processes::run(stage).await,
        Scenario::Get => proxied::get(stage).await,
        Scenario::FirstSight => proxied::first_sight(stage).await,
        Scenario::Post => proxied::post(stage).await,
        Scenario::BadToken => proxied::bad_token(stage).await,
        Scenario::TwoThreads => proxied::two_threads(stage).await,
        Scenario::LiveClaims => live_claims::run(stage).await,
        Scenario::Streaming => streams::run(stage).await,
        Scenario::WebSocket => sockets::relay(stage).await,
        Scenario::IdleSockets => sockets::idle(stage).await,
        Scenario::Login => accounts::login(stage).await,
        Scenario::Refresh => accounts::refresh(stage).await,
        Scenario::Quota => quota::run(stage).await,
        Scenario::Grpc => grpc::run(stage).await,
        Scenario::Database => database::run(stage).await,
        Scenario::FanOut => fan_out::run(stage).await,
        Scenario::Soak => soak::run(stage, options.minutes).await,
        // Before the stage is set.
        Scenario::ColdBuild => Ok(()),
    }
}

/// What has to be known to compare two runs.
async fn facts(cores: Cores, quick: bool, doubtful: u32) -> Value {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "quick": quick,
        "doubtful_rounds": doubtful,
        "cores": [cores.tested, cores.load],
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "haproxy": peers::version("haproxy", "-v").await,
        "nginx": peers::version("nginx", "-v").await,
        "wrk": peers::version("wrk", "-v").await,
    })
}
