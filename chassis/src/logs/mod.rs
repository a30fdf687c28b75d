//! Logs: one event a line, JSON by default, control characters escaped by the formatter.

mod access;
mod lines;

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::settings::Env;
use crate::traces::{self, Traces, TracesError};
use lines::Lines;

pub use access::{Fields, access};

/// How long an ending process waits for standard output to take its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

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
        // The filter takes a word that is no level for a target, and is silent of all others.
        let is_mistaken = |word: &&str| {
            !word.is_empty()
                && !word.contains(['=', '[', ']', '{', '}'])
                && word.parse::<LevelFilter>().is_err()
        };
        if let Some(word) = text.split(',').map(str::trim).find(is_mistaken) {
            return Err(format!(
                "{word} is no level: must be error, warn, info, debug, trace or off, or `target=level,…`"
            ));
        }
        filter(text).map_err(|e| e.to_string())?;
        Ok(Level(text.to_owned()))
    }
}

/// Values of fields stand for themselves: as patterns, a few dozen characters of them could take all memory.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_regex(false).parse(directives)
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    level: Level,
    format: Format,
    traces: traces::Settings,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        Settings {
            level: env.value("LOG_LEVEL", "info", "Least level that is logged, or `target=level,…`"),
            format: env.value("LOG_FORMAT", "json", "`json` (one object a line) or `text`"),
            traces: traces::Settings::read(env),
        }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error("LOG_LEVEL: {0}")]
    Level(#[from] ParseError),
    #[error("no thread for the logs: {0}")]
    Thread(#[from] std::io::Error),
}

/// The logs and traces of a running process.
#[must_use = "the last lines and spans are lost unless it is finished"]
pub struct Logs {
    lines: Lines,
    traces: Traces,
}

impl Logs {
    /// Sends what is still queued: spans for at most two seconds, lines for at most one.
    pub async fn finish(self) {
        self.traces.finish().await;
        self.lines.finish(LAST_LINES);
    }
}

/// Starts logging to standard output and, where a collector is configured, exporting traces. Called once, inside the
/// runtime, before anything else of the process.
///
/// # Errors
/// When the collector's address cannot be used, or the system has no further thread.
pub fn init(settings: &Settings, service: &'static str) -> Result<Logs, LogsError> {
    let traces = Traces::start(&settings.traces, service)?;
    let lines = Lines::start()?;
    // Spans for traces are not for the logs.
    let filter = filter(&format!("{},{}=off", settings.level.0, traces::TARGET))?;
    let layer = fmt::layer().with_writer(lines.clone());
    let layer = match settings.format {
        Format::Json => {
            layer.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
        Format::Text => layer.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    access::start(lines.clone(), settings.format);
    let registry = tracing_subscriber::registry();
    match traces.layer() {
        Some(exported) => registry.with(layer.with_filter(filter)).with(exported).init(),
        // A filter of the whole is cheaper than one of a layer.
        None => registry.with(layer).with(filter).init(),
    }
    Ok(Logs { lines, traces })
}

/// What a command has to say besides its result, such as what it waits for: on standard error, for whoever runs it.
pub fn of_a_command() {
    let warnings = fmt().with_max_level(LevelFilter::WARN).with_target(false).with_writer(std::io::stderr);
    warnings.with_ansi(std::io::stderr().is_terminal()).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["warning", "verbose", "info,access", "debug, Loud ", "access=warning", "edge=info,7"] {
            let fault = text.parse::<Level>().expect_err(text);
            assert!(!fault.is_empty(), "{text}");
        }
        for text in
            ["info", "WARN", "off", "4", "info,access=warn", "edge=debug, off", "info,h2[frame{a=1}]=trace"]
        {
            text.parse::<Level>().unwrap_or_else(|fault| panic!("{text}: {fault}"));
        }
    }

    #[test]
    fn the_value_of_a_field_is_no_pattern() {
        let directive = format!("info,[span{{a=D{}}}]=debug", ".".repeat(40));
        directive.parse::<Level>().expect("a value of dots");
    }
}
