//! Finds programs, or has the system's package manager install what brings them.

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

/// A program, wherever it is installed.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| Path::is_file(file))
}

/// What is to be installed.
pub struct Wanted {
    /// As the user is told.
    pub what: &'static str,
    /// What becomes of it, in a sentence.
    pub purpose: &'static str,
    /// The packages under the names that each manager has for them.
    pub packages: &'static [(&'static str, &'static str)],
}

struct Manager {
    program: &'static str,
    /// What has to be done first, if anything.
    first: Option<&'static str>,
    install: &'static str,
    needs_root: bool,
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        first: Some("apt-get update"),
        install: "apt-get install --yes --no-install-recommends",
        needs_root: true,
    },
    Manager { program: "dnf", first: None, install: "dnf install --assumeyes", needs_root: true },
    Manager { program: "apk", first: None, install: "apk add", needs_root: true },
    Manager { program: "pacman", first: None, install: "pacman -Sy --noconfirm --needed", needs_root: true },
    Manager { program: "zypper", first: None, install: "zypper --non-interactive install", needs_root: true },
    Manager { program: "brew", first: None, install: "brew install", needs_root: false },
];

/// Installs with the package manager of this machine, saying so first.
///
/// # Errors
/// When there is no manager that has it, root is needed and not to be had, or it fails; with what to do by hand.
pub async fn install(wanted: &Wanted) -> Outcome {
    let packages = |manager: &Manager| {
        wanted.packages.iter().find(|(program, _)| *program == manager.program).map(|(_, names)| *names)
    };
    let found = MANAGERS.iter().filter(|manager| which(manager.program).is_some());
    let found = found.filter_map(|manager| Some((manager, packages(manager)?))).next();
    let (manager, packages) = found.ok_or_else(|| {
        format!("there is no {} on this machine, and no package manager that is known here", wanted.what)
    })?;
    let install = format!("{} {packages}", manager.install);
    let commands: Vec<&str> = manager.first.into_iter().chain([install.as_str()]).collect();
    let by_hand = commands.join(" && ");
    println!("There is no {} on this machine: installing with {}.", wanted.what, manager.program);
    println!("{}", wanted.purpose);
    let sudo = manager.needs_root && !rustix::process::getuid().is_root();
    if sudo && !succeeds("sudo", &["-n", "true"]).await {
        return Err(
            format!("installing needs root. Run this, then try again:\n  sudo sh -c '{by_hand}'").into()
        );
    }
    for command in commands {
        println!("$ {}{command}", if sudo { "sudo " } else { "" });
        let mut words =
            sudo.then_some("sudo -n").into_iter().chain([command]).flat_map(str::split_whitespace);
        let mut run = Command::new(words.next().unwrap_or_default());
        run.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).kill_on_drop(true);
        if !run.status().await?.success() {
            return Err(
                format!("`{command}` failed. Install it by hand, then try again:\n  {by_hand}").into()
            );
        }
    }
    Ok(())
}

async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
