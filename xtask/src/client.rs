//! `cargo xtask client`: the tests of the TypeScript client, in Node and in a browser, against a platform of their own.

use std::path::PathBuf;

use tokio::process::Command;

use crate::Outcome;
use crate::packages::{Wanted, install, which};
use crate::process::{Process, unless_interrupted};
use crate::terminal::step;
use crate::up::with_platform;
use crate::workspace::{programs, root, target};

/// The oldest Node that is still kept up.
const NODE: u32 = 20;

const NODE_IS_MISSING: &str =
    "the client's tests need Node 20 or later and npm: see https://nodejs.org/en/download, then try again";

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

const CHROMIUM: Wanted = Wanted {
    what: "Chromium",
    purpose: "It is started only by tests, without a window.",
    packages: &[
        ("apt-get", "chromium"),
        ("dnf", "chromium"),
        ("apk", "chromium"),
        ("pacman", "chromium"),
        ("zypper", "chromium"),
        ("brew", "chromium"),
    ],
};

/// `cargo xtask client`
pub async fn run() -> Outcome {
    unless_interrupted(ensure_node()).await?;
    let browser = unless_interrupted(browser()).await?;
    let ci = npm(&["ci", "--no-audit", "--no-fund"]);
    unless_interrupted(step("What the client is built with", finish(ci))).await?;
    with_platform(async || {
        let mut tests = npm(&["test"]);
        tests.env("CHROMIUM", &browser);
        tests.env("PERSONA_BIN_DIR", programs("debug")).env("PERSONA_UP_ENV", target("up.env"));
        step("Tests of the client", finish(tests)).await
    })
    .await
}

async fn ensure_node() -> Outcome {
    which("npm").ok_or(NODE_IS_MISSING)?;
    let told = Command::new("node").arg("--version").kill_on_drop(true).output().await;
    let version = told.map_err(|_| NODE_IS_MISSING)?.stdout;
    let version = String::from_utf8_lossy(&version);
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    match major {
        Some(NODE..) => Ok(()),
        _ => Err(format!("{NODE_IS_MISSING} (this is Node {})", version.trim()).into()),
    }
}

async fn browser() -> Outcome<PathBuf> {
    let found = || BROWSERS.iter().find_map(|program| which(program));
    if let Some(browser) = found() {
        return Ok(browser);
    }
    install(&CHROMIUM).await?;
    found().ok_or_else(|| "Chromium was installed and is not found all the same".into())
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(arguments).current_dir(root().join("clients/typescript"));
    command
}

async fn finish(mut command: Command) -> Outcome {
    let status = Process::start("npm", &mut command)?.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("npm failed ({status})").into()) }
}
