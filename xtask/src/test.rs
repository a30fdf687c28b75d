//! Everything that CI runs, in the order in which it fails fastest.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::cargo::{cargo, check, run as run_cargo};
use crate::database::{Account, Database, ensure_schema};
use crate::process::{Process, unless_interrupted};
use crate::terminal::{Colour, is_watched, paint, seconds, step};
use crate::workspace::{programs, root};
use crate::{Outcome, book, instructions, openapi, prepare, promises, redis, settings};

#[derive(clap::Args)]
pub struct Options {
    /// Run only the tests whose names contain this
    filter: Option<String>,
}

/// What `cargo xtask bench` measures with is checked, too.
const BENCH: &str = "xtask/bench";

/// How long no test may come to its end: one hangs, and CI would be ended without a word of which.
const QUIET: Duration = Duration::from_secs(10 * 60);

/// `cargo xtask test`
pub async fn run(options: Options) -> Outcome {
    let started = Instant::now();
    unless_interrupted(static_checks()).await?;
    unless_interrupted(redis::ensure()).await?;
    let mut database =
        unless_interrupted(step("Start a database for the tests", Database::open_throw_away())).await?;
    let outcome = unless_interrupted(checks_on_a_server(&database.admin, options.filter.as_deref())).await;
    database.stop().await.and(outcome)?;
    println!("{}", paint(Colour::Green, &format!("Everything passed in {}.", seconds(started.elapsed()))));
    Ok(())
}

async fn static_checks() -> Outcome {
    let steps: [(&str, &[&str]); 3] = [
        ("Formatting", &["fmt", "--check"]),
        ("Clippy", &["clippy", "--workspace", "--all-targets", "--features", BENCH, "--", "-D", "warnings"]),
        ("Build", &["build", "--workspace", "--all-targets", "--features", BENCH]),
    ];
    for (title, arguments) in steps {
        step(title, run_cargo(&mut cargo(arguments))).await?;
    }
    step("Settings in the docs", settings::write(true)).await?;
    step("Routes in the docs", openapi::write(true)).await?;
    step("Pages and links of the docs", async { book::check(root()) }).await?;
    step("Tests that the docs name", async { promises::check() }).await
}

async fn checks_on_a_server(admin: &Account, filter: Option<&str>) -> Outcome {
    step("Query data", prepare::prepare(admin, true)).await?;
    step("Tests", tests(admin, filter)).await?;
    match filter {
        None => instructions::hold(admin).await,
        Some(_) => Ok(()),
    }
}

/// The tests see the server in their URLs alone: settings of the services in the environment would change what they
/// test.
async fn tests(admin: &Account, filter: Option<&str>) -> Outcome {
    let base = admin.with_schema("persona_tests");
    ensure_schema(&base).await?;
    // All that fails, not only the first: another run takes as long again.
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--features", BENCH]);
    command.args(filter);
    for name in ["HOST", "PORT", "USER", "PASSWORD", "PASSWORD_FILE", "NAME"] {
        command.env_remove(format!("AUTH_DB_{name}"));
    }
    command.env("SQLX_OFFLINE", "true").env("DATABASE_URL", base.url()).env("TEST_DATABASE_URL", base.url());
    command.env("PERSONA_BIN_DIR", programs("debug"));
    // What failed is in the message; fifty frames of the runtime after it hide it in the log of CI.
    command.env("RUST_BACKTRACE", "0");
    if is_watched() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let summary = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&summary);
    let (said, hears) = watch::channel(());
    let mut process = Process::start_reading("cargo", &mut command, move |line| {
        println!("{line}");
        said.send_replace(());
        if line.contains("test result: ") || line.contains("Running ") || line.contains("Doc-tests ") {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.trim().to_owned());
        }
    })?;
    let status = while_heard(&mut process, hears).await?;
    println!("\n{}", summary.lock().unwrap_or_else(PoisonError::into_inner).join("\n"));
    check(&command, status)
}

/// Waits for the end of a process that prints again and again, and ends one that has gone quiet.
async fn while_heard(process: &mut Process, mut hears: watch::Receiver<()>) -> Outcome<ExitStatus> {
    loop {
        tokio::select! {
            status = process.wait() => return status,
            // What has closed its output is about to end.
            heard = timeout(QUIET, hears.changed()), if hears.has_changed().is_ok() => if heard.is_err() { break },
        }
    }
    process.stop().await?;
    Err(format!("no test ended for {QUIET:?}: the one that is said above to run for over 60 seconds hangs")
        .into())
}
