//! `cargo xtask console`: the journeys of the console, in a real browser on the real platform.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Outcome;
use crate::process::{Process, unless_interrupted};
use crate::up::{facts, with_platform};
use crate::workspace::root;

#[derive(clap::Args)]
pub struct Options {
    /// Run only the journeys whose names match this
    filter: Option<String>,
    /// Take the pictures of docs/console.md anew
    #[arg(long)]
    pictures: bool,
}

/// What else than Rust this needs, and what provides it.
const NEEDED: [(&str, &str); 3] = [
    ("node", "Node.js 20 or later (Debian: apt-get install nodejs)"),
    ("npm", "npm (Debian: apt-get install npm)"),
    (CHROMIUM, "Chromium (Debian: apt-get install chromium); CHROMIUM names another place of it"),
];
const CHROMIUM: &str = "chromium";

/// Runs on the running platform, or on one that is started for this and stopped afterwards.
pub async fn run(options: Options) -> Outcome {
    let chromium = look_around()?;
    let folder = root().join("tests/console");
    unless_interrupted(run_program("npm", Command::new("npm").arg("ci").current_dir(&folder))).await?;
    if facts()?.is_some() {
        return unless_interrupted(journeys(&options, &chromium)).await;
    }
    println!("No `cargo xtask up` is running: starting the platform for the console.");
    with_platform(async || journeys(&options, &chromium).await).await
}

/// Where Chromium is, once all that is needed is there.
///
/// # Errors
/// With what is missing and what provides it.
fn look_around() -> Outcome<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let is_needed = |name: &str| name != CHROMIUM || named.is_none();
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|(name, _)| is_needed(name) && found(name).is_none())
        .map(|(_, provider)| provider)
        .collect();
    match named.or_else(|| found(CHROMIUM)) {
        Some(chromium) if missing.is_empty() => Ok(chromium),
        _ => Err(format!("the console is tested with what is not here: {}", missing.join("; ")).into()),
    }
}

fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

async fn journeys(options: &Options, chromium: &Path) -> Outcome {
    let facts = facts()?.ok_or("target/up.env is missing")?;
    let mut node = Command::new("node");
    node.current_dir(root().join("tests/console")).envs(facts).env("CHROMIUM", chromium);
    // One after the other: they share the administrator, and browsers want the processor for themselves.
    node.args(["--test", "--test-concurrency=1", "--test-reporter=spec"]);
    if options.pictures {
        node.env("CONSOLE_PICTURES", root().join("docs/images"));
    }
    if let Some(filter) = &options.filter {
        node.arg(format!("--test-name-pattern={filter}"));
    }
    run_program("node", &mut node).await
}

async fn run_program(name: &str, command: &mut Command) -> Outcome {
    let status = Process::start(name, command)?.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})").into()) }
}
