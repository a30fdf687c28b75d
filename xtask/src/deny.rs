//! Licences, banned crates, sources and known vulnerabilities of everything that is built in.

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::run as run_cargo;
use crate::process::unless_interrupted;
use crate::tools::Tool;
use crate::workspace::root;

const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// Where the advisories come from, as deny.toml says.
const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

/// `cargo xtask deny`
pub async fn run() -> Outcome {
    unless_interrupted(check()).await
}

async fn check() -> Outcome {
    let deny = CARGO_DENY.ensure().await?;
    let command = |checks: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(["--locked", "check"]).args(checks).current_dir(root());
        command
    };
    run_cargo(&mut command(&["bans", "licenses", "sources"])).await?;
    if !is_reachable(ADVISORIES).await {
        println!("Known vulnerabilities were NOT looked up: {ADVISORIES} cannot be reached from here.");
        return Ok(());
    }
    run_cargo(&mut command(&["advisories"])).await
}

/// Whether git finds a repository there, without asking anybody for a password.
async fn is_reachable(repository: &str) -> bool {
    let mut git = Command::new("git");
    git.args(["ls-remote", "--quiet", repository, "HEAD"]).env("GIT_TERMINAL_PROMPT", "0").kill_on_drop(true);
    let answered = tokio::time::timeout(std::time::Duration::from_secs(15), git.output()).await;
    answered.is_ok_and(|output| output.is_ok_and(|output| output.status.success()))
}
