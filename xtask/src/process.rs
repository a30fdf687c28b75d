//! Child processes: started so that a Ctrl-C in the terminal reaches only us, and stopped by us in order.

use std::future::Future;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::Outcome;

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A child process in a process group of its own. Dropped before its time, it is asked to end.
pub struct Process {
    name: String,
    child: Child,
    readers: JoinSet<()>,
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
        Ok(Process { name: name.to_owned(), child, readers: JoinSet::new(), left_alone: false })
    }

    /// Starts `command` and hands over every line that it prints.
    pub fn start_reading(
        name: &str,
        command: &mut Command,
        take: impl Fn(&str) + Send + Sync + 'static,
    ) -> Outcome<Self> {
        let mut process = Self::start(name, command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let take = Arc::new(take);
        if let Some(output) = process.child.stdout.take() {
            process.readers.spawn(read_lines(output, Arc::clone(&take)));
        }
        if let Some(errors) = process.child.stderr.take() {
            process.readers.spawn(read_lines(errors, take));
        }
        Ok(process)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended and all that it printed was handed over.
    pub async fn wait(&mut self) -> Outcome<ExitStatus> {
        let status = self.child.wait().await?;
        self.finish_reading().await;
        Ok(status)
    }

    /// Asks it to end, waits, and kills it when it does not.
    pub async fn stop(&mut self) -> Outcome {
        self.signal(Signal::TERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            eprintln!("{} did not end within {GRACE:?} and is killed", self.name);
            self.signal(Signal::KILL);
            self.child.wait().await?;
        }
        self.finish_reading().await;
        Ok(())
    }

    /// Lets it run on when we end.
    pub fn leave(mut self) {
        self.left_alone = true;
    }

    /// What it printed last may still be in the pipe. Not for ever: a grandchild can hold the pipe open.
    async fn finish_reading(&mut self) {
        let rest = async { while self.readers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
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

/// A command whose process dies with us when we are killed and can stop nothing any more, where the system has a way
/// to arrange that.
pub fn bound_to_us(program: &Path) -> Command {
    static POSSIBLE: LazyLock<bool> = LazyLock::new(|| {
        let mut trial = std::process::Command::new("setpriv");
        trial.args(["--pdeathsig", "KILL", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    });
    if !*POSSIBLE {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

async fn read_lines(output: impl AsyncRead + Unpin, take: Arc<impl Fn(&str)>) {
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        take(String::from_utf8_lossy(&line).trim_end_matches('\r'));
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

/// Does `work` until it is done or somebody wants us to end, which drops it.
pub async fn unless_interrupted<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::select! {
        outcome = work => outcome,
        interrupted = interrupted() => Err(interrupted.err().unwrap_or_else(|| "interrupted".into())),
    }
}
