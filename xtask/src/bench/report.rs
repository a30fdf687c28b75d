//! The figures, and which of the budgets hold.

use serde_json::{Value, json};

use super::Scenario;
use crate::terminal::{Colour, paint};

/// What a figure may be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Bound::AtMost(most) => format!("≤ {}", number(most)),
            Bound::AtLeast(least) => format!("≥ {}", number(least)),
        }
    }
}

/// A line of the table of budgets.
#[derive(Debug)]
pub struct Budget {
    pub name: &'static str,
    pub bound: Bound,
    /// What measures it.
    pub scenario: Scenario,
}

const fn budget(name: &'static str, bound: Bound, scenario: Scenario) -> Budget {
    Budget { name, bound, scenario }
}

use Bound::{AtLeast, AtMost};

pub const SEEN: &str = "CPU per proxied request ÷ HAProxy with JWT, tokens seen before";
pub const FIRST_SIGHT: &str = "CPU per proxied request ÷ HAProxy with JWT, tokens at first sight";
pub const PLAIN: &str = "CPU per proxied request ÷ nginx without any authentication";
pub const P99_8: &str = "p99 with 8 connections ÷ HAProxy with JWT";
pub const P99_64: &str = "p99 with 64 connections ÷ HAProxy with JWT";
pub const TWO_CORES: &str = "throughput of 2 cores ÷ 1 core (from CPU per request)";
pub const MILLION: &str = "CPU per request with 1,000,000 entries of live claims ÷ with none";
pub const DOWNLOAD: &str = "streaming 1 GiB to a client: MiB of memory above idle";
pub const UPLOAD: &str = "streaming 1 GiB from a client: MiB of memory above idle";
pub const LOGINS: &str = "login throughput ÷ the bare hash rate of the same library and core";
pub const STORM: &str = "p99 of proxied requests during a login storm ÷ without";
pub const FRAME: &str = "WebSocket: CPU per relayed frame ÷ HAProxy's blind tunnel";
pub const SOCKET: &str = "KiB of memory per idle socket, both legs";
pub const EDGE_MEMORY: &str = "resident memory of an idle edge, MiB";
pub const IDENTITY_MEMORY: &str = "resident memory of an idle identity-svc, MiB";
pub const SUBSCRIPTION_MEMORY: &str = "resident memory of an idle subscription-svc, MiB";
pub const EDGE_START: &str = "start of an edge to ready, ms";
pub const IDENTITY_START: &str = "start of an identity-svc to ready, database up, ms";
pub const SUBSCRIPTION_START: &str = "start of a subscription-svc to ready, database up, ms";
pub const VALIDATE: &str = "identity-svc: ValidateToken, requests a second and core";
pub const GET_USER: &str = "identity-svc: GetUser, requests a second and core";
pub const HOT_QUOTA: &str = "quota: reserve + commit a second, one hot user";
pub const WIDE_QUOTA: &str = "quota: reserve + commit a second, many users";
pub const RESERVE_STATEMENTS: &str = "quota: statements of a reserve";
pub const COMMIT_STATEMENTS: &str = "quota: statements of a commit";
pub const QUOTA_COMMITS: &str = "quota: transactions of a reserve or commit";
pub const FAN_OUT: &str = "fan-out: commit of a change until the last of 1,000 edges has it, p99, ms";
pub const FAN_OUT_TWO: &str = "fan-out: the same with two replicas of identity-svc";
pub const SOAK_FAILED: &str = "soak: requests and sockets that failed";
pub const SOAK_MEMORY: &str =
    "soak: memory of the last third ÷ the middle third, of the process that grew most";
pub const SOAK_P99: &str = "soak: p99 of the last minutes ÷ the first";
pub const COLD_DEBUG: &str = "cold debug build of everything, minutes";
pub const COLD_RELEASE: &str = "cold release build of everything, minutes";

