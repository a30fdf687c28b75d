//! The table of all settings in the docs, written from what the processes say about themselves.

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::process::unless_interrupted;
use crate::workspace::{programs, root};

#[derive(clap::Args)]
pub struct Options {
    /// Only say whether the docs are right
    #[arg(long)]
    check: bool,
}

const PROCESSES: [&str; 3] = ["edge", "identity-svc", "subscription-svc"];

const HEAD: &str = "# Settings

Every setting is an environment variable. A secret or password may also come from a file: `NAME_FILE` names it.
A wrong or missing value stops the start with one message that names every fault at once.

This page is generated: `cargo xtask settings` writes it, and `cargo xtask test` checks it against the code.
";

/// `cargo xtask settings`
pub async fn run(options: Options) -> Outcome {
    let mut build = cargo(&["build"]);
    for process in PROCESSES {
        build.args(["--package", process]);
    }
    unless_interrupted(run_cargo(&mut build)).await?;
    write(options.check).await
}

/// Writes the page from programs that are built, or compares.
pub async fn write(check: bool) -> Outcome {
    let mut page = HEAD.to_owned();
    for process in PROCESSES {
        let rows = rows(process).await?;
        page +=
            &format!("\n## {process}\n\n| name | default | meaning |\n|---|---|---|\n{}\n", rows.trim_end());
    }
    let path = root().join("docs/settings.md");
    if !check {
        return std::fs::write(&path, page).map_err(|e| format!("{}: {e}", path.display()).into());
    }
    if std::fs::read_to_string(&path).unwrap_or_default() == page {
        return Ok(());
    }
    Err("docs/settings.md is out of date: run `cargo xtask settings` and commit the result".into())
}

async fn rows(process: &str) -> Outcome<String> {
    let program = programs("debug").join(process);
    let output = Command::new(&program).arg("settings").kill_on_drop(true).output().await;
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("`{process} settings` failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}
