//! Valgrind's callgrind around the edge: it counts while it is told to, and writes each count into a file.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::folder;
use crate::Outcome;
use crate::packages::{Wanted, install, which};
use crate::process::bound_to_us;

const VALGRIND: Wanted = Wanted {
    what: "valgrind",
    purpose: "It counts the instructions of the edge.",
    packages: &[
        ("apt-get", "valgrind"),
        ("dnf", "valgrind"),
        ("apk", "valgrind"),
        ("pacman", "valgrind"),
        ("zypper", "valgrind"),
    ],
};

/// Installs valgrind where there is none.
pub async fn ensure() -> Outcome {
    match which("valgrind").and(which("vgdb")) {
        Some(_) => Ok(()),
        None => install(&VALGRIND).await,
    }
}

/// A command that runs `program` under callgrind, which counts nothing yet.
pub fn command(program: &Path) -> Command {
    let mut command = bound_to_us(Path::new("valgrind"));
    command.args(["--tool=callgrind", "--instr-atstart=no"]);
    command.arg(format!("--callgrind-out-file={}", counts().display()));
    command.arg(format!("--vgdb-prefix={}", pipes().display())).arg(program);
    command
}

fn counts() -> PathBuf {
    folder().join("counts")
}

fn pipes() -> PathBuf {
    folder().join("vgdb")
}

/// A process under callgrind.
pub struct Callgrind {
    pid: u32,
    /// How many counts were written. Each file has its number as its ending.
    written: Cell<u32>,
}

impl Callgrind {
    pub fn new(pid: u32) -> Self {
        Callgrind { pid, written: Cell::new(0) }
    }

    /// Counts from now on.
    pub async fn begin(&self) -> Outcome {
        self.tell(&["instrumentation", "on"]).await
    }

    /// Counts no longer, and writes down what was counted.
    pub async fn end(&self) -> Outcome<Dump> {
        self.tell(&["instrumentation", "off"]).await?;
        self.tell(&["dump"]).await?;
        let number = self.written.get() + 1;
        self.written.set(number);
        Ok(Dump(counts().with_added_extension(number.to_string())))
    }

    async fn tell(&self, words: &[&str]) -> Outcome {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--vgdb-prefix={}", pipes().display())).arg(format!("--pid={}", self.pid));
        let output = vgdb.args(words).kill_on_drop(true).output().await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("callgrind: {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// What was counted once.
pub struct Dump(pub PathBuf);

impl Dump {
    /// All instructions, in all threads.
    pub fn total(&self) -> Outcome<u64> {
        let text = std::fs::read_to_string(&self.0).map_err(|e| format!("{}: {e}", self.0.display()))?;
        total(&text).ok_or_else(|| format!("{}: there is no total", self.0.display()).into())
    }
}

fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_count_is_found() {
        assert_eq!(total("events: Ir\nfn=(1)\n0 17\ntotals: 4321\n"), Some(4321));
        assert_eq!(total("events: Ir\nfn=(1)\n0 17\n"), None);
    }
}
