//! `persona config`: the settings as the processes would read them.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::deployment::{Member, Source};
use crate::output::{Output, cell, table};
use crate::{FINDING, Outcome};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Print every setting, where it comes from, and what is wrong with it; of secrets only how long they are
    Print {
        #[command(flatten)]
        source: Source,
    },
}

/// `persona config …`
pub fn run(command: &Command, output: Output) -> Outcome {
    let Command::Print { source } = command;
    let members = source.members()?;
    let processes: Vec<Value> = members.iter().map(described).collect();
    output.show(&Value::Array(processes), |processes| {
        let parts = processes.as_array().into_iter().flatten().map(text);
        parts.collect::<Vec<_>>().join("\n")
    })?;
    let is_usable = members.iter().all(|member| member.survey.faults.is_empty());
    Ok(if is_usable { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
}

fn described(member: &Member) -> Value {
    let settings = member.survey.settings.iter().map(|setting| {
        json!({
            "name": setting.name,
            "value": setting.value.shown(),
            "origin": member.origin(setting),
            "default": setting.default,
            "meaning": setting.meaning,
        })
    });
    let settings: Vec<Value> = settings.collect();
    json!({ "process": member.process.name(), "settings": settings, "faults": member.survey.faults })
}

fn text(process: &Value) -> String {
    let settings = process["settings"].as_array().into_iter().flatten();
    let rows = settings.map(|setting| ["name", "value", "origin"].map(|name| cell(&setting[name])));
    let mut text = format!("{}\n", cell(&process["process"]));
    text += &table(["NAME", "VALUE", "FROM"], &rows.collect::<Vec<_>>());
    for fault in process["faults"].as_array().into_iter().flatten() {
        text += &format!("fault: {}\n", cell(fault));
    }
    text
}
