//! What is accepted, in `accepted.json` beside this file, and how far a count may be from it.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Counted;
use super::load::Work;
use crate::Outcome;
use crate::terminal::{Colour, paint};
use crate::workspace::root;

/// By how much a count may differ from what is accepted, in percent. What the edge does by the clock makes up to one, and
/// another processor's variants of `memcpy` and SHA-256 a few.
const TOLERANCE: f64 = 8.0;

/// Instructions by the names of the work.
pub struct Accepted(Map<String, Value>);

impl From<Counted> for Accepted {
    fn from(counted: Counted) -> Self {
        let pair = |(work, instructions): (Work, u64)| (work.name().to_owned(), instructions.into());
        Accepted(counted.into_iter().map(pair).collect())
    }
}

/// How a count stands to what is accepted.
#[derive(Debug, PartialEq)]
enum Verdict {
    Unknown,
    /// The difference in percent.
    Same(f64),
    More(f64),
    Less(f64),
}

impl Accepted {
    pub fn read() -> Outcome<Self> {
        let path = path();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let accepted = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Accepted(accepted))
    }

    pub fn write(&self) -> Outcome {
        let path = path();
        let text = format!("{:#}\n", Value::Object(self.0.clone()));
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("Accepted from now on: commit {}.", path.display());
        Ok(())
    }

    fn judge(&self, work: Work, instructions: u64) -> Verdict {
        let accepted = self.0.get(work.name()).and_then(Value::as_u64).filter(|accepted| *accepted > 0);
        let Some(accepted) = accepted else { return Verdict::Unknown };
        let percent = (instructions as f64 - accepted as f64) * 100.0 / accepted as f64;
        match percent {
            _ if percent > TOLERANCE => Verdict::More(percent),
            _ if percent < -TOLERANCE => Verdict::Less(percent),
            _ => Verdict::Same(percent),
        }
    }

    /// Prints the counts beside what is accepted.
    ///
    /// # Errors
    /// When one is too high, or was never accepted.
    pub fn compare(&self, counted: &Counted) -> Outcome {
        println!("{:<50} {:>9} {:>9} {:>10}", "instructions", "measured", "accepted", "difference");
        let (mut failed, mut gained) = (false, false);
        for (work, instructions) in counted {
            let accepted = self.0.get(work.name()).map_or("-".to_owned(), Value::to_string);
            let row = |difference: String| {
                format!("{:<50} {instructions:>9} {accepted:>9} {difference:>10}", work.title())
            };
            let row = match self.judge(*work, *instructions) {
                Verdict::Same(percent) => row(format!("{percent:+.1} %")),
                Verdict::Less(percent) => {
                    gained = true;
                    paint(Colour::Green, &row(format!("{percent:+.1} %")))
                }
                Verdict::More(percent) => {
                    failed = true;
                    paint(Colour::Red, &row(format!("{percent:+.1} %")))
                }
                Verdict::Unknown => {
                    failed = true;
                    paint(Colour::Red, &row("new".to_owned()))
                }
            };
            println!("{row}");
        }
        if gained {
            println!("\nLess than is accepted: `cargo xtask instructions --accept` keeps the gain.");
        }
        if failed {
            return Err(format!(
                "a request takes over {TOLERANCE} % more instructions than is accepted. Where they go: `cargo xtask \
                 instructions --profile`. If they are worth it: `cargo xtask instructions --accept`, and say in the \
                 commit what for"
            )
            .into());
        }
        Ok(())
    }
}

fn path() -> PathBuf {
    root().join("xtask/src/instructions/accepted.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> Accepted {
        Accepted::from(vec![(Work::Get, 10_000), (Work::Post, 20_000)])
    }

    #[test]
    fn a_request_may_not_take_eight_percent_more() {
        assert!(accepted().compare(&vec![(Work::Get, 10_800), (Work::Post, 20_000)]).is_ok());
        assert!(accepted().compare(&vec![(Work::Get, 10_801), (Work::Post, 20_000)]).is_err());
        assert!(accepted().compare(&vec![(Work::Get, 10_000), (Work::Post, 21_601)]).is_err());
    }

    #[test]
    fn a_gain_is_none_until_it_is_over_eight_percent() {
        assert!(matches!(accepted().judge(Work::Get, 9_200), Verdict::Same(_)));
        assert!(matches!(accepted().judge(Work::Get, 9_199), Verdict::Less(_)));
        assert!(accepted().compare(&vec![(Work::Get, 1)]).is_ok());
    }

    #[test]
    fn what_was_never_accepted_does_not_pass() {
        assert!(accepted().compare(&vec![(Work::Frame, 1)]).is_err());
        assert_eq!(accepted().judge(Work::Frame, 1), Verdict::Unknown);
    }

    #[test]
    fn every_kind_of_work_has_an_accepted_figure() {
        let accepted = Accepted::read().expect("the committed figures");
        for work in Work::ALL {
            assert_ne!(accepted.judge(work, 1), Verdict::Unknown, "{}", work.name());
        }
    }
}
