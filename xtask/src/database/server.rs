//! A private server in a folder of its own, on a free port of 127.0.0.1. The machine's own server is never touched.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use tokio::process::Command;

use super::account::{self, Account};
use super::install::{self, Programs};
use crate::Outcome;
use crate::process::Process;
use crate::workspace::{private_folder, random_hex, remove, setting, try_lock, write_private};

/// Longest wait for a server that starts (it may have to recover) or ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether the data must survive.
#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    Keep,
    ThrowAway,
}

/// How long a server runs that this process did not find running.
enum Tenure {
    /// Our child.
    Child(Process),
    /// Left behind by a run that was killed; ours to stop.
    TakenOver,
    /// Started by another run that is still there, or detached: not ours to stop.
    Guest,
}

/// A running server and its administrator.
pub struct Server {
    pub admin: Account,
    tenure: Tenure,
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
            (None, Some(_)) => start(folder, purpose).await?,
            (None, None) => {
                return Err(format!(
                    "another run is just starting or stopping the database in {}",
                    folder.display()
                )
                .into());
            }
        };
        Ok(Server {
            admin,
            tenure,
            folder: folder.to_owned(),
            _lock: lock,
        })
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
        write_private(
            &self.folder.join("detached"),
            "until `cargo xtask database --stop`\n",
        )?;
        if let Tenure::Child(process) = self.tenure {
            process.leave();
        }
        Ok(())
    }

    /// Stops it, unless somebody else does.
    pub async fn stop(&mut self) -> Outcome {
        match &mut self.tenure {
            Tenure::Child(process) => process.stop().await,
            Tenure::TakenOver => shut_down(&self.folder, &self.admin).await,
            Tenure::Guest => Ok(()),
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

fn administrator(port: u16, password: String) -> Outcome<Account> {
    Ok(Account {
        host: "127.0.0.1".to_owned(),
        port,
        user: "root".to_owned(),
        password,
        schema: account::schema()?,
    })
}

async fn start(folder: &Path, purpose: Purpose) -> Outcome<(Account, Tenure)> {
    let programs = install::programs().await?;
    if !folder.join("initialised").exists() {
        initialise(folder, &programs).await?;
    }
    remove(&folder.join("detached"))?;
    let port = port(folder)?;
    let kept = std::fs::read_to_string(folder.join("password"));
    let password = kept.or_else(|_| random_hex())?;
    write_private(&folder.join("port"), &port.to_string())?;
    write_private(&folder.join("password"), &password)?;
    write_private(&folder.join("init.sql"), &accounts(&password))?;

    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))?;
    let mut command = server_command(folder, &programs);
    command
        .arg(format!("--port={port}"))
        .args(flags(&programs, purpose));
    command.stdout(log.try_clone()?).stderr(log);
    let process = Process::start("the database server", &mut command)?;
    let admin = administrator(port, password)?;
    let process = wait_until_ready(folder, &admin, process).await?;
    Ok((admin, Tenure::Child(process)))
}

/// The administrator's password, set anew at each start. Signing in over the socket stays impossible without it.
fn accounts(password: &str) -> String {
    format!(
        "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         ALTER USER 'root'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
         GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n\
         ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"
    )
}

async fn initialise(folder: &Path, programs: &Programs) -> Outcome {
    println!("Making a private database in {} …", folder.display());
    let data = folder.join("data");
    if data.exists() {
        // Left half made by a run that was interrupted.
        std::fs::remove_dir_all(&data)?;
    }
    private_folder(&data)?;
    let mut command = match programs {
        Programs::MariaDb { init, .. } => {
            let mut command = Command::new(init);
            command.args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]);
            command
        }
        Programs::MySql { server } => {
            let mut command = Command::new(server);
            command.args(["--no-defaults", "--initialize-insecure"]);
            command
        }
    };
    command
        .arg(format!("--datadir={}", data.display()))
        .args(as_root());
    let output = command.kill_on_drop(true).output().await?;
    if output.status.success() {
        return write_private(&folder.join("initialised"), "");
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!(
        "the database could not be made:\n{}",
        String::from_utf8_lossy(&said)
    )
    .into())
}

fn server_command(folder: &Path, programs: &Programs) -> Command {
    let (Programs::MariaDb { server, .. } | Programs::MySql { server }) = programs;
    let mut command = Command::new(server);
    let inside = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    command.args([
        "--no-defaults".to_owned(),
        inside("datadir", "data"),
        inside("pid-file", "server.pid"),
    ]);
    command.args([inside("init-file", "init.sql"), inside("log-error", "server.log")]);
    // Relative to the data: a path of more than about 100 bytes cannot be a socket.
    command.args([
        "--socket=server.sock",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
    ]);
    command.args([
        "--skip-log-bin",
        "--max-connections=500",
        "--innodb-buffer-pool-size=128M",
    ]);
    command.args(as_root());
    command
}

/// Both servers refuse to run as root unless told to.
fn as_root() -> Option<&'static str> {
    rustix::process::getuid().is_root().then_some("--user=root")
}

fn flags(programs: &Programs, purpose: Purpose) -> Vec<&'static str> {
    let mut flags = Vec::new();
    if let Programs::MySql { .. } = programs {
        // The X protocol would take another port; the folder for file imports is made only by the full package.
        flags.extend([
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--performance-schema=OFF",
        ]);
    }
    if purpose == Purpose::ThrowAway {
        flags.extend(["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"]);
    }
    flags
}

/// The port of the environment, that of the last run when it is still free, or any.
fn port(folder: &Path) -> Outcome<u16> {
    if let Some(port) = setting("AUTH_DB_PORT")? {
        return port
            .parse()
            .map_err(|e| format!("AUTH_DB_PORT: {port}: {e}").into());
    }
    let last = std::fs::read_to_string(folder.join("port"))
        .ok()
        .and_then(|port| port.parse().ok());
    let listener =
        TcpListener::bind(("127.0.0.1", last.unwrap_or(0))).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener?.local_addr()?.port())
}

async fn wait_until_ready(folder: &Path, admin: &Account, mut process: Process) -> Outcome<Process> {
    let started = Instant::now();
    loop {
        let ended = process.ended()?;
        if ended.is_some() || started.elapsed() > DEADLINE {
            process.stop().await?;
            let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            return Err(format!("the database server did not start:\n{last}").into());
        }
        if admin.connect_to_server().await.is_ok() {
            return Ok(process);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stops a server that is not our child.
async fn shut_down(folder: &Path, admin: &Account) -> Outcome {
    let id = std::fs::read_to_string(folder.join("server.pid")).unwrap_or_default();
    let pid = id.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let mut connection = admin.connect_to_server().await?;
    sqlx::raw_sql(AssertSqlSafe("SHUTDOWN".to_owned()))
        .execute(&mut connection)
        .await?;
    let asked = Instant::now();
    while pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok()) {
        if asked.elapsed() > DEADLINE {
            return Err(format!("the database server (process {}) does not end", id.trim()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
