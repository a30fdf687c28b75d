//! Child processes: started so that a Ctrl-C in the terminal reaches only us, and stopped by us in order.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A child process in a process group of its own. Dropped before its time, it is asked to end.
pub struct Process {
    name: String,
    child: Child,
    left_alone: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left_alone {
            self.signal(Signal::TERM);
        }
    }
}

impl Process {
    /// Starts `command` with nothing to read.
    pub fn start(name: &str, command: &mut Command) -> Outcome<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let child = child.map_err(|e| format!("{name} could not be started: {e}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            left_alone: false,
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Lets it run on when we end.
    pub fn leave(mut self) {
        self.left_alone = true;
    }

    /// Asks it to end, waits, and kills it when it does not.
    pub async fn stop(&mut self) -> Outcome {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            eprintln!("{} did not end within {GRACE:?} and is killed", self.name);
            self.signal(Signal::KILL);
            self.child.wait().await?;
        }
        Ok(())
    }

    /// Sends a signal to the whole group, while it is there.
    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended this moment, which is what we want.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// Comes back when somebody wants us to end: Ctrl-C, SIGTERM or a closed terminal.
pub async fn interrupted() -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
