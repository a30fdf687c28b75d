//! `persona completions SHELL`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Outcome;
use crate::output::print;

#[derive(clap::Args)]
pub struct Options {
    shell: Shell,
}

/// `persona completions …`
pub fn run<C: CommandFactory>(options: &Options) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut C::command(), "persona", &mut text);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
