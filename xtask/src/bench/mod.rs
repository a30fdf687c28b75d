//! `cargo xtask bench`: the platform beside the proxies that it has to be as fast as, at the same work, on this machine.
//! `docs/performance.md` says what each figure means.

#[cfg(feature = "bench")]
mod accounts;
#[cfg(feature = "bench")]
mod check;
#[cfg(feature = "bench")]
mod cold_build;
#[cfg(feature = "bench")]
mod cpu;
#[cfg(feature = "bench")]
mod echo;
#[cfg(feature = "bench")]
mod grpc;
#[cfg(feature = "bench")]
mod http_load;
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
mod wrk;

use crate::Outcome;

#[derive(clap::Args)]
#[cfg_attr(not(feature = "bench"), expect(dead_code, reason = "read by the build that measures"))]
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
