//! A private server in a folder of its own, on a free port of 127.0.0.1. The machine's own server is never touched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::account::{self, Account};
use super::launch;
use crate::Outcome;
use crate::process::Process;
use crate::workspace::{private_folder, remove, try_lock, write_private};

/// Longest wait for a server that starts (it may have to recover) or ends.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the server is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    /// It goes with us, and its data stay.
    Keep,
    /// It runs on when we end.
    LeaveRunning,
    /// It goes with us, and so do its data.
    ThrowAway,
    /// The same, and what it has acknowledged survives its death.
    BeKilled,
}

/// How long a server runs that this process did not find running.
enum Tenure {
    /// Our child.
    Child(Box<Process>),
    /// Left behind by a run that was killed; ours to stop.
    TakenOver,
    /// Started by another run that is still there, or detached: not ours to stop.
    Guest,
}

/// A running server and its administrator.
pub struct Server {
    pub admin: Account,
    tenure: Tenure,
    purpose: Purpose,
    folder: PathBuf,
    /// Held as long as this process is responsible for the server.
    _lock: Option<File>,
}

impl Server {
    /// Finds the server of this folder running, or starts it.
    pub async fn open(folder: &Path, purpose: Purpose) -> Outcome<Self> {
        private_folder(folder)?;
        let lock = try_lock(&folder.join("lock"))?;
        let running = running(folder).await?;
        let (admin, tenure) = match (running, &lock) {
            (Some(admin), Some(_)) if !detached(folder) => (admin, Tenure::TakenOver),
            (Some(admin), _) => (admin, Tenure::Guest),
            (None, Some(_)) => {
                remove(&folder.join("detached"))?;
                let (admin, process) = launch::start(folder, purpose).await?;
                (admin, Tenure::Child(Box::new(process)))
            }
            (None, None) => {
                return Err(format!(
                    "another run is just starting or stopping the database in {}",
                    folder.display()
                )
                .into());
            }
        };
        Ok(Server { admin, tenure, purpose, folder: folder.to_owned(), _lock: lock })
    }

    /// Whether somebody else decides when it stops.
    pub fn is_guest(&self) -> bool {
        matches!(self.tenure, Tenure::Guest)
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Outcome<bool> {
        match &mut self.tenure {
            Tenure::Child(process) => Ok(process.ended()?.is_some()),
            Tenure::TakenOver | Tenure::Guest => Ok(false),
        }
    }

    /// Leaves it running when we end.
    pub fn detach(self) -> Outcome {
        if self.is_guest() {
            return Ok(());
        }
        write_private(&self.folder.join("detached"), "until `cargo xtask database --stop`\n")?;
        if let Tenure::Child(process) = self.tenure {
            process.leave();
        }
        Ok(())
    }

    /// Stops it, unless somebody else does.
    pub async fn stop(&mut self) -> Outcome {
        match &mut self.tenure {
            Tenure::Child(process) => process.stop().await?,
            Tenure::TakenOver => shut_down(&self.folder, &self.admin).await?,
            Tenure::Guest => return Ok(()),
        }
        match self.purpose {
            Purpose::Keep | Purpose::LeaveRunning => Ok(()),
            Purpose::ThrowAway | Purpose::BeKilled => delete(&self.folder),
        }
    }
}

/// Stops the server of this folder, whoever started it; whether there was one.
pub async fn stop_running(folder: &Path) -> Outcome<bool> {
    let running = running(folder).await?;
    remove(&folder.join("detached"))?;
    if let Some(admin) = &running {
        shut_down(folder, admin).await?;
    }
    Ok(running.is_some())
}

/// Deletes the data. The server must not be running.
pub async fn forget(folder: &Path) -> Outcome {
    let server = running(folder).await?;
    if server.is_some() && (detached(folder) || try_lock(&folder.join("lock"))?.is_none()) {
        return Err(
            "the database is in use by another run; end that first (or `cargo xtask database --stop`)".into(),
        );
    }
    stop_running(folder).await?;
    delete(folder)
}

fn delete(folder: &Path) -> Outcome {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", folder.display()).into())
        }
        _ => Ok(()),
    }
}

fn detached(folder: &Path) -> bool {
    folder.join("detached").exists()
}

/// The administrator of the server that runs in this folder. Only our own server knows the password in the folder,
/// so that no process id, which the system may have given to another, needs to be trusted.
async fn running(folder: &Path) -> Outcome<Option<Account>> {
    let kept = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (Ok(port), password) = (kept("port").parse(), kept("password")) else {
        return Ok(None);
    };
    let admin = administrator(port, password)?;
    Ok(admin.connect_to_server().await.is_ok().then_some(admin))
}

/// The administrator of a private server.
pub fn administrator(port: u16, password: String) -> Outcome<Account> {
    Ok(Account {
        host: "127.0.0.1".to_owned(),
        port,
        user: "root".to_owned(),
        password,
        schema: account::schema()?,
    })
}

/// Stops a server that is not our child.
async fn shut_down(folder: &Path, admin: &Account) -> Outcome {
    let id = std::fs::read_to_string(folder.join("server.pid")).unwrap_or_default();
    let pid = id.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let mut connection = admin.connect_to_server().await?;
    sqlx::raw_sql(AssertSqlSafe("SHUTDOWN".to_owned())).execute(&mut connection).await?;
    let asked = Instant::now();
    while pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok()) {
        if asked.elapsed() > DEADLINE {
            return Err(format!("the database server (process {}) does not end", id.trim()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
