//! `cargo xtask console`: the journeys of the console, in a real browser on the real platform.

use std::path::Path;

use tokio::process::Command;

use crate::process::unless_interrupted;
use crate::up::{facts, with_platform};
use crate::workspace::root;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub struct Options {
    /// Run only the journeys whose names match this
    filter: Option<String>,
    /// Take the pictures of docs/console.md anew
    #[arg(long)]
    pictures: bool,
}

/// Runs on the running platform, or on one that is started for this and stopped afterwards.
pub async fn run(options: Options) -> Outcome {
    let chromium = unless_interrupted(node::ensure()).await?;
    let folder = root().join("tests/console");
    unless_interrupted(node::run("npm", Command::new("npm").arg("ci").current_dir(&folder))).await?;
    if facts()?.is_some() {
        return unless_interrupted(journeys(&options, &chromium)).await;
    }
    println!("No `cargo xtask up` is running: starting the platform for the console.");
    with_platform(async || journeys(&options, &chromium).await).await
}

async fn journeys(options: &Options, chromium: &Path) -> Outcome {
    let facts = facts()?.ok_or("target/up.env is missing")?;
    let mut command = Command::new("node");
    command.current_dir(root().join("tests/console")).envs(facts).env("CHROMIUM", chromium);
    // One after the other: they share the administrator, and browsers want the processor for themselves.
    command.args(["--test", "--test-concurrency=1", "--test-reporter=spec"]);
    if options.pictures {
        command.env("CONSOLE_PICTURES", root().join("docs/images"));
    }
    if let Some(filter) = &options.filter {
        command.arg(format!("--test-name-pattern={filter}"));
    }
    node::run("node", &mut command).await
}
