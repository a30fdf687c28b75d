//! Logs: one event a line, JSON by default, control characters escaped by the formatter.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::settings::Env;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Format::Json),
            "text" => Ok(Format::Text),
            _ => Err("must be json or text"),
        }
    }
}

/// A level or a list of `target=level` directives, checked when it is read.
#[derive(Clone, Debug)]
pub struct Level(String);

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text).map_err(|e| e.to_string())?;
        Ok(Level(text.to_owned()))
    }
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    level: Level,
    format: Format,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        Settings {
            level: env.value("LOG_LEVEL", "info", "Least level that is logged, or `target=level,…`"),
            format: env.value("LOG_FORMAT", "json", "`json` (one object a line) or `text`"),
        }
    }
}

/// Starts logging to standard output. Called once, before anything else of the process.
pub fn init(settings: &Settings) {
    let filter = EnvFilter::new(&settings.level.0);
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match settings.format {
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
        Format::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stdout())).init(),
    }
}
