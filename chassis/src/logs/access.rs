//! The line that a server writes of each request. An event of `tracing` costs several times what the rest of the line's
//! request does, and a general serializer twice what all of this does, so it is written here, field by field;
//! `LOG_LEVEL` holds for its target all the same.

use std::cell::RefCell;
use std::io::Write;
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use tracing::Level;

use super::Format;
use super::lines::Lines;

/// Where the lines go, once logging has started.
static OUTPUT: OnceLock<(Lines, Format)> = OnceLock::new();

pub(super) fn start(lines: Lines, format: Format) {
    // Logging starts once in a process.
    let _ = OUTPUT.set((lines, format));
}

/// Writes the line of a request that has been answered: `write` says its fields, in their order.
pub fn access(write: impl FnOnce(&mut Fields<'_>)) {
    thread_local! {
        static LINE: RefCell<(Vec<u8>, Clock)> = const { RefCell::new((Vec::new(), Clock::new())) };
    }
    let Some((lines, format)) = OUTPUT.get() else { return };
    if !tracing::enabled!(target: "access", Level::INFO) {
        return;
    }
    LINE.with_borrow_mut(|(line, clock)| {
        line.clear();
        compose(line, *format, |line| clock.write(Utc::now(), line), write);
        lines.write(line, false);
    });
}

/// The names of what every line has are those of the other lines.
fn compose(
    line: &mut Vec<u8>,
    format: Format,
    time: impl FnOnce(&mut Vec<u8>),
    write: impl FnOnce(&mut Fields<'_>),
) {
    match format {
        Format::Json => {
            line.extend_from_slice(br#"{"timestamp":""#);
            time(line);
            line.extend_from_slice(br#"","level":"INFO","message":"request""#);
            write(&mut Fields { line, format });
            line.extend_from_slice(b",\"target\":\"access\"}\n");
        }
        Format::Text => {
            time(line);
            line.extend_from_slice(b"  INFO access: request");
            write(&mut Fields { line, format });
            line.push(b'\n');
        }
    }
}

/// The fields of a line that is being written.
pub struct Fields<'a> {
    line: &'a mut Vec<u8>,
    format: Format,
}

impl Fields<'_> {
    /// A field of text, which stands in quotes in both formats, so that it cannot look like another field or line.
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        // Looking at all of it without a branch takes a fraction of stopping at the first.
        let is_special = |byte| !(0x20..0x7f).contains(&byte) | (byte == b'"') | (byte == b'\\');
        if !value.bytes().fold(false, |found, byte| found | is_special(byte)) {
            self.line.push(b'"');
            self.line.extend_from_slice(value.as_bytes());
            self.line.push(b'"');
        } else {
            quoted(self.line, value);
        }
    }

    /// A field of a whole number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A field of microseconds, written as milliseconds.
    pub fn millis(&mut self, name: &'static str, micros: u64) {
        self.number(name, micros / 1000);
        self.line.push(b'.');
        padded(self.line, micros % 1000, 3);
    }

    fn name(&mut self, name: &'static str) {
        let (before, after): (&[u8], &[u8]) = match self.format {
            Format::Json => (b",\"", b"\":"),
            Format::Text => (b" ", b"="),
        };
        self.line.extend_from_slice(before);
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(after);
    }
}

/// Text in quotes, without a character that a terminal could obey: those of C1 (U+009B begins a sequence) and the
/// delete character, too, which JSON would let stand.
fn quoted(line: &mut Vec<u8>, value: &str) {
    // Text can always be written as JSON, and to memory.
    for letter in serde_json::to_string(value).unwrap_or_default().chars() {
        let _ = if letter.is_control() {
            write!(line, "\\u{:04x}", u32::from(letter))
        } else {
            write!(line, "{letter}")
        };
    }
}

/// The last `width` digits of a number.
fn padded(line: &mut Vec<u8>, value: u64, width: u32) {
    line.extend((0..width).rev().map(|place| b'0' + (value / 10_u64.pow(place) % 10) as u8));
}

/// What the last time began with. All but its fraction changes once a second.
struct Clock {
    second: i64,
    /// `2026-01-01T00:00:00.`
    text: [u8; 20],
}

impl Clock {
    const fn new() -> Self {
        Clock { second: i64::MIN, text: [0; 20] }
    }

    /// RFC 3339 in UTC, with microseconds.
    fn write(&mut self, time: DateTime<Utc>, line: &mut Vec<u8>) {
        if self.second != time.timestamp() {
            self.second = time.timestamp();
            // A year of five digits is cut off; there is no clock that says it.
            let _ = write!(&mut self.text[..], "{}", time.format("%Y-%m-%dT%H:%M:%S."));
        }
        line.extend_from_slice(&self.text);
        padded(line, u64::from(time.timestamp_subsec_micros()), 6);
        line.push(b'Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(format: Format) -> String {
        let mut line = Vec::new();
        compose(
            &mut line,
            format,
            |line| line.extend_from_slice(b"now"),
            |fields| {
                fields.text("path", "/a\"\\\n\u{1b}[31mé\u{7f}\u{9b}31m");
                fields.text("plain", "/a-b");
                fields.number("status", 200);
                fields.millis("ms", 12_034);
            },
        );
        String::from_utf8(line).expect("text")
    }

    #[test]
    fn a_hostile_path_stays_within_its_field_and_line() {
        let json = composed(Format::Json);
        let expected = r#"{"timestamp":"now","level":"INFO","message":"request","#.to_owned()
            + "\"path\":\"/a\\\"\\\\\\n\\u001b[31mé\\u007f\\u009b31m\",\"plain\":\"/a-b\",\"status\":200,\"ms\":12.034,"
            + "\"target\":\"access\"}\n";
        assert_eq!(json, expected);
        let read: serde_json::Value = serde_json::from_str(&json).expect("an object");
        assert_eq!(read["path"], "/a\"\\\n\u{1b}[31mé\u{7f}\u{9b}31m");
        assert_eq!(read["ms"], 12.034);

        let text = composed(Format::Text);
        let expected = "now  INFO access: request path=\"/a\\\"\\\\\\n\\u001b[31mé\\u007f\\u009b31m\" plain=\"/a-b\" status=200 ms=12.034\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_time_is_written_as_any_other_line_writes_it() {
        let mut clock = Clock::new();
        // Within a second, over its end, back, and before the year 1970.
        for micros in [0, 1, 999_999, 1_000_000, 1_000_001, 7, 1_795_672_908_060_504, -1] {
            let time = DateTime::from_timestamp_micros(micros).expect("a time");
            let mut line = Vec::new();
            clock.write(time, &mut line);
            let expected = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            assert_eq!(String::from_utf8(line).expect("text"), expected);
        }
    }
}
