//! Programs of this machine, and the package manager that provides what is missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Outcome;

/// Where servers are installed apart from PATH.
const FOLDERS: [&str; 8] = [
    "/usr/sbin",
    "/usr/libexec",
    "/usr/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/local/mysql/bin",
    "/opt/homebrew/opt/mariadb/bin",
    "/opt/homebrew/bin",
];

/// A package manager and the commands with which it installs something.
pub struct Manager {
    pub program: &'static str,
    pub commands: &'static [&'static str],
    pub needs_root: bool,
}

/// Installs something that this machine lacks with the first of these package managers that it has, and says so.
/// `otherwise` is what to do by hand.
pub async fn install(what: &str, managers: &[Manager], otherwise: &str) -> Outcome {
    let manager = managers.iter().find(|manager| which(manager.program).is_some());
    let manager = manager.ok_or_else(|| {
        format!("there is no {what} on this machine, and no package manager that is known here.\n{otherwise}")
    })?;
    println!("There is no {what} on this machine: installing one with {}.", manager.program);
    println!("It is started only by cargo xtask and by tests, never by the system.");
    manager.install().await
}

impl Manager {
    async fn install(&self) -> Outcome {
        let by_hand = self.commands.join(" && ");
        let sudo = self.needs_root && !rustix::process::getuid().is_root();
        if sudo && !succeeds("sudo", &["-n", "true"]).await {
            return Err(format!(
                "installing needs root. Run this, then try again:\n  sudo sh -c '{by_hand}'"
            )
            .into());
        }
        for command in self.commands {
            println!("$ {}{command}", if sudo { "sudo " } else { "" });
            let mut words =
                sudo.then_some("sudo -n").into_iter().chain([*command]).flat_map(str::split_whitespace);
            let mut run = Command::new(words.next().unwrap_or_default());
            run.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).kill_on_drop(true);
            if !run.status().await?.success() {
                return Err(format!(
                    "`{command}` failed. Install the server by hand, then try again:\n  {by_hand}"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// Where a program is, on PATH or where servers are.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| Path::is_file(file))
}

async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
