//! How results and faults are shown: text for people, or one JSON value on stdout and errors as JSON on stderr.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

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
    /// By the platform: the body of its answer, in the one shape that errors have.
    Refused(Value),
}

impl Fault {
    pub fn said(what: impl Display) -> Self {
        Fault::Said(what.to_string())
    }

    /// The code of the error table, if the platform refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Fault::Refused(body) => body["error"]["code"].as_str(),
            _ => None,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match self {
            Fault::Usage(what) | Fault::Said(what) => return f.write_str(what),
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
    /// Prints a result: `value` as JSON, or what `text` makes of it. Whoever takes no more of it, as `head`, has enough.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn show(self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Fault> {
        let shown = match self {
            Output::Json => format!("{value:#}\n"),
            Output::Text => text(value),
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(shown.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Fault::said(error)),
            _ => Ok(()),
        }
    }

    /// Says on stderr why a command failed, and how the program ends.
    pub fn fail(self, fault: &Fault) -> ExitCode {
        let body = match fault {
            Fault::Refused(body) => body.clone(),
            fault => json!({ "error": { "message": fault.to_string() } }),
        };
        match self {
            Output::Json => eprintln!("{body}"),
            Output::Text => eprintln!("persona: {}", one_line(&fault.to_string())),
        }
        match fault {
            Fault::Usage(_) => ExitCode::from(2),
            _ => ExitCode::from(FINDING),
        }
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

/// A text that somebody else chose, without what a terminal would obey.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
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
        assert_eq!(cell(&json!(["a", "b"])), "a,b");
    }

    #[test]
    fn a_refusal_says_code_message_fields_and_request() {
        let body = json!({ "error": { "code": "REQ001", "message": "Invalid request", "details": { "fields": { "role": "must be user" } } },
                           "request_id": "r1" });
        let fault = Fault::Refused(body);
        assert_eq!(fault.to_string(), "REQ001: Invalid request; role must be user (request r1)");
        assert_eq!(fault.code(), Some("REQ001"));
    }
}
