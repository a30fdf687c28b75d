//! What tests in JavaScript need beside Rust: Node with npm, and a browser.

use std::path::PathBuf;

use tokio::process::Command;

use crate::Outcome;
use crate::packages::{Wanted, install, which};
use crate::process::Process;

/// The oldest Node that is still kept up.
const OLDEST: u32 = 20;

const MISSING: &str =
    "these tests need Node 20 or later and npm: see https://nodejs.org/en/download, then try again";

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

/// Makes sure of Node and a browser, and says where the browser is: where the variable CHROMIUM says, or where it is found
/// or installed.
///
/// # Errors
/// When there is no Node that is new enough, or no browser can be had.
pub async fn ensure() -> Outcome<PathBuf> {
    which("npm").ok_or(MISSING)?;
    let told = Command::new("node").arg("--version").kill_on_drop(true).output().await;
    let version = told.map_err(|_| MISSING)?.stdout;
    let version = String::from_utf8_lossy(&version);
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    match major {
        Some(OLDEST..) => browser().await,
        _ => Err(format!("{MISSING} (this is Node {})", version.trim()).into()),
    }
}

async fn browser() -> Outcome<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let found = || BROWSERS.iter().find_map(|program| which(program));
    if let Some(browser) = named.or_else(found) {
        return Ok(browser);
    }
    install(&CHROMIUM).await?;
    found().ok_or_else(|| "Chromium was installed and is not found all the same".into())
}

/// Runs `npm` or `node` to its end.
///
/// # Errors
/// When it cannot be started, or fails.
pub async fn run(name: &str, command: &mut Command) -> Outcome {
    let status = Process::start(name, command)?.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("{name} failed ({status})").into()) }
}
