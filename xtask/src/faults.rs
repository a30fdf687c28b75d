//! `cargo xtask faults`: the optimised platform on a database of its own under a steady load, one fault after the
//! other. The faults and what must hold are in `tests/faults`; here is what starts them, and what starts the database
//! again when they have killed it.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::database::{Database, disk_to_be_filled, pid_file_to_be_killed};
use crate::process::{Process, unless_interrupted};
use crate::terminal::step;
use crate::workspace::{private_folder, programs, root};

#[derive(clap::Args)]
pub struct Options {
    /// Only these, by their names in the table; all of them when none is named
    faults: Vec<String>,
    /// With programs that are not optimised, which are sooner built
    #[arg(long)]
    debug: bool,
}

impl Options {
    /// Whether there are all faults that were named. The suite itself, which is no part of this program, knows them best.
    pub fn are_known(&self) -> bool {
        let code = std::fs::read_to_string(root().join("tests/faults/fault.rs")).unwrap_or_default();
        let list = code.split_once("pub const FAULTS").and_then(|(_, rest)| rest.split_once("];"));
        let list = list.map(|(list, _)| list).unwrap_or_default();
        let known: Vec<&str> =
            list.split("Fault::").skip(1).filter_map(|rest| rest.split(',').next()).collect();
        self.faults
            .iter()
            .all(|name| known.iter().any(|fault| fault.eq_ignore_ascii_case(&name.replace('-', ""))))
    }
}

/// How often the database is looked after.
const LOOK: Duration = Duration::from_millis(50);

/// In the environment of the run that may mount what it likes, since nobody else sees it.
const OWN_MOUNTS: &str = "FAULTS_OWN_MOUNTS";
/// The disk that is filled: small, and enough for the server and all that is written in a run.
const DISK: &str = "size=640m,mode=700";

/// `cargo xtask faults`
pub async fn run(options: Options) -> Outcome {
    let Some(has_disk) = std::env::var_os(OWN_MOUNTS).map(|own| own == "1") else {
        return begin_again();
    };
    if has_disk {
        give_a_disk()?;
    }
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

/// Goes on as a process whose mounts nobody else sees, and which end with it.
fn begin_again() -> Outcome {
    let own = if rustix::process::getuid().is_root() { "--mount" } else { "--mount --map-root-user" };
    let unshare = || {
        let mut command = std::process::Command::new("unshare");
        command.args(own.split(' '));
        command
    };
    let program = std::env::current_exe()?;
    let may_mount = unshare().arg("true").status().is_ok_and(|status| status.success());
    let mut command = if may_mount { unshare() } else { std::process::Command::new(&program) };
    if may_mount {
        command.arg(&program);
    }
    let failed =
        command.args(std::env::args_os().skip(1)).env(OWN_MOUNTS, if may_mount { "1" } else { "0" }).exec();
    Err(format!("{}: {failed}", program.display()).into())
}

/// Lets the server have a small disk for itself, in memory.
fn give_a_disk() -> Outcome {
    let disk = disk_to_be_filled();
    private_folder(&disk)?;
    let mut mount = std::process::Command::new("mount");
    let mounted = mount.args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&disk).status()?;
    if mounted.success() { Ok(()) } else { Err(format!("{} could not be mounted", disk.display()).into()) }
}

async fn suite(database: &mut Database, profile: &str, names: &[String]) -> Outcome {
    let folder = programs(profile);
    let mut command = Command::new(folder.join("faults"));
    command.args(names).env("PERSONA_BIN_DIR", &folder).env("RUST_BACKTRACE", "0");
    // The schema that every server has.
    let admin = database.admin.with_schema("mysql");
    command.env("FAULTS_ADMIN_URL", admin.url()).env("FAULTS_PID_FILE", pid_file_to_be_killed());
    if std::env::var_os(OWN_MOUNTS).is_some_and(|own| own == "1") {
        command.env("FAULTS_DISK", disk_to_be_filled());
    }
    let mut suite = Process::start("the faults", &mut command)?;
    loop {
        if let Some(status) = suite.ended()? {
            return if status.success() { Ok(()) } else { Err("not every promise held".into()) };
        }
        database.revive().await?;
        tokio::time::sleep(LOOK).await;
    }
}
