//! The running platform: started piece by piece, each ready before the next, and stopped in reverse.

use std::collections::VecDeque;
use std::fs::File;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Options;
use super::greeting::{ADMINISTRATOR, facts_of, greet};
use super::plan::{Plan, Unit, plan};
use super::told;
use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::database::{self, Database, provision};
use crate::http;
use crate::process::{Process, bound_to_us};
use crate::terminal::{Colour, paint, seconds};
use crate::workspace::{kept_secret, programs, remove, target, try_lock, write_private};

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_secs(60);
/// How many of its last lines are shown of a process that failed.
const TAIL: usize = 25;

/// What becomes of the log lines.
#[derive(Clone, Copy)]
pub enum Logs {
    /// Printed under the name of the process.
    Shown,
    /// Kept for the case that the process fails.
    Kept,
}

pub struct Platform {
    logs: Logs,
    database: Option<Database>,
    /// In the order in which they were started.
    running: Vec<Running>,
    _lock: File,
}

/// A process that was started, and its last lines for the case that it fails.
pub struct Running {
    process: Process,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Platform {
    /// Nothing yet, but no other can be started meanwhile.
    pub fn new(logs: Logs) -> Outcome<Self> {
        std::fs::create_dir_all(target(""))?;
        let lock = try_lock(&target("up.lock"))?;
        let lock = lock.ok_or(
            "`cargo xtask up` is running already in this working copy: its addresses are in target/up.env, \
             and Ctrl-C in its terminal stops it",
        )?;
        Ok(Platform { logs, database: None, running: Vec::new(), _lock: lock })
    }

    pub async fn start_and_watch(&mut self, options: &Options) -> Outcome {
        self.start(options).await?;
        self.watch().await
    }

    /// Builds and starts everything.
    pub async fn start(&mut self, options: &Options) -> Outcome {
        forget_facts()?;
        say("Building");
        build(options.release).await?;
        if options.fresh {
            database::forget().await?;
        }
        say("Starting");
        let database = self.database.insert(Database::open().await?);
        let admin = database.admin.clone();
        let services = provision(&admin).await?;
        let mut plan = plan(options.replicas, &services)?;
        if options.tls {
            plan.secure()?;
        }
        let profile = if options.release { "release" } else { "debug" };
        let stand_ins = plan.stub.iter().chain(&plan.mail_catcher);
        for unit in stand_ins.chain(&plan.identity).chain(&plan.subscription).chain(&plan.edge) {
            self.bring_up(unit, profile).await?;
        }
        let password = kept_secret("administrator")?;
        create_administrator(&plan, profile, &password).await?;
        told::write(&plan)?;
        write_private(&target("up.env"), &facts_of(&plan, &password))?;
        greet(&plan, &admin, &password);
        Ok(())
    }

    /// Comes back when a process ended by itself.
    async fn watch(&mut self) -> Outcome {
        loop {
            for running in &mut self.running {
                running.fail_if_ended()?;
            }
            if self.database.as_mut().map_or(Ok(false), Database::ended)? {
                return Err("the database server ended".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops everything, the last started first.
    pub async fn stop(&mut self) -> Outcome {
        let mut outcome = forget_facts();
        while let Some(mut running) = self.running.pop() {
            outcome = running.process.stop().await.and(outcome);
        }
        if let Some(mut database) = self.database.take() {
            outcome = database.stop().await.and(outcome);
        }
        outcome
    }

    /// Starts a process and waits until it is ready.
    async fn bring_up(&mut self, unit: &Unit, profile: &str) -> Outcome {
        let colour = COLOURS[self.running.len() % COLOURS.len()];
        let prefix = match self.logs {
            Logs::Shown => Some(paint(colour, &format!("{:<19}|", unit.name))),
            Logs::Kept => None,
        };
        self.running.push(Running::start(&unit.name, &mut command(unit, profile), prefix)?);
        match self.running.last_mut() {
            Some(running) => running.wait_until_ready(&unit.ready).await,
            None => Ok(()),
        }
    }
}

const COLOURS: [Colour; 5] = [Colour::Cyan, Colour::Green, Colour::Yellow, Colour::Blue, Colour::Magenta];

impl Running {
    /// Starts a process. Its lines are printed where there is a prefix for them.
    pub fn start(name: &str, command: &mut Command, prefix: Option<String>) -> Outcome<Self> {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&tail);
        let process = Process::start_reading(name, command, move |line| {
            if let Some(prefix) = &prefix {
                println!("{prefix} {line}");
            }
            let mut tail = kept.lock().unwrap_or_else(PoisonError::into_inner);
            tail.push_back(line.to_owned());
            if tail.len() > TAIL {
                tail.pop_front();
            }
        })?;
        Ok(Running { process, tail })
    }

    /// The id of its process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(&mut self) -> Outcome {
        self.process.stop().await
    }

    /// Comes back when `url` answers 200.
    ///
    /// # Errors
    /// When it ends before, or takes longer than a minute; with its last lines.
    pub async fn wait_until_ready(&mut self, url: &str) -> Outcome {
        let started = Instant::now();
        let mut next_word = Duration::from_secs(3);
        loop {
            self.fail_if_ended()?;
            let answer = http::send(Method::GET, url, None, None);
            let answer = tokio::time::timeout(Duration::from_secs(2), answer).await;
            let waited = started.elapsed();
            if matches!(answer, Ok(Ok(answer)) if answer.status == StatusCode::OK) {
                say(&format!("{} is ready after {}", self.process.name(), seconds(waited)));
                return Ok(());
            }
            if waited > READY {
                return Err(self.failure(&format!("was not ready ({url}) within {READY:?}")));
            }
            if waited > next_word {
                say(&format!("{} is not ready yet ({})", self.process.name(), seconds(waited)));
                next_word += Duration::from_secs(3);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn fail_if_ended(&mut self) -> Outcome {
        match self.process.ended()? {
            Some(status) => Err(self.failure(&format!("ended ({status})"))),
            None => Ok(()),
        }
    }

    fn failure(&self, what: &str) -> crate::Fault {
        let name = self.process.name();
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: String = tail.iter().map(|line| format!("\n  {line}")).collect();
        format!("{name} {what}. Its last lines:{lines}").into()
    }
}

/// Removes what is no longer true.
fn forget_facts() -> Outcome {
    remove(&target("up.env")).and(told::forget())
}

/// Builds the programs of the platform.
pub async fn build(release: bool) -> Outcome {
    let mut build = cargo(&["build", "--bins"]);
    for package in ["edge", "identity-svc", "subscription-svc", "core-manager-stub", "mail-catcher"] {
        build.args(["--package", package]);
    }
    build.args(release.then_some("--release"));
    run_cargo(&mut build).await
}

fn command(unit: &Unit, profile: &str) -> Command {
    equip(bound_to_us(&programs(profile).join(unit.program)), unit)
}

/// Gives a command the settings of a unit.
pub fn equip(mut command: Command, unit: &Unit) -> Command {
    // In our environment these name the administrator of the database, which is none of the services' business.
    for name in ["HOST", "PORT", "USER", "PASSWORD", "NAME"] {
        command.env_remove(format!("AUTH_DB_{name}")).env_remove(format!("AUTH_DB_{name}_FILE"));
    }
    command.envs(unit.settings.iter().map(|(name, value)| (name, value)));
    command
}

/// Makes the first administrator; where there is one already nothing is done.
async fn create_administrator(plan: &Plan, profile: &str, password: &str) -> Outcome {
    let identity = plan.identity.first().ok_or("no identity-svc is planned")?;
    let mut command = command(identity, profile);
    command.args(["admin", "create", "--if-none", "--email", ADMINISTRATOR, "--password-stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(password.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("the administrator could not be made: {}", String::from_utf8_lossy(&said)).into())
}

fn say(what: &str) {
    println!("{}", paint(Colour::Cyan, &format!("▶ {what}")));
}
