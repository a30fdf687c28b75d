//! Cargo, called from inside itself.

use std::process::ExitStatus;

use tokio::process::Command;

use crate::Outcome;
use crate::process::Process;
use crate::workspace::root;

/// `cargo` with these arguments. What `cargo run` has told us about our own package must not get through: the build
/// script of ring looks at it, and everything that depends on ring would be built again.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if about_us.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end and fails when it does.
pub async fn run(command: &mut Command) -> Outcome {
    let mut process = Process::start("cargo", command)?;
    check(command, process.wait().await?)
}

/// Fails with the words of the command when it failed.
pub fn check(command: &Command, status: ExitStatus) -> Outcome {
    if status.success() {
        return Ok(());
    }
    let arguments: Vec<_> = command.as_std().get_args().map(|word| word.to_string_lossy()).collect();
    Err(format!("`cargo {}` failed ({status})", arguments.join(" ")).into())
}
