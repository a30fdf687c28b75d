//! `cargo xtask …`: what people and CI do with this workspace.

mod bench;
mod book;
mod cargo;
mod certs;
mod client;
mod console;
mod dashboards;
mod database;
mod demo;
mod deny;
mod faults;
mod fuzz;
mod generated;
mod http;
mod instructions;
mod manifests;
mod node;
mod openapi;
mod packages;
mod prepare;
mod process;
mod promises;
mod redis;
mod sbom;
mod schemathesis;
mod settings;
mod simulate;
mod terminal;
mod test;
mod tools;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of this workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds and runs the whole platform until Ctrl-C
    Up(up::Options),
    /// Runs everything that CI runs
    Test(test::Options),
    /// Tells the story of the platform with real requests
    Demo(demo::Options),
    /// Measures the platform beside HAProxy and nginx, against its budgets
    Bench(bench::Options),
    /// Counts the instructions of the edge's hot path, against what is accepted
    Instructions(instructions::Options),
    /// Runs the platform under a steady load through one fault after the other
    Faults(faults::Options),
    /// Tests the TypeScript client in Node and in Chromium, on a platform of its own
    Client,
    /// Tests the console in a real browser
    Console(console::Options),
    /// Renews the committed query data in .sqlx
    Prepare(prepare::Options),
    /// Renews the table of settings in docs/settings.md
    Settings(settings::Options),
    /// Renews the document of all routes in docs/openapi.json
    Openapi(openapi::Options),
    /// Makes certificates for the internal plane, for development
    Certs(certs::Options),
    /// Runs the private database alone and prints how to sign in
    Database(database::Options),
    /// Searches for inputs that break what the parsers promise
    Fuzz(fuzz::Options),
    /// Runs the processes on a simulated network that breaks, one seed after the other
    Simulate(simulate::Options),
    /// Tests with Schemathesis whether the platform does what its document says
    Schemathesis(schemathesis::Options),
    /// Binds the docs as a book, in target/book
    Book,
    /// Checks licences, banned crates, sources and known vulnerabilities
    Deny,
    /// Writes what the programs consist of, as CycloneDX
    Sbom,
    /// Renders the manifests of Kubernetes and checks them against its schemas
    Manifests,
    /// Checks dashboards, rules and alerts with promtool, and asks a Prometheus for them
    Dashboards(dashboards::Options),
}

/// Why a task could not be done, in words for whoever started it.
type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Fault>;

/// Whether a command such as `xtask faults edge-killed` would run, with all that it names.
fn understands(command: &str) -> bool {
    match Arguments::try_parse_from(command.split_whitespace()) {
        Ok(Arguments { task: Task::Faults(options) }) => options.are_known(),
        Ok(Arguments { task: Task::Fuzz(options) }) => options.are_known(),
        parsed => parsed.is_ok(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Up(options) => up::run(options).await,
        Task::Test(options) => test::run(options).await,
        Task::Demo(options) => demo::run(options).await,
        Task::Bench(options) => bench::run(options).await,
        Task::Instructions(options) => instructions::run(options).await,
        Task::Faults(options) => faults::run(options).await,
        Task::Client => client::run().await,
        Task::Console(options) => console::run(options).await,
        Task::Prepare(options) => prepare::run(options).await,
        Task::Settings(options) => settings::run(options).await,
        Task::Openapi(options) => openapi::run(options).await,
        Task::Certs(options) => certs::run(&options),
        Task::Database(options) => database::run(options).await,
        Task::Fuzz(options) => fuzz::run(options).await,
        Task::Simulate(options) => simulate::run(options).await,
        Task::Schemathesis(options) => schemathesis::run(options).await,
        Task::Book => book::run().await,
        Task::Deny => deny::run().await,
        Task::Sbom => sbom::run().await,
        Task::Manifests => manifests::run().await,
        Task::Dashboards(options) => dashboards::run(options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::FAILURE
        }
    }
}
