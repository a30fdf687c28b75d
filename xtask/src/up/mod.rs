//! `cargo xtask up`: the whole platform on this machine, until Ctrl-C.

mod greeting;
mod plan;
mod platform;
mod told;

pub use greeting::ADMINISTRATOR;
pub use plan::{Plan, Unit, plan};
#[cfg(feature = "bench")]
pub use platform::build;
pub use platform::{Logs, Platform, Running, equip};

use crate::Outcome;
use crate::process::{interrupted, unless_interrupted};
use crate::workspace::{target, try_lock};

#[derive(clap::Args)]
pub struct Options {
    /// Delete the data of the last run first
    #[arg(long)]
    pub fresh: bool,
    /// How many of each process to start
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub replicas: u16,
    /// Build optimised
    #[arg(long)]
    pub release: bool,
    /// Mutual TLS between the processes, with certificates of `cargo xtask certs`
    #[arg(long)]
    pub tls: bool,
}

/// `cargo xtask up`
pub async fn run(options: Options) -> Outcome {
    let mut platform = Platform::new(Logs::Shown)?;
    let outcome = tokio::select! {
        outcome = platform.start_and_watch(&options) => outcome,
        interrupted = interrupted() => interrupted,
    };
    println!("Stopping …");
    platform.stop().await.and(outcome)?;
    println!("Everything is stopped.");
    Ok(())
}

/// Does `work` on a platform of its own, which is stopped afterwards.
pub async fn with_platform(work: impl AsyncFnOnce() -> Outcome) -> Outcome {
    let options = Options { fresh: false, replicas: 1, release: false, tls: false };
    let mut platform = Platform::new(Logs::Kept)?;
    let outcome = unless_interrupted(async {
        platform.start(&options).await?;
        work().await
    })
    .await;
    platform.stop().await.and(outcome)
}

/// What a running `up` has written down, if one is running.
pub fn facts() -> Outcome<Option<Vec<(String, String)>>> {
    // Left by one that was killed when nobody holds the lock.
    let running = target("up.lock").exists() && try_lock(&target("up.lock"))?.is_none();
    let Some(text) = std::fs::read_to_string(target("up.env")).ok().filter(|_| running) else {
        return Ok(None);
    };
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Some(text.lines().filter_map(pair).collect()))
}
