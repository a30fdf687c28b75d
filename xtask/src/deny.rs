//! Licences, banned crates and sources of everything that is built in.

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::process::unless_interrupted;

/// `cargo xtask deny`. The advisories are left out: they need a database from the internet, which makes them a report
/// rather than a gate (`cargo deny check advisories`).
pub async fn run() -> Outcome {
    let known = Command::new("cargo-deny").arg("--version").output().await.is_ok();
    if !known {
        println!("cargo-deny is not installed: building it, which takes some minutes.");
        unless_interrupted(run_cargo(&mut cargo(&["install", "--locked", "cargo-deny"]))).await?;
    }
    unless_interrupted(run_cargo(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))).await
}
