//! Tools that are not part of this workspace, each at one version.

use std::path::PathBuf;

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::packages::which;
use crate::workspace::{root, target};

/// A cargo subcommand.
pub struct Tool {
    pub name: &'static str,
    /// This one and no other: what it says must not change from one day to the next.
    pub version: &'static str,
}

impl Tool {
    /// The program, which is built under `target/` unless this version of it is installed already.
    pub async fn ensure(&self) -> Outcome<PathBuf> {
        let Tool { name, version } = *self;
        let folder = target("tools").join(format!("{name}-{version}"));
        let own = folder.join("bin").join(name);
        if own.is_file() {
            return Ok(own);
        }
        if self.is_installed().await {
            return Ok(name.into());
        }
        println!("{name} {version} is not installed: building it, which takes some minutes.");
        let mut install = cargo(&["install", "--locked", "--version", version, name, "--root"]);
        run_cargo(install.arg(&folder)).await?;
        Ok(own)
    }

    async fn is_installed(&self) -> bool {
        // A subcommand is told its own name first.
        let subcommand = self.name.trim_start_matches("cargo-");
        let told = Command::new(self.name).args([subcommand, "--version"]).kill_on_drop(true).output().await;
        let words =
            told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        words.split_whitespace().any(|word| word == self.version)
    }
}

/// A program of Python, whose package has the same name, in an environment of its own under `target/`.
///
/// # Errors
/// When there is no Python with its module venv, or the package cannot be fetched.
pub async fn python_tool(name: &str, version: &str) -> Outcome<PathBuf> {
    let folder = target("tools").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let python = which("python3").ok_or("python3, with its module venv, is not installed")?;
    println!("{name} {version} is not installed: fetching it into {}.", folder.display());
    run_cargo(Command::new(python).args(["-m", "venv"]).arg(&folder).current_dir(root())).await?;
    let pip = folder.join("bin/pip");
    let wanted = format!("{name}=={version}");
    run_cargo(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", &wanted])).await?;
    Ok(program)
}
