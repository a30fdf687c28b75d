//! `persona`: the platform from a terminal. It looks at a deployment from outside with the settings that its processes
//! have, and does what administrators do over the same REST routes as everybody: it knows no other way in.

mod api_keys;
mod completions;
mod config;
mod deployment;
mod doctor;
mod environment;
mod export;
mod http;
mod import;
mod output;
mod report;
mod rest;
mod secret;
mod sessions;
mod token;
mod users;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{Fault, Output};

/// Operate and examine the AI Persona Platform.
#[derive(Parser)]
#[command(
    name = "persona",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 all is well, 1 something was found or refused, 2 wrong usage.\n\
                  PERSONA_EDGE is where the edge is (http://localhost:8081 by default), PERSONA_TOKEN an access token or \
                  API key (PERSONA_TOKEN_FILE names a file with it), PERSONA_CA_FILE the authority to believe for https \
                  instead of those of the web; PERSONA_ALLOW_HTTP=true lets the token go over http:// to another machine."
)]
struct Arguments {
    /// How results are printed; errors follow on stderr in the same form
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check settings, files, certificates, database, processes and clocks
    Doctor(doctor::Options),
    /// The settings of the processes
    #[command(subcommand)]
    Config(config::Command),
    /// Access tokens and API keys
    #[command(subcommand)]
    Token(token::Command),
    /// Accounts, for administrators
    #[command(subcommand)]
    User(users::Command),
    /// Sessions: the own ones, or another account's for administrators
    #[command(subcommand)]
    Session(sessions::Command),
    /// API keys of the caller, and fresh secrets
    #[command(subcommand)]
    Keys(api_keys::Command),
    /// Import accounts from a CSV file, after a dry run; run again, it goes on where it was
    Import(import::Options),
    /// Export accounts as one file
    Export(export::Options),
    /// Print what a shell needs to complete these commands
    Completions(completions::Options),
}

/// What the program `persona` does, told by its arguments.
pub async fn run() -> ExitCode {
    let Arguments { output, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    let outcome = match command {
        Command::Doctor(options) => doctor::run(&options, output).await,
        Command::Config(command) => config::run(&command, output),
        Command::Token(command) => token::run(&command, output).await,
        Command::User(command) => users::run(&command, output).await,
        Command::Session(command) => sessions::run(&command, output).await,
        Command::Keys(command) => api_keys::run(&command, output).await,
        Command::Import(options) => import::run(&options, output).await,
        Command::Export(options) => export::run(&options, output).await,
        Command::Completions(options) => completions::run::<Arguments>(&options),
    };
    outcome.unwrap_or_else(|fault| output.fail(&fault))
}

/// Help and versions come here, too. Which form of errors is wanted has to be guessed from words that make no sense.
fn misused(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let wants_json = words.iter().any(|word| word == "--output=json")
        || words.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if error.use_stderr() && wants_json {
        return Output::Json.fail(&Fault::Usage(error.render().to_string()));
    }
    error.exit()
}

/// How a command ends that could do what it was asked for.
type Outcome = Result<ExitCode, Fault>;

/// Something was found, or is not as it should be.
const FINDING: u8 = 1;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_commands_can_be_told_apart() {
        Arguments::command().debug_assert();
    }
}
