//! What was looked at, and what came of it.

use serde_json::{Value, json};

use crate::output::{Colour, Fault, Output, one_line, paint};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Warning,
    Fault,
    /// It could not be looked at.
    Skipped,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Check {
    pub status: Status,
    pub subject: &'static str,
    pub says: String,
    pub remedy: Option<String>,
}

impl Check {
    pub fn ok(subject: &'static str, says: impl Into<String>) -> Self {
        Check { status: Status::Ok, subject, says: says.into(), remedy: None }
    }

    pub fn warning(subject: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { status: Status::Warning, subject, says: says.into(), remedy: Some(remedy.into()) }
    }

    pub fn fault(subject: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check { status: Status::Fault, subject, says: says.into(), remedy: Some(remedy.into()) }
    }

    pub fn skipped(subject: &'static str, says: impl Into<String>) -> Self {
        Check { status: Status::Skipped, subject, says: says.into(), remedy: None }
    }

    fn line(&self) -> String {
        let (word, colour) = match self.status {
            Status::Ok => ("ok", Some(Colour::Green)),
            Status::Warning => ("warning", Some(Colour::Yellow)),
            Status::Fault => ("fault", Some(Colour::Red)),
            Status::Skipped => ("skipped", None),
        };
        let word = format!("{word:<8}");
        let word = colour.map_or(word.clone(), |colour| paint(colour, &word));
        let remedy = self.remedy.as_ref().map(|remedy| format!(" → {remedy}")).unwrap_or_default();
        // Whatever a server said, a check is one line.
        let text = format!("{:<17} {}{remedy}", self.subject, self.says);
        format!("{word} {}\n", one_line(&text))
    }

    fn described(&self) -> Value {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Fault => "fault",
            Status::Skipped => "skipped",
        };
        json!({ "status": status, "subject": self.subject, "message": self.says, "remedy": self.remedy })
    }
}

/// All checks, in the order in which they are shown.
#[derive(Default)]
pub struct Report(Vec<Check>);

impl Report {
    pub fn extend(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.0.extend(checks);
    }

    fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|check| check.status == status).count()
    }

    /// Whether there is a fault on a subject.
    pub fn has_fault(&self, subject: &str) -> bool {
        self.has(Status::Fault, subject)
    }

    /// Whether something on a subject is as it should be.
    pub fn has_ok(&self, subject: &str) -> bool {
        self.has(Status::Ok, subject)
    }

    fn has(&self, status: Status, subject: &str) -> bool {
        self.0.iter().any(|check| check.status == status && check.subject == subject)
    }

    pub fn has_findings(&self, strict: bool) -> bool {
        self.count(Status::Fault) > 0 || strict && self.count(Status::Warning) > 0
    }

    /// All of them, one a line.
    pub fn lines(&self) -> String {
        self.0.iter().map(Check::line).collect()
    }

    /// All of them as JSON.
    pub fn described(&self) -> Vec<Value> {
        self.0.iter().map(Check::described).collect()
    }

    /// Prints all of it with how many of each there are.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn show(&self, output: Output) -> Result<(), Fault> {
        let [ok, warnings, faults, skipped] =
            [Status::Ok, Status::Warning, Status::Fault, Status::Skipped].map(|status| self.count(status));
        let summary = json!({ "ok": ok, "warnings": warnings, "faults": faults, "skipped": skipped });
        output.show(&json!({ "checks": self.described(), "summary": summary }), |_| {
            format!("{}\n{ok} ok, {warnings} warnings, {faults} faults, {skipped} skipped\n", self.lines())
        })
    }
}

/// Names in a sentence: `a`, `a and b`, `a, b and c`.
pub fn names(names: &[impl AsRef<str>]) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_whatever_a_server_said() {
        let check = Check::fault("database", "refused:\nline\u{1b}\u{9b} two", "start it");
        assert_eq!(check.line(), "fault    database          refused: line two → start it\n");
    }

    #[test]
    fn warnings_are_findings_for_the_strict_alone() {
        let mut report = Report::default();
        report.extend([Check::ok("a", "fine"), Check::skipped("b", "no")]);
        assert!(!report.has_findings(true));
        report.extend([Check::warning("c", "hm", "look")]);
        assert!(report.has_findings(true) && !report.has_findings(false));
        report.extend([Check::fault("d", "bad", "mend")]);
        assert!(report.has_findings(false) && report.has_fault("d") && !report.has_fault("c"));
    }

    #[test]
    fn names_are_joined_as_in_a_sentence() {
        assert_eq!([names(&[""; 0]), names(&["a"]), names(&["a", "b", "c"])], ["", "a", "a, b and c"]);
    }
}
