//! Files that are committed and written from what the processes say about themselves.

use tokio::process::Command;

use crate::Outcome;
use crate::workspace::{programs, root};

/// What a process that is built prints when it is told `argument`.
pub async fn said(process: &str, argument: &str) -> Outcome<String> {
    let program = programs("debug").join(process);
    let output = Command::new(&program).arg(argument).kill_on_drop(true).output().await;
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("`{process} {argument}` failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// Writes a file of the workspace, or, with `check`, says whether it is as it would be written by `task`.
pub fn keep(file: &str, text: &str, check: bool, task: &str) -> Outcome {
    let path = root().join(file);
    if !check {
        return std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()).into());
    }
    if std::fs::read_to_string(&path).unwrap_or_default() == text {
        return Ok(());
    }
    Err(format!("{file} is out of date: run `cargo xtask {task}` and commit the result").into())
}
