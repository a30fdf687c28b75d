//! The server of the tests in which edges count requests together.

use crate::Outcome;
use crate::packages::{Wanted, install, which};

/// On Debian the server comes with the tools, under another name; `redis-server` would start one of the system.
const PROGRAMS: [&str; 3] = ["valkey-server", "redis-server", "redis-check-rdb"];

const SERVER: Wanted = Wanted {
    what: "Valkey or Redis server",
    purpose: "It is started only by tests, never by the system.",
    packages: &[
        ("apt-get", "redis-tools"),
        ("dnf", "valkey"),
        ("apk", "valkey"),
        ("pacman", "valkey"),
        ("zypper", "valkey"),
        ("brew", "valkey"),
    ],
};

/// Installs one where there is none.
pub async fn ensure() -> Outcome {
    if PROGRAMS.iter().any(|program| which(program).is_some()) {
        return Ok(());
    }
    install(&SERVER).await.map_err(|fault| format!("{fault}\nvalkey-server or redis-server would do.").into())
}
