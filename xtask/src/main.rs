//! `cargo xtask …`: what people and CI do with this workspace.

mod database;
mod process;
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
    /// Runs the private database alone and prints how to sign in
    Database(database::Options),
}

/// Why a task could not be done, in words for whoever started it.
type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Fault>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Database(options) => database::run(options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::FAILURE
        }
    }
}
