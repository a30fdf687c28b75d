//! `persona completions SHELL`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Outcome;

#[derive(clap::Args)]
pub struct Options {
    shell: Shell,
}

/// `persona completions …`
pub fn run<C: CommandFactory>(options: &Options) -> Outcome {
    clap_complete::generate(options.shell, &mut C::command(), "persona", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
