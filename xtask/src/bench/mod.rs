//! `cargo xtask bench`: the platform beside the proxies that it has to be as fast as, at the same work, on this machine.
//! `docs/performance.md` says what each figure means.

#[cfg(feature = "bench")]
mod accounts;
#[cfg(feature = "bench")]
mod changes;
#[cfg(feature = "bench")]
mod check;
#[cfg(feature = "bench")]
mod cold_build;
#[cfg(feature = "bench")]
mod counters;
#[cfg(feature = "bench")]
mod cpu;
#[cfg(feature = "bench")]
mod database;
#[cfg(feature = "bench")]
mod echo;
#[cfg(feature = "bench")]
mod fan_out;
#[cfg(feature = "bench")]
mod grpc;
#[cfg(feature = "bench")]
mod http_load;
#[cfg(feature = "bench")]
mod light;
#[cfg(feature = "bench")]
mod live_claims;
#[cfg(feature = "bench")]
mod peers;
#[cfg(feature = "bench")]
mod processes;
#[cfg(feature = "bench")]
mod proxied;
#[cfg(feature = "bench")]
mod quota;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod soak;
#[cfg(feature = "bench")]
mod sockets;
#[cfg(feature = "bench")]
mod stage;
#[cfg(feature = "bench")]
mod streams;
#[cfg(feature = "bench")]
mod suite;
#[cfg(feature = "bench")]
mod tokens;
#[cfg(feature = "bench")]
mod watchers;
#[cfg(feature = "bench")]
mod wrk;

use crate::Outcome;

#[derive(clap::Args)]
pub struct Options {
    /// A sanity check in about a minute: everything runs, but the figures mean little
    #[arg(long)]
    quick: bool,
    /// Print the figures as JSON on standard output, and everything else on standard error
    #[arg(long)]
    json: bool,
    /// Measure this alone; may be given more than once
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Scenario>,
    /// How long the soak is
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

impl Options {
    /// What was named, or everything but what takes too long for that.
    #[cfg(feature = "bench")]
    fn chosen(&self) -> Vec<Scenario> {
        use clap::ValueEnum;

        let all = Scenario::value_variants().iter().copied();
        all.filter(|scenario| match &self.only[..] {
            [] => !matches!(scenario, Scenario::Soak | Scenario::ColdBuild),
            only => only.contains(scenario),
        })
        .collect()
    }
}

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Start of each process, and its memory while idle
    Processes,
    /// Proxied GET, tokens that were seen before
    Get,
    /// Proxied GET, each token for the first time
    FirstSight,
    /// Proxied POST with a body of 4 KiB
    Post,
    /// Refusal of a bad token
    BadToken,
    /// Two worker threads against one
    TwoThreads,
    /// A million entries of live claims against none
    LiveClaims,
    /// 1 GiB through the gateway either way
    Streaming,
    /// WebSocket frames through the edge against HAProxy's tunnel
    WebSocket,
    /// Memory of idle sockets
    IdleSockets,
    /// Sign-ins against the bare hash rate, and proxied requests meanwhile
    Login,
    /// Refreshing of sessions
    Refresh,
    /// Quota: reserve and commit
    Quota,
    /// ValidateToken and GetUser over gRPC
    Grpc,
    /// What each kind of request asks of the database
    Database,
    /// Changes of accounts on their way to a thousand edges
    FanOut,
    /// Memory, errors and p99 over many minutes of load; only when it is named
    Soak,
    /// A build of everything from nothing; only when it is named
    ColdBuild,
}

/// `cargo xtask bench`
#[cfg(feature = "bench")]
pub async fn run(options: Options) -> Outcome {
    suite::run(options).await
}

/// Builds ourselves with the load generators, optimised so that they do not hold back what they measure, and goes on
/// as that program.
#[cfg(not(feature = "bench"))]
pub async fn run(_options: Options) -> Outcome {
    use std::os::unix::process::CommandExt;

    let mut build = crate::cargo::cargo(&["build", "--release", "--package", "xtask", "--features", "bench"]);
    crate::process::unless_interrupted(crate::cargo::run(&mut build)).await?;
    let program = crate::workspace::programs("release").join("xtask");
    let failed = std::process::Command::new(&program).args(std::env::args_os().skip(1)).exec();
    Err(format!("{}: {failed}", program.display()).into())
}
