//! The document of all routes in the docs, written from what the edge says about itself.

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

/// `cargo xtask openapi`
pub async fn run(options: Options) -> Outcome {
    unless_interrupted(run_cargo(&mut cargo(&["build", "--package", "edge"]))).await?;
    write(options.check).await
}

/// Writes the document from a program that is built, or compares.
pub async fn write(check: bool) -> Outcome {
    let program = programs("debug").join("edge");
    let output = Command::new(&program).arg("openapi").kill_on_drop(true).output().await;
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    if !output.status.success() {
        return Err(format!("`edge openapi` failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let path = root().join("docs/openapi.json");
    if !check {
        return std::fs::write(&path, output.stdout).map_err(|e| format!("{}: {e}", path.display()).into());
    }
    if std::fs::read(&path).unwrap_or_default() == output.stdout {
        return Ok(());
    }
    Err("docs/openapi.json is out of date: run `cargo xtask openapi` and commit the result".into())
}
