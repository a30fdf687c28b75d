//! The database that the services run on: a private server, or the one that AUTH_DB_HOST names.

mod account;
mod install;
mod launch;
mod provision;
mod server;

use std::path::PathBuf;
use std::time::Duration;

pub use account::Account;
pub use provision::{Services, drop_schema, ensure_schema, make_scratch, provision};
use server::{Purpose, Server};

use crate::Outcome;
use crate::process::interrupted;
use crate::workspace::{remove, target, write_private};

#[derive(clap::Args)]
pub struct Options {
    /// Leave it running in the background
    #[arg(long, conflicts_with = "stop")]
    detach: bool,
    /// Stop the one that runs in the background
    #[arg(long)]
    stop: bool,
}

/// A server to work with.
pub struct Database {
    pub admin: Account,
    /// None when it is somebody else's.
    server: Option<Server>,
}

impl Database {
    /// The server that AUTH_DB_HOST names, or the private one with the data of the last run.
    pub async fn open() -> Outcome<Self> {
        Self::choose(folder(), Purpose::Keep).await
    }

    /// The server that AUTH_DB_HOST names, or a private one whose data goes with it.
    pub async fn open_throw_away() -> Outcome<Self> {
        let folder = throw_away_folder();
        if Account::from_environment()?.is_none() {
            server::forget(&folder).await?;
        }
        Self::choose(folder, Purpose::ThrowAway).await
    }

    /// A private server whose commits are durable, for whoever kills it; its data go with it all the same. The server
    /// that AUTH_DB_HOST names is left alone.
    pub async fn open_to_be_killed() -> Outcome<Self> {
        let folder = folder_to_be_killed();
        server::forget(&folder).await?;
        let server = Server::open(&folder, Purpose::BeKilled).await?;
        Ok(Database { admin: server.admin.clone(), server: Some(server) })
    }

    /// Starts it again where it was when it has ended.
    pub async fn revive(&mut self) -> Outcome {
        if self.ended()? {
            // The folder's lock goes first.
            self.server = None;
            let server = Server::open(&folder_to_be_killed(), Purpose::BeKilled).await?;
            self.server = Some(server);
        }
        Ok(())
    }

    async fn choose(folder: PathBuf, purpose: Purpose) -> Outcome<Self> {
        if let Some(admin) = Account::from_environment()? {
            println!("Using the database server at {}:{}.", admin.host, admin.port);
            return Ok(Database { admin, server: None });
        }
        let server = Server::open(&folder, purpose).await?;
        println!("Database server at {}:{}.", server.admin.host, server.admin.port);
        Ok(Database { admin: server.admin.clone(), server: Some(server) })
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Outcome<bool> {
        self.server.as_mut().map_or(Ok(false), Server::ended)
    }

    pub async fn stop(&mut self) -> Outcome {
        match &mut self.server {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// Deletes the data of the private server.
pub async fn forget() -> Outcome {
    if Account::from_environment()?.is_some() {
        return Err(
            "--fresh deletes the data of the private server only, and AUTH_DB_HOST names another".into()
        );
    }
    server::forget(&folder()).await
}

/// `cargo xtask database`
pub async fn run(options: Options) -> Outcome {
    let file = target("database.env");
    if options.stop {
        let stopped = server::stop_running(&folder()).await?;
        println!("{}", if stopped { "Stopped." } else { "It is not running." });
        return remove(&file);
    }
    let purpose = if options.detach { Purpose::LeaveRunning } else { Purpose::Keep };
    let mut database = tokio::select! {
        database = Database::choose(folder(), purpose) => database?,
        interrupted = interrupted() => return interrupted,
    };
    let outcome = tokio::select! {
        outcome = offer(&mut database, &file, options.detach) => outcome,
        interrupted = interrupted() => interrupted,
    };
    match database.server {
        Some(server) if options.detach && outcome.is_ok() => server.detach(),
        Some(mut server) => {
            if !server.is_guest() {
                remove(&file)?;
            }
            server.stop().await.and(outcome)
        }
        None => outcome,
    }
}

/// Says how to sign in, and stays as long as the server runs unless it is to be left alone.
async fn offer(database: &mut Database, file: &std::path::Path, leave: bool) -> Outcome {
    let services = provision(&database.admin).await?;
    let urls = format!(
        "ADMIN_URL={}\nIDENTITY_DB_URL={}\nSUBSCRIPTION_DB_URL={}\n",
        database.admin.url(),
        services.identity.url(),
        services.subscription.url()
    );
    write_private(file, &urls)?;
    print!("{urls}");
    let ours = database.server.as_ref().is_some_and(|server| !server.is_guest());
    if leave || !ours {
        return Ok(());
    }
    println!("Ctrl-C stops it.");
    while !database.ended()? {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("the database server ended".into())
}

fn folder() -> PathBuf {
    target("database")
}

fn folder_to_be_killed() -> PathBuf {
    disk_to_be_filled().join("database")
}

/// Where the server that is to be killed has all that it writes, which may be a disk of its own.
pub fn disk_to_be_filled() -> PathBuf {
    target("faults-disk")
}

/// Where the server that is to be killed says which process it is.
pub fn pid_file_to_be_killed() -> PathBuf {
    folder_to_be_killed().join("server.pid")
}

/// In memory where there is room for it.
fn throw_away_folder() -> PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if room < 2 << 30 {
        return target("test-database");
    }
    // One for each working copy.
    let path = crate::workspace::root().to_string_lossy().replace('/', "-");
    memory.join(format!("persona-test{path}"))
}
