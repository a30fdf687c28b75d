//! Finds the programs of MariaDB or MySQL, or has the system's package manager install MariaDB's.

use std::path::PathBuf;

use tokio::process::Command;

use crate::Outcome;
use crate::packages::{Wanted, install, which};

/// A database server that can be run.
#[derive(Debug)]
pub enum Programs {
    /// The server, and the script that makes the data directory.
    MariaDb { server: PathBuf, init: PathBuf },
    /// Oracle's server makes its data directory itself.
    MySql { server: PathBuf },
}

/// The smallest sets of packages with which a private server can be run. On Debian that is not `mariadb-server`, which
/// would start a server of the system.
const SERVER: Wanted = Wanted {
    what: "MariaDB or MySQL server",
    purpose: "It is started only by cargo xtask, with its data under target/.",
    packages: &[
        ("apt-get", "mariadb-server-core mariadb-client-core"),
        ("dnf", "mariadb-server"),
        ("apk", "mariadb mariadb-client"),
        ("pacman", "mariadb"),
        ("zypper", "mariadb"),
        ("brew", "mariadb"),
    ],
};

/// The programs of this machine, installed first where there are none.
pub async fn programs() -> Outcome<Programs> {
    if let Some(found) = find().await {
        return Ok(found);
    }
    install(&SERVER).await.map_err(|fault| {
        format!(
            "{fault}\nmariadbd (10.11 or later) or mysqld (8.4 or later) would do, or AUTH_DB_HOST for a server \
             elsewhere."
        )
    })?;
    let missing =
        "the packages are installed, but mariadbd, mariadb-install-db and my_print_defaults are not there";
    find().await.ok_or_else(|| missing.into())
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
