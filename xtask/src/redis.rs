//! The server of the tests in which edges count requests together.

use crate::Outcome;
use crate::packages::{Manager, install, which};

/// On Debian the server comes with the tools, under another name; `redis-server` would start one of the system.
const PROGRAMS: [&str; 3] = ["valkey-server", "redis-server", "redis-check-rdb"];

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        commands: &["apt-get update", "apt-get install --yes --no-install-recommends redis-tools"],
        needs_root: true,
    },
    Manager { program: "dnf", commands: &["dnf install --assumeyes valkey"], needs_root: true },
    Manager { program: "apk", commands: &["apk add valkey"], needs_root: true },
    Manager { program: "pacman", commands: &["pacman -Sy --noconfirm --needed valkey"], needs_root: true },
    Manager { program: "zypper", commands: &["zypper --non-interactive install valkey"], needs_root: true },
    Manager { program: "brew", commands: &["brew install valkey"], needs_root: false },
];

/// Installs one where there is none.
pub async fn ensure() -> Outcome {
    if PROGRAMS.iter().any(|program| which(program).is_some()) {
        return Ok(());
    }
    let otherwise = "Install valkey-server or redis-server.";
    install("Valkey or Redis server", &MANAGERS, otherwise).await
}