/// All budgets, in the order of the table in `docs/performance.md`.
pub const BUDGETS: &[Budget] = &[
    budget(SEEN, AtMost(0.70), Scenario::Get),
    budget(FIRST_SIGHT, AtMost(0.85), Scenario::FirstSight),
    budget(PLAIN, AtMost(1.3), Scenario::Get),
    budget(P99_8, AtMost(1.0), Scenario::Get),
    budget(P99_64, AtMost(1.0), Scenario::Get),
    budget(TWO_CORES, AtLeast(1.8), Scenario::TwoThreads),
    budget(MILLION, AtMost(1.05), Scenario::LiveClaims),
    budget(DOWNLOAD, AtMost(2.0), Scenario::Streaming),
    budget(UPLOAD, AtMost(2.0), Scenario::Streaming),
    budget(LOGINS, AtLeast(0.95), Scenario::Login),
    budget(STORM, AtMost(2.0), Scenario::Login),
    budget(FRAME, AtMost(1.3), Scenario::WebSocket),
    budget(SOCKET, AtMost(12.0), Scenario::IdleSockets),
    budget(EDGE_MEMORY, AtMost(16.0), Scenario::Processes),
    budget(IDENTITY_MEMORY, AtMost(16.0), Scenario::Processes),
    budget(SUBSCRIPTION_MEMORY, AtMost(16.0), Scenario::Processes),
    budget(EDGE_START, AtMost(150.0), Scenario::Processes),
    budget(IDENTITY_START, AtMost(150.0), Scenario::Processes),
    budget(SUBSCRIPTION_START, AtMost(150.0), Scenario::Processes),
    budget(VALIDATE, AtLeast(15_000.0), Scenario::Grpc),
    budget(GET_USER, AtLeast(4_000.0), Scenario::Grpc),
    budget(HOT_QUOTA, AtLeast(300.0), Scenario::Quota),
    budget(WIDE_QUOTA, AtLeast(2_000.0), Scenario::Quota),
    budget(RESERVE_STATEMENTS, AtMost(2.0), Scenario::Quota),
    budget(COMMIT_STATEMENTS, AtMost(2.0), Scenario::Quota),
    budget(QUOTA_COMMITS, AtMost(1.0), Scenario::Quota),
    budget(FAN_OUT, AtMost(1000.0), Scenario::FanOut),
    budget(FAN_OUT_TWO, AtMost(1000.0), Scenario::FanOut),
    budget(SOAK_FAILED, AtMost(0.0), Scenario::Soak),
    budget(SOAK_MEMORY, AtMost(1.05), Scenario::Soak),
    budget(SOAK_P99, AtMost(1.5), Scenario::Soak),
    budget(COLD_DEBUG, AtMost(5.0), Scenario::ColdBuild),
    budget(COLD_RELEASE, AtMost(10.0), Scenario::ColdBuild),
];

/// What has been measured.
#[derive(Default)]
pub struct Report {
    figures: Vec<(String, f64)>,
    /// Scenarios that could not be measured, with the reason.
    pub failed: Vec<(Scenario, String)>,
}

impl Report {
    /// Notes a figure and shows it.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        println!("  {name}: {}", number(value));
        self.note(name, value);
    }

    /// Notes a figure that is shown otherwise.
    pub fn note(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The table of budgets for people.
    pub fn print_budgets(&self) {
        println!("\n{:<66} {:>9} {:>9}", "budget", "figure", "bound");
        for Budget { name, bound, scenario } in BUDGETS {
            let (figure, verdict) = match self.value(name) {
                Some(value) if bound.holds(value) => (number(value), paint(Colour::Green, "holds")),
                Some(value) => (number(value), paint(Colour::Red, "MISSED")),
                None if self.failed.iter().any(|(failed, _)| failed == scenario) => {
                    ("-".to_owned(), paint(Colour::Red, "could not be measured"))
                }
                None => ("-".to_owned(), format!("not measured (--only {})", word(*scenario))),
            };
            println!("{name:<66} {figure:>9} {:>9}  {verdict}", bound.text());
        }
    }

    /// Everything for machines.
    pub fn json(&self, facts: Value) -> Value {
        let budgets: Vec<_> = BUDGETS
            .iter()
            .map(|Budget { name, bound, .. }| {
                let value = self.value(name);
                let holds = value.map(|value| bound.holds(value));
                json!({ "name": name, "value": value, "budget": bound.text(), "holds": holds })
            })
            .collect();
        let figures: Vec<_> =
            self.figures.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let failed: Vec<_> = self
            .failed
            .iter()
            .map(|(scenario, why)| json!({ "scenario": word(*scenario), "why": why }))
            .collect();
        json!({ "budgets": budgets, "figures": figures, "failed": failed, "run": facts })
    }
}

/// A scenario as `--only` takes it.
pub fn word(scenario: Scenario) -> String {
    clap::ValueEnum::to_possible_value(&scenario)
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Three digits that count, or the whole number.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of some figures; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which so many percent of the figures lie; NaN of none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_on_the_right_side_of_its_bound_alone() {
        let mut report = Report::default();
        report.add(SEEN, 0.71);
        report.add(TWO_CORES, 1.8);
        let written = report.json(Value::Null);
        let line = |name| {
            let lines = written["budgets"].as_array().expect("lines");
            lines.iter().find(|line| line["name"] == name).cloned().expect("a line")
        };
        assert_eq!(line(SEEN)["holds"], false);
        assert_eq!(line(TWO_CORES)["holds"], true);
        assert_eq!((&line(SEEN)["budget"], &line(MILLION)["holds"]), (&json!("≤ 0.70"), &Value::Null));
    }

    #[test]
    fn the_middle_and_the_tail_of_figures_are_found_in_any_order() {
        let values = [9.0, 1.0, 5.0, 3.0, 7.0];
        assert_eq!((median(&values), percentile(&values, 99.0)), (5.0, 9.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn no_budget_stands_twice() {
        let mut names: Vec<_> = BUDGETS.iter().map(|budget| budget.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BUDGETS.len());
    }
}
