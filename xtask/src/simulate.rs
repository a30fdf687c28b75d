//! `cargo xtask simulate`: our processes on a network that delays, loses and cuts, for as many seeds as one likes. They are
//! the tests of the crate `simulation`, optimised. A program has one run at a time, so that a seed gives the same history
//! whenever it is run: the seeds are spread over one program for each core.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::future::try_join_all;

use crate::Outcome;
use crate::cargo::{cargo, check};
use crate::process::{Process, unless_interrupted};
use crate::workspace::target;

#[derive(clap::Args)]
pub struct Options {
    /// Only these; all by default: watch, outbox, quota
    scenarios: Vec<String>,
    /// How many seeds of each
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// By name, and the test that runs it.
const SCENARIOS: [(&str, &str); 3] = [
    ("watch", "watch::whatever_breaks_every_edge_enforces_what_it_has_heard_and_catches_up"),
    ("outbox", "outbox::every_tier_change_takes_effect_once_and_in_order_whatever_dies"),
    ("quota", "quota::whatever_dies_no_place_is_given_twice_or_kept_for_ever_and_what_is_made_counts"),
];

/// `cargo xtask simulate`
pub async fn run(options: Options) -> Outcome {
    let names = &options.scenarios;
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|(known, _)| known == name)) {
        return Err(format!("there is no scenario {unknown}, but watch, outbox and quota").into());
    }
    let shares = shares(options.from..options.from.saturating_add(options.seeds));
    let program = unless_interrupted(build()).await?;
    for (name, test) in SCENARIOS {
        if names.is_empty() || names.iter().any(|chosen| chosen == name) {
            let all = shares.iter().map(|seeds| simulate(name, test, &program, seeds));
            unless_interrupted(try_join_all(all)).await?;
        }
    }
    Ok(())
}

/// About as many seeds for each core.
fn shares(seeds: Range<u64>) -> Vec<Range<u64>> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let each = (seeds.end - seeds.start).div_ceil(cores).max(1);
    let starts = (0..cores).map(|core| seeds.start + core * each).take_while(|start| *start < seeds.end);
    starts.map(|start| start..seeds.end.min(start + each)).collect()
}

/// The tests as a program. A little optimisation pays in a minute, and much of it never.
async fn build() -> Outcome<PathBuf> {
    let mut command = cargo(&["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", "simulation", "--test", "simulation", "--target-dir"]).arg(target("simulate"));
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_INCREMENTAL", "0").env("SQLX_OFFLINE", "true");
    let built = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    check(&command, built.status)?;
    let told = String::from_utf8(built.stdout)?;
    let mut programs = told.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next_back().ok_or_else(|| "the crate simulation has no tests".into())
}

async fn simulate(name: &str, test: &str, program: &Path, seeds: &Range<u64>) -> Outcome {
    let mut command = tokio::process::Command::new(program);
    command.args(["--exact", "--nocapture", test]).env("RUST_BACKTRACE", "0");
    command.env("SIMULATION_SEEDS", format!("{}-{}", seeds.start, seeds.end));
    let status = Process::start(name, &mut command)?.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("{name} broke a promise; see above").into()) }
}
