//! What processes say of each other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::database;
use super::processes::LIMIT;
use crate::deployment::Process;
use crate::http::Http;
use crate::report::{Check, Report};

/// How long processes may take to notice a change of what they depend on (docs/operations.md).
const HEALTH_LAG: Duration = Duration::from_secs(2);

/// What a process says of what it depends on.
pub struct Told {
    process: Process,
    /// Where it says so.
    url: String,
    dependencies: BTreeMap<String, String>,
}

impl Told {
    /// What the process says at this URL; nothing when it does not answer.
    pub async fn asked(process: Process, url: String, http: &Http) -> Option<Told> {
        let body = http.get(&url, LIMIT).await.ok()?.json();
        let state = |state: &serde_json::Value| state.as_str().unwrap_or_default().to_owned();
        let dependencies = body["dependencies"].as_object().into_iter().flatten();
        let dependencies = dependencies.map(|(name, value)| (name.clone(), state(value))).collect();
        Some(Told { process, url, dependencies })
    }
}

/// What processes say of each other, where this program found nothing wrong itself: then it is something between them.
/// Each knows of a change after a while alone, so that what one says is asked for once more.
pub async fn checks(told_before: &[Told], report: &Report, http: &Http) -> Vec<Check> {
    let mut checks = Vec::new();
    let suspects: Vec<&Told> = told_before.iter().filter(|told| !news(told, report).is_empty()).collect();
    if !suspects.is_empty() {
        tokio::time::sleep(HEALTH_LAG).await;
    }
    for Told { process, url, .. } in suspects {
        let Some(now) = Told::asked(*process, url.clone(), http).await else { continue };
        for name in news(&now, report) {
            let says = format!("says that it cannot use {name}, which answers from here");
            let remedy = format!("look at the log of {process}, and at what stands between the two");
            checks.push(Check::fault(process.name(), says, remedy));
        }
    }
    checks
}

/// What a process cannot use although nothing was found wrong with it from here.
fn news<'t>(told: &'t Told, report: &Report) -> Vec<&'t str> {
    let unwell =
        told.dependencies.iter().filter(|(_, state)| *state == "unhealthy").map(|(name, _)| name.as_str());
    unwell
        .filter(|name| match *name {
            // An edge knows of the database what identity-svc says.
            "mysql" => told.process != Process::Edge && !report.has_fault(database::SUBJECT),
            name => !report.has_fault(name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Process::{Edge, IdentitySvc};
    use super::*;

    #[test]
    fn what_another_says_is_news_only_when_nothing_was_found_from_here() {
        let told = |process, name: &str| Told {
            process,
            url: String::new(),
            dependencies: BTreeMap::from([(name.to_owned(), "unhealthy".to_owned())]),
        };
        let mut report = Report::default();
        let count = |report: &Report, told: Told| news(&told, report).len();
        assert_eq!(count(&report, told(Edge, "identity-svc")), 1);
        assert_eq!(count(&report, told(Edge, "mysql")), 0);
        assert_eq!(count(&report, told(IdentitySvc, "mysql")), 1);
        report.extend([Check::fault("identity-svc", "", ""), Check::fault("database", "", "")]);
        assert_eq!(count(&report, told(Edge, "identity-svc")), 0);
        assert_eq!(count(&report, told(IdentitySvc, "mysql")), 0);
    }
}
