//! `cargo xtask client`: the tests of the TypeScript client, in Node and in a browser, against a platform of their own.

use tokio::process::Command;

use crate::process::unless_interrupted;
use crate::terminal::step;
use crate::up::with_platform;
use crate::workspace::{programs, root, target};
use crate::{Outcome, node};

/// `cargo xtask client`
pub async fn run() -> Outcome {
    let browser = unless_interrupted(node::ensure()).await?;
    let mut ci = npm(&["ci", "--no-audit", "--no-fund"]);
    unless_interrupted(step("What the client is built with", node::run("npm", &mut ci))).await?;
    with_platform(async || {
        let mut tests = npm(&["test"]);
        tests.env("CHROMIUM", &browser);
        tests.env("PERSONA_BIN_DIR", programs("debug")).env("PERSONA_UP_ENV", target("up.env"));
        step("Tests of the client", node::run("npm", &mut tests)).await
    })
    .await
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(arguments).current_dir(root().join("clients/typescript"));
    command
}
