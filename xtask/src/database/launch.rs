//! How the private server is made and started.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::account::Account;
use super::install::{self, Programs};
use super::server::{DEADLINE, Purpose, administrator};
use crate::Outcome;
use crate::process::{Process, bound_to_us};
use crate::workspace::{private_folder, random_hex, setting, write_private};

/// Starts the server of this folder, made first when it is new, and waits until it can be signed in to.
pub async fn start(folder: &Path, purpose: Purpose) -> Outcome<(Account, Process)> {
    let programs = install::programs().await?;
    if !folder.join("initialised").exists() {
        initialise(folder, &programs).await?;
    }
    let port = port(folder)?;
    let kept = std::fs::read_to_string(folder.join("password"));
    let password = kept.or_else(|_| random_hex())?;
    write_private(&folder.join("port"), &port.to_string())?;
    write_private(&folder.join("password"), &password)?;
    write_private(&folder.join("init.sql"), &accounts(&password))?;

    write_certificate(folder)?;

    let log = OpenOptions::new().create(true).append(true).open(folder.join("server.log"))?;
    let mut command = server_command(folder, &programs, purpose);
    command.arg(format!("--port={port}")).args(flags(&programs, purpose));
    command.stdout(log.try_clone()?).stderr(log);
    let process = Process::start("the database server", &mut command)?;
    let admin = administrator(port, password)?;
    let process = wait_until_ready(folder, &admin, process).await?;
    Ok((admin, process))
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

/// So that what is developed and tested meets TLS, which most servers offer and behaves otherwise when something breaks.
fn write_certificate(folder: &Path) -> Outcome {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    write_private(&folder.join("server.key"), &made.signing_key.serialize_pem())?;
    write_private(&folder.join("server.pem"), &made.cert.pem())
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
            command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
            command
        }
        Programs::MySql { server } => {
            let mut command = Command::new(server);
            command.args(["--no-defaults", "--initialize-insecure"]);
            command
        }
    };
    command.arg(format!("--datadir={}", data.display())).args(as_root());
    let output = command.kill_on_drop(true).output().await?;
    if output.status.success() {
        return write_private(&folder.join("initialised"), "");
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("the database could not be made:\n{}", String::from_utf8_lossy(&said)).into())
}

fn server_command(folder: &Path, programs: &Programs, purpose: Purpose) -> Command {
    let (Programs::MariaDb { server, .. } | Programs::MySql { server }) = programs;
    let mut command = match purpose {
        Purpose::LeaveRunning => Command::new(server),
        Purpose::Keep | Purpose::ThrowAway | Purpose::BeKilled => bound_to_us(server),
    };
    let inside = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    command.args(["--no-defaults".to_owned(), inside("datadir", "data"), inside("pid-file", "server.pid")]);
    command.args([inside("init-file", "init.sql"), inside("log-error", "server.log")]);
    command.args([inside("ssl-cert", "server.pem"), inside("ssl-key", "server.key")]);
    // Relative to the data: a path of more than about 100 bytes cannot be a socket.
    command.args(["--socket=server.sock", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
    command.args(["--skip-log-bin", "--max-connections=500", "--innodb-buffer-pool-size=128M"]);
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
        flags.extend(["--mysqlx=OFF", "--secure-file-priv=NULL", "--performance-schema=OFF"]);
    }
    if purpose == Purpose::ThrowAway {
        flags.extend(["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"]);
    }
    flags
}

/// The port of the environment, that of the last run when it is still free, or any.
fn port(folder: &Path) -> Outcome<u16> {
    if let Some(port) = setting("AUTH_DB_PORT")? {
        return port.parse().map_err(|e| format!("AUTH_DB_PORT: {port}: {e}").into());
    }
    let last = std::fs::read_to_string(folder.join("port")).ok().and_then(|port| port.parse().ok());
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
