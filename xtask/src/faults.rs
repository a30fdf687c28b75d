//! `cargo xtask faults`: the optimised platform on a database of its own under a steady load, one fault after the
//! other. The faults and what must hold are in `tests/faults`; here is what starts them, and what starts the database
//! again when they have killed it.

use std::time::Duration;

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::database::{Database, pid_file_to_be_killed};
use crate::process::{Process, unless_interrupted};
use crate::terminal::step;
use crate::workspace::programs;

#[derive(clap::Args)]
pub struct Options {
    /// Only these, by their names in the table; all of them when none is named
    faults: Vec<String>,
    /// With programs that are not optimised, which are sooner built
    #[arg(long)]
    debug: bool,
}

/// How often the database is looked after.
const LOOK: Duration = Duration::from_millis(50);

/// `cargo xtask faults`
pub async fn run(options: Options) -> Outcome {
    let profile = if options.debug { "debug" } else { "release" };
    let mut build = cargo(&["build", "--workspace", "--bins"]);
    if !options.debug {
        build.arg("--release");
    }
    unless_interrupted(step("Build", run_cargo(&mut build))).await?;
    let mut database =
        unless_interrupted(step("Start a database to be killed", Database::open_to_be_killed())).await?;
    let outcome = unless_interrupted(suite(&mut database, profile, &options.faults)).await;
    database.stop().await.and(outcome)
}

async fn suite(database: &mut Database, profile: &str, names: &[String]) -> Outcome {
    let folder = programs(profile);
    let mut command = Command::new(folder.join("faults"));
    command.args(names).env("PERSONA_BIN_DIR", &folder).env("RUST_BACKTRACE", "0");
    // The schema that every server has.
    let admin = database.admin.with_schema("mysql");
    command.env("FAULTS_ADMIN_URL", admin.url()).env("FAULTS_PID_FILE", pid_file_to_be_killed());
    let mut suite = Process::start("the faults", &mut command)?;
    loop {
        if let Some(status) = suite.ended()? {
            return if status.success() { Ok(()) } else { Err("not every promise held".into()) };
        }
        database.revive().await?;
        tokio::time::sleep(LOOK).await;
    }
}
