//! The table of all settings in the docs, written from what the processes say about themselves.

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::generated::{keep, said};
use crate::process::unless_interrupted;

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
        let rows = said(process, "settings").await?;
        page +=
            &format!("\n## {process}\n\n| name | default | meaning |\n|---|---|---|\n{}\n", rows.trim_end());
    }
    keep("docs/settings.md", &page, check, "settings")
}
