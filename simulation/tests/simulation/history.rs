//! What happened in one run, and what of it should not have.

use std::time::Duration;

/// Lines with their times.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct History {
    pub lines: Vec<String>,
    /// Broken promises.
    pub faults: Vec<String>,
}

impl History {
    pub fn note(&mut self, at: Duration, what: impl AsRef<str>) {
        self.lines.push(format!("{:>7} ms  {}", at.as_millis(), what.as_ref()));
    }

    pub fn fault(&mut self, at: Duration, what: impl AsRef<str>) {
        self.note(at, format!("BROKEN {}", what.as_ref()));
        self.faults.push(what.as_ref().to_owned());
    }
}
