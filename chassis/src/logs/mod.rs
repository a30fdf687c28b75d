//! Logs: one event a line, JSON by default, control characters escaped by the formatter.

mod access;
mod lines;

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

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

/// A level, levels of targets, or both.
#[derive(Clone, Debug)]
pub struct Level(Targets);

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut targets = Targets::new();
        let words = text.trim_end_matches([',', ' ']);
        for word in words.split(',').map(str::trim) {
            let (target, name) = word
                .split_once('=')
                .map_or((None, word), |(target, name)| (Some(target.trim()), name.trim()));
            let level = name.parse::<LevelFilter>().ok().filter(|_| !name.is_empty()).ok_or_else(|| {
                format!(
                    "{name:?} is no level: must be error, warn, info, debug, trace or off, or `target=level,…`"
                )
            })?;
            targets = match target {
                Some(target) if !target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c)) => {
                    return Err(format!("{target:?} is no target: spans and fields are not taken"));
                }
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            };
        }
        Ok(Level(targets))
    }
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
    let filter = settings.level.0.clone().with_target(traces::TARGET, LevelFilter::OFF);
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
    use tracing::Level as Of;

    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        let dots = format!("info,[span{{a=D{}}}]=debug", ".".repeat(40));
        for text in [
            "warning",
            "verbose",
            "info,access",
            "debug, Loud ",
            "access=warning",
            "access=",
            ",",
            "info,,off",
            "edge=info,7",
            "info,h2[frame{a=1}]=trace",
            "\t\tsho\u{45b}/NS=LIMIT\u{e0}",
            dots.as_str(),
        ] {
            let fault = text.parse::<Level>().expect_err(text);
            assert!(fault.contains("is no level"), "{text}: {fault}");
        }
    }

    #[test]
    fn spans_and_fields_of_a_target_are_refused() {
        for text in ["info,h2[frame]=trace", "[span]=debug", "h2[{id}]=trace", "edge front=info"] {
            let fault = text.parse::<Level>().expect_err(text);
            assert!(fault.contains("is no target"), "{text}: {fault}");
        }
    }

    #[test]
    fn the_most_exact_of_the_targets_says_what_is_logged() {
        for (text, logged) in [
            ("info", [true, true, false]),
            ("WARN", [false, false, false]),
            ("off", [false, false, false]),
            ("4", [true, true, true]),
            ("info,access=warn", [true, false, false]),
            (" edge = debug , off,", [true, false, true]),
            ("info,edge=off", [false, true, false]),
        ] {
            let Level(targets) = text.parse().unwrap_or_else(|fault| panic!("{text}: {fault}"));
            let found = [("edge::front", Of::INFO), ("access", Of::INFO), ("edge", Of::DEBUG)]
                .map(|(target, level)| targets.would_enable(target, &level));
            assert_eq!(found, logged, "{text}");
        }
    }
}
