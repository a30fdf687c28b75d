//! Builds everything from nothing. It takes long and needs the machine alone, so only when it is named.

use std::time::Instant;

use super::report::{COLD_DEBUG, COLD_RELEASE, Report};
use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::workspace::target;

/// With the sources of the libraries already downloaded, in a folder that is removed afterwards.
pub async fn run(report: &mut Report) -> Outcome {
    let folder = target("cold-build");
    for (name, arguments) in
        [(COLD_DEBUG, &["build", "--workspace"][..]), (COLD_RELEASE, &["build", "--workspace", "--release"])]
    {
        remove(&folder)?;
        let started = Instant::now();
        let built = run_cargo(cargo(arguments).env("CARGO_TARGET_DIR", &folder)).await;
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        remove(&folder)?;
        built?;
        report.add(name, minutes);
    }
    Ok(())
}

fn remove(folder: &std::path::Path) -> Outcome {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", folder.display()).into())
        }
        _ => Ok(()),
    }
}
