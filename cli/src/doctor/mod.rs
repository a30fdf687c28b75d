//! `persona doctor`: what is wrong with a deployment, one line for each check, with the remedy in the same line. What
//! cannot be looked at because of something that is named already is said to be skipped, and is no finding.

mod certificates;
mod clocks;
mod database;
mod door;
mod files;
mod hearsay;
mod keys;
mod migrations;
mod others;
mod privileges;
mod processes;
mod settings;
mod shared;

use std::net::Ipv6Addr;
use std::process::ExitCode;

use chrono::Utc;

use crate::deployment::{Process, Source};
use crate::http::Http;
use crate::output::{Fault, Output};
use crate::report::Report;
use crate::{FINDING, Outcome};

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    source: Source,
    /// Where the listeners of a process are reached, if not on this machine
    #[arg(long = "at", value_name = "PROCESS=HOST")]
    hosts: Vec<Place>,
    /// Look at settings, files and certificates alone: connect to nothing
    #[arg(long)]
    offline: bool,
    /// Count warnings as findings
    #[arg(long)]
    strict: bool,
}

/// The host of a process.
#[derive(Clone, Debug)]
struct Place {
    process: Process,
    host: String,
}

impl std::str::FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (process, host) = Process::before(text).ok_or("must be such as edge=edge.example.com")?;
        let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
        Ok(Place { process, host })
    }
}

/// The keys whose tokens are good, as identity-svc tells them.
pub use keys::key_set as known_keys;

/// `persona doctor`
pub async fn run(options: &Options, output: Output) -> Outcome {
    let members = options.source.members()?;
    let mut report = Report::default();
    report.extend(settings::checks(&members));
    report.extend(files::checks(&members));
    report.extend(shared::checks(&members));
    report.extend(certificates::checks(&members, Utc::now()));
    if !options.offline {
        let http = Http::new(None).map_err(Fault::Said)?;
        let at = |process| {
            options.hosts.iter().find(|place| place.process == process).map(|place| place.host.as_str())
        };
        let (database, processes) =
            tokio::join!(database::look(&members), processes::look(&members, &http, at));
        report.extend(database.checks);
        let clocks = database.clocks.into_iter().chain(processes.clocks).collect();
        report.extend(processes.checks);
        report.extend(others::checks(&members).await);
        report.extend(keys::checks(&members, &processes.reached, &http).await);
        report.extend(clocks::checks(clocks));
        let hearsay = hearsay::checks(&processes.told, &report, &http).await;
        report.extend(hearsay);
    }
    report.show(output)?;
    Ok(if report.has_findings(options.strict) { ExitCode::from(FINDING) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_be_an_address_of_either_kind() {
        let host = |text: &str| text.parse::<Place>().map(|place| place.host);
        for (text, expected) in [
            ("edge=::1", "[::1]"),
            ("edge=[::1]", "[::1]"),
            ("edge=10.0.0.1", "10.0.0.1"),
            ("edge=a.b", "a.b"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected));
        }
        assert!(host("nobody=a").is_err());
    }
}
