//! The line that a server writes of each request. An event of `tracing` would cost several times what the rest of the
//! line's request costs, so it is written here; `LOG_LEVEL` holds for its target all the same.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::OnceLock;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use tracing::Level;

use super::Format;
use super::lines::Lines;

/// Where the lines go, once logging has started.
static OUTPUT: OnceLock<(Lines, Format)> = OnceLock::new();

pub(super) fn start(lines: Lines, format: Format) {
    // Logging starts once in a process.
    let _ = OUTPUT.set((lines, format));
}

/// What every line has. Its names are those of the other lines.
#[derive(Serialize)]
struct Entry<'a, F> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: &'a F,
    target: &'static str,
}

/// Writes the line of a request that has been answered: a struct of plain fields, in the order of the line.
pub fn access(fields: &impl Serialize) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let Some((lines, format)) = OUTPUT.get() else { return };
    if !tracing::enabled!(target: "access", Level::INFO) {
        return;
    }
    let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let entry = Entry { timestamp, level: "INFO", message: "request", fields, target: "access" };
    LINE.with_borrow_mut(|line| {
        line.clear();
        // Plain fields can always be written.
        let _ = match format {
            Format::Json => serde_json::to_writer(&mut *line, &entry),
            Format::Text => serde_json::to_value(fields).map(|fields| text(line, &entry.timestamp, &fields)),
        };
        line.push(b'\n');
        lines.write(line, false);
    });
}

/// The line as people read it. Text stands in quotes, so that it cannot look like another field or line.
fn text(line: &mut Vec<u8>, timestamp: &str, fields: &Value) {
    let mut text = format!("{timestamp}  INFO access: request");
    for (name, value) in fields.as_object().into_iter().flatten() {
        // Writing to a string does not fail.
        let _ = write!(text, " {name}={value}");
    }
    line.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fields {
        path: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        ms: f64,
    }

    const FIELDS: Fields = Fields { path: "/a\"\n\u{1b}[31m", code: None, ms: 0.25 };

    #[test]
    fn a_hostile_path_stays_within_its_field_and_line() {
        let timestamp = "2026-01-01T00:00:00.000000Z".to_owned();
        let entry = Entry { timestamp, level: "INFO", message: "request", fields: &FIELDS, target: "access" };
        let json = serde_json::to_string(&entry).expect("a line");
        let expected = r#"{"timestamp":"2026-01-01T00:00:00.000000Z","level":"INFO","message":"request","#
            .to_owned()
            + r#""path":"/a\"\n\u001b[31m","ms":0.25,"target":"access"}"#;
        assert_eq!(json, expected);

        let mut line = Vec::new();
        text(&mut line, "now", &serde_json::to_value(FIELDS).expect("fields"));
        let expected = r#"now  INFO access: request ms=0.25 path="/a\"\n\u001b[31m""#;
        assert_eq!(String::from_utf8(line).expect("text"), expected);
    }
}
