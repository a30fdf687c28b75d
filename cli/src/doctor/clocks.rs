//! Whether clocks agree: tokens are refused as expired or not good yet where they do not.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use crate::report::{Check, names};

const SUBJECT: &str = "clocks";
/// Seconds beyond which tokens of one machine are not good yet on another.
const WARN: f64 = contract::token::LEEWAY_SECONDS as f64;
/// Seconds within which clocks must agree (docs/operations.md).
const MOST: f64 = 60.0;
/// Seconds by which clocks that are wrong together may differ.
const TOGETHER: f64 = 3.0;
const REMEDY: &str = "set it by NTP, as with chrony or systemd-timesyncd";

/// How far a clock is ahead of this machine's, in seconds.
pub struct Clock {
    pub of: String,
    pub ahead: f64,
}

impl Clock {
    /// From the `Date` header of an answer to what was asked at `asked` and took so long. It has whole seconds.
    pub fn of_answer(of: &str, date: &str, asked: SystemTime, took: Duration) -> Option<Clock> {
        let told = DateTime::parse_from_rfc2822(date).ok()?.to_utc();
        Some(Clock { of: of.to_owned(), ahead: seconds_between(asked + took / 2, told) + 0.5 })
    }

    /// From a time that was told at the middle of what was asked at `asked` and took so long.
    pub fn told(of: &str, told: DateTime<Utc>, asked: SystemTime, took: Duration) -> Clock {
        Clock { of: of.to_owned(), ahead: seconds_between(asked + took / 2, told) }
    }
}

fn seconds_between(from: SystemTime, to: DateTime<Utc>) -> f64 {
    (to - DateTime::<Utc>::from(from)).as_seconds_f64()
}

/// When all others agree, it is this machine's own clock that is wrong.
pub fn checks(clocks: Vec<Clock>) -> Vec<Check> {
    let wrong: Vec<&Clock> = clocks.iter().filter(|clock| clock.ahead.abs() > WARN).collect();
    let Some(first) = wrong.first() else { return fine(&clocks) };
    let agree = wrong.iter().all(|clock| (clock.ahead - first.ahead).abs() < TOGETHER);
    if clocks.len() > 1 && wrong.len() == clocks.len() && agree {
        return vec![finding("the clock of this machine", -first.ahead, "all others")];
    }
    wrong
        .iter()
        .map(|clock| finding(&format!("the clock of {}", clock.of), clock.ahead, "this machine's"))
        .collect()
}

fn fine(clocks: &[Clock]) -> Vec<Check> {
    if clocks.is_empty() {
        return vec![Check::skipped(SUBJECT, "nothing answers that has one")];
    }
    let mut who: Vec<&str> = clocks.iter().map(|clock| clock.of.as_str()).collect();
    who.dedup();
    who.push("this machine");
    vec![Check::ok(SUBJECT, format!("those of {} agree", names(&who)))]
}

fn finding(whose: &str, ahead: f64, of: &str) -> Check {
    let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
    let says = format!("{whose} is {:.0} s {direction} {of}", ahead.abs());
    if ahead.abs() > MOST {
        Check::fault(SUBJECT, says, REMEDY)
    } else {
        Check::warning(SUBJECT, says, REMEDY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    fn found(clocks: &[(&str, f64)]) -> Vec<(Status, String)> {
        let clocks = clocks.iter().map(|(of, ahead)| Clock { of: (*of).to_owned(), ahead: *ahead });
        checks(clocks.collect()).into_iter().map(|check| (check.status, check.says)).collect()
    }

    #[test]
    fn the_one_clock_that_is_wrong_is_named() {
        let one = found(&[("edge", 300.0), ("identity-svc", 0.4), ("mysql", -0.2)]);
        assert_eq!(one, [(Status::Fault, "the clock of edge is 300 s ahead of this machine's".to_owned())]);
        let own = found(&[("edge", 30.2), ("identity-svc", 29.4)]);
        assert_eq!(
            own,
            [(Status::Warning, "the clock of this machine is 30 s behind all others".to_owned())]
        );
        assert_eq!(found(&[("edge", -70.0)])[0].1, "the clock of edge is 70 s behind this machine's");
        assert_eq!(found(&[("edge", 4.0), ("mysql", -4.0)])[0].0, Status::Ok);
        assert_eq!(found(&[])[0].0, Status::Skipped);
    }

    #[test]
    fn a_date_is_compared_with_the_middle_of_the_question() {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = Clock::of_answer("x", "Fri, 15 Jan 2027 08:05:00 GMT", asked, Duration::from_secs(1));
        assert_eq!(clock.expect("a clock").ahead, 300.0);
        assert!(Clock::of_answer("x", "yesterday", asked, Duration::ZERO).is_none());
    }
}
