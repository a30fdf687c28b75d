//! How results and faults are shown: text for people, or one JSON value on stdout, and on stderr one for each line.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use contract::ErrorCode;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::FINDING;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// Why a command could not do what it was asked for.
#[derive(Debug)]
pub enum Fault {
    /// It was asked for in a way that makes no sense.
    Usage(String),
    /// In words.
    Said(String),
    /// The platform did not answer, or another did.
    Unanswered {
        says: String,
        /// In how long that may be otherwise by itself; None when somebody has to do something.
        after: Option<Duration>,
    },
    /// By the platform: the body of its answer, in the one shape that errors have.
    Refused(Value),
}

impl Fault {
    pub fn said(what: impl Display) -> Self {
        Fault::Said(what.to_string())
    }

    /// What the platform would have refused with, had it been asked in one go.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Fault::Refused(json!({ "error": { "code": code.name(), "message": message.into() } }))
    }

    /// One of the error table if the platform refused, or else one of ours (docs/cli.md).
    pub fn code(&self) -> &str {
        match self {
            Fault::Usage(_) => "CLI001",
            Fault::Said(_) => "CLI002",
            Fault::Unanswered { .. } => "CLI003",
            Fault::Refused(body) => body["error"]["code"].as_str().unwrap_or_default(),
        }
    }

    /// The same with more words.
    pub fn and(mut self, more: &str) -> Self {
        match &mut self {
            Fault::Usage(says) | Fault::Said(says) | Fault::Unanswered { says, .. } => {
                *says = format!("{says}; {more}");
            }
            Fault::Refused(body) => {
                let message = &mut body["error"]["message"];
                *message = format!("{}; {more}", cell(message)).into();
            }
        }
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match self {
            Fault::Usage(says) | Fault::Said(says) | Fault::Unanswered { says, .. } => {
                return f.write_str(says);
            }
            Fault::Refused(body) => body,
        };
        let error = &body["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        write!(f, "{}: {}", text(&error["code"]), text(&error["message"]))?;
        for (field, fault) in error["details"]["fields"].as_object().into_iter().flatten() {
            write!(f, "; {field} {}", text(fault))?;
        }
        match body["request_id"].as_str() {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl Output {
    /// Prints a result: `value` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// As [`print`].
    pub fn show(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Fault> {
        let shown = match self {
            Output::Json => format!("{value:#}\n"),
            Output::Text => text(value),
        };
        print(shown.as_bytes())
    }

    /// What moves while people wait, on a terminal alone.
    pub fn progress(self, length: Option<u64>, template: &'static str) -> ProgressBar {
        let target = match self {
            Output::Json => ProgressDrawTarget::hidden(),
            Output::Text => ProgressDrawTarget::stderr(),
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|fault| unreachable!("the template is one: {fault}"));
        ProgressBar::with_draw_target(length, target).with_style(style)
    }

    /// Says on stderr what is no result.
    pub fn notice(self, what: &str) {
        self.say(what, &json!({ "notice": { "message": what } }));
    }

    /// One line, whether or not anybody reads it.
    fn say(self, text: &str, value: &Value) {
        let _ = match self {
            Output::Json => writeln!(io::stderr(), "{value}"),
            Output::Text => writeln!(io::stderr(), "persona: {}", one_line(text)),
        };
    }

    /// Says on stderr why a command failed, and how the program ends.
    pub fn fail(self, fault: &Fault) -> ExitCode {
        let body = match fault {
            Fault::Refused(body) => body.clone(),
            fault => json!({ "error": { "code": fault.code(), "message": fault.to_string() } }),
        };
        self.say(&fault.to_string(), &body);
        match fault {
            Fault::Usage(_) => ExitCode::from(2),
            _ => ExitCode::from(FINDING),
        }
    }
}

/// Prints to stdout. Whoever takes no more of it, as `head`, has enough.
///
/// # Errors
/// When it cannot be written.
pub fn print(bytes: &[u8]) -> Result<(), Fault> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Fault::said(error)),
        _ => Ok(()),
    }
}

/// Rows under the names of their columns, each as wide as it has to be.
pub fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([names[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in std::iter::once(&names.map(str::to_owned)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.extend([line.trim_end(), "\n"]);
    }
    text
}

/// A value of an answer as a cell: nothing for what is absent, lists with commas.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => harmless(text),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A text that somebody else chose, without what a terminal would obey: control characters, those that turn the direction
/// of writing (Unicode Standard Annex 9), and those that end a line.
fn harmless(text: &str) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| !is_obeyed(*c)).collect()
}

/// The same in one line.
pub fn one_line(text: &str) -> String {
    harmless(&text.replace(['\n', '\r'], " "))
}

/// ANSI colours that can be read on light and dark ground.
#[derive(Clone, Copy)]
pub enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// The text in colour on a terminal, as it is elsewhere.
pub fn paint(colour: Colour, text: &str) -> String {
    let is_watched = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if is_watched { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_empty_lists_have_their_names() {
        let rows = [["ä".to_owned(), "1".to_owned()], ["long one".to_owned(), String::new()]];
        assert_eq!(table(["name", "n"], &rows), "name      n\nä         1\nlong one\n");
        assert_eq!(table(["name", "n"], &[]), "name  n\n");
    }

    #[test]
    fn what_others_chose_cannot_steer_the_terminal() {
        assert_eq!(cell(&json!("a\x1b[2Jb\nc")), "a[2Jbc");
        assert_eq!(cell(&json!("\u{202e}evil\u{2066}\u{2028}\u{200f}")), "evil");
        assert_eq!(cell(&json!(["a", "b"])), "a,b");
    }

    #[test]
    fn a_refusal_says_code_message_fields_and_request() {
        let body = json!({ "error": { "code": "REQ001", "message": "Invalid request", "details": { "fields": { "role": "must be user" } } },
                           "request_id": "r1" });
        let fault = Fault::Refused(body);
        assert_eq!(fault.to_string(), "REQ001: Invalid request; role must be user (request r1)");
        assert_eq!(fault.code(), "REQ001");
        let fault = fault.and("7 rows are done");
        assert_eq!(
            fault.to_string(),
            "REQ001: Invalid request; 7 rows are done; role must be user (request r1)"
        );
    }
}
