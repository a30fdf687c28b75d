//! Finds the programs of MariaDB or MySQL, or has the system's package manager install MariaDB's.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Outcome;

/// A database server that can be run.
#[derive(Debug)]
pub enum Programs {
    /// The server, and the script that makes the data directory.
    MariaDb { server: PathBuf, init: PathBuf },
    /// Oracle's server makes its data directory itself.
    MySql { server: PathBuf },
}

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

/// A package manager and the smallest set of packages with which a private server can be run. On Debian that is not
/// `mariadb-server`, which would start a server of the system.
struct Manager {
    program: &'static str,
    commands: &'static [&'static str],
    needs_root: bool,
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        commands: &[
            "apt-get update",
            "apt-get install --yes --no-install-recommends mariadb-server-core mariadb-client-core",
        ],
        needs_root: true,
    },
    Manager { program: "dnf", commands: &["dnf install --assumeyes mariadb-server"], needs_root: true },
    Manager { program: "apk", commands: &["apk add mariadb mariadb-client"], needs_root: true },
    Manager { program: "pacman", commands: &["pacman -Sy --noconfirm --needed mariadb"], needs_root: true },
    Manager { program: "zypper", commands: &["zypper --non-interactive install mariadb"], needs_root: true },
    Manager { program: "brew", commands: &["brew install mariadb"], needs_root: false },
];

/// The programs of this machine, installed first where there are none.
pub async fn programs() -> Outcome<Programs> {
    if let Some(found) = find().await {
        return Ok(found);
    }
    let manager = MANAGERS.iter().find(|manager| which(manager.program).is_some());
    let manager = manager.ok_or(
        "there is no MariaDB or MySQL server on this machine, and no package manager that is known here.\n\
         Install mariadbd (10.11 or later) or mysqld (8.4 or later), or set AUTH_DB_HOST to use a server elsewhere.",
    )?;
    manager.install().await?;
    let missing =
        "the packages are installed, but mariadbd, mariadb-install-db and my_print_defaults are not there";
    find().await.ok_or_else(|| missing.into())
}

impl Manager {
    async fn install(&self) -> Outcome {
        let by_hand = self.commands.join(" && ");
        println!(
            "There is no MariaDB or MySQL server on this machine: installing MariaDB with {}.",
            self.program
        );
        println!("It is started only by cargo xtask, with its data under target/.");
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

/// MariaDB before MySQL: it starts faster, and distributions do not confine it to its own folders.
async fn find() -> Option<Programs> {
    for name in ["mariadbd", "mysqld"] {
        let Some(server) = which(name) else { continue };
        let version = Command::new(&server).args(["--no-defaults", "--version"]).output().await.ok()?;
        if !String::from_utf8_lossy(&version.stdout).contains("MariaDB") {
            return Some(Programs::MySql { server });
        }
        let init = which("mariadb-install-db").or_else(|| which("mysql_install_db"));
        // The script calls it, and on Debian it comes in another package.
        if let Some(init) = init.filter(|_| which("my_print_defaults").is_some()) {
            return Some(Programs::MariaDb { server, init });
        }
    }
    None
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| Path::is_file(file))
}

async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
