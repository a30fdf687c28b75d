//! Whether the tables are as far as this program knows them.

use std::collections::BTreeMap;

use chassis::mysql::server_code;
use sqlx::{AssertSqlSafe, MySqlConnection};

use crate::deployment::Process;
use crate::report::{Check, Status};

const SUBJECT: &str = "tables";
/// There is no such table.
const NO_TABLE: u16 = 1146;
/// The user may not read it.
const DENIED: u16 = 1142;

/// A migration in the service's table of them: its version, its checksum, and whether it came to its end.
type Row = (i64, Vec<u8>, bool);

/// How far the tables of a service are.
pub struct State {
    process: Process,
    /// None when its user may not look.
    progress: Option<Progress>,
}

#[derive(Clone)]
struct Progress {
    known: usize,
    applied: usize,
    /// One that broke off in the middle.
    broken: Option<i64>,
    /// One that is another than the one which this program knows.
    other: Option<i64>,
    /// Those that this program does not know.
    newer: usize,
}

impl State {
    /// # Errors
    /// When the database cannot be asked.
    pub async fn of(
        process: Process,
        connection: &mut MySqlConnection,
    ) -> Result<Option<State>, sqlx::Error> {
        let (migrator, bookkeeping) = match process {
            Process::Edge => return Ok(None),
            Process::IdentitySvc => identity_svc::migrations(),
            Process::SubscriptionSvc => subscription_svc::migrations(),
        };
        let known =
            migrator.iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect();
        let question = format!("SELECT version, checksum, success FROM {bookkeeping}");
        let rows: Vec<Row> = match sqlx::query_as(AssertSqlSafe(question)).fetch_all(connection).await {
            Err(error) if server_code(&error) == Some(NO_TABLE) => Vec::new(),
            Err(error) if server_code(&error) == Some(DENIED) => {
                return Ok(Some(State { process, progress: None }));
            }
            rows => rows?,
        };
        Ok(Some(State { process, progress: Some(Progress::compared(&known, &rows)) }))
    }

    fn check(&self) -> Check {
        let State { process, progress } = self;
        match progress {
            Some(progress) => progress.check(*process),
            None => {
                Check::skipped(SUBJECT, format!("{process}: not known, its user may not read its migrations"))
            }
        }
    }
}

impl Progress {
    fn compared(known: &BTreeMap<i64, Vec<u8>>, rows: &[Row]) -> Progress {
        let find = |is_meant: &dyn Fn(&Row) -> bool| {
            rows.iter().find(|row| is_meant(row)).map(|(version, ..)| *version)
        };
        Progress {
            known: known.len(),
            applied: rows
                .iter()
                .filter(|(version, _, success)| *success && known.contains_key(version))
                .count(),
            broken: find(&|(version, _, success)| !success && known.contains_key(version)),
            other: find(&|(version, checksum, _)| known.get(version).is_some_and(|known| known != checksum)),
            newer: rows.iter().filter(|(version, ..)| !known.contains_key(version)).count(),
        }
    }

    fn check(&self, process: Process) -> Check {
        let Progress { known, applied, newer, .. } = self;
        let fault =
            |what: String, remedy: String| Check::fault(SUBJECT, format!("{process}: {what}"), remedy);
        if let Some(version) = self.broken {
            let remedy = format!(
                "run `{process} migrate`, which begins it again; its log says what stands in the way"
            );
            return fault(format!("migration {version} broke off"), remedy);
        }
        if let Some(version) = self.other {
            let remedy = "use a `persona` of the version of the services".to_owned();
            return fault(format!("migration {version} is another than this program knows"), remedy);
        }
        if applied < known {
            let remedy = format!("run `{process} migrate`");
            return fault(format!("{applied} of {known} migrations applied"), remedy);
        }
        if *newer > 0 {
            let says = format!("{process}: {newer} migrations that this program does not know");
            return Check::warning(SUBJECT, says, "use a `persona` of the version of the services");
        }
        Check::ok(SUBJECT, format!("{process}: all {known} migrations applied"))
    }
}

/// All services in one line: what one of them lacks the other mostly lacks, too.
pub fn check(states: &[State]) -> Option<Check> {
    let checks: Vec<Check> = states.iter().map(State::check).collect();
    let is_there = |status: &Status| checks.iter().any(|check| check.status == *status);
    let worst = [Status::Fault, Status::Warning, Status::Skipped, Status::Ok].into_iter().find(is_there)?;
    let of_worst = || checks.iter().filter(|check| check.status == worst);
    let says: Vec<&str> = of_worst().map(|check| check.says.as_str()).collect();
    let mut remedies: Vec<&str> = of_worst().filter_map(|check| check.remedy.as_deref()).collect();
    remedies.dedup();
    let remedy = (!remedies.is_empty()).then(|| remedies.join(", then "));
    Some(Check { status: worst, subject: SUBJECT, says: says.join("; "), remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose checksum is a byte.
    type Brief = (i64, u8, bool);

    fn state(rows: &[Brief]) -> State {
        let known = BTreeMap::from([(1, vec![1]), (2, vec![2])]);
        let rows: Vec<_> =
            rows.iter().map(|(version, sum, success)| (*version, vec![*sum], *success)).collect();
        State { process: Process::IdentitySvc, progress: Some(Progress::compared(&known, &rows)) }
    }

    fn said(state: State) -> (Status, String) {
        let check = check(&[state]).expect("a check");
        (check.status, check.says)
    }

    #[test]
    fn tables_that_are_behind_broken_foreign_or_ahead_are_told_apart() {
        let cases: [(&[Brief], Status, &str); 7] = [
            (&[], Status::Fault, "0 of 2 migrations"),
            (&[(1, 1, true)], Status::Fault, "1 of 2 migrations"),
            (&[(1, 1, true), (2, 2, false)], Status::Fault, "migration 2 broke off"),
            (&[(1, 9, true), (2, 2, true)], Status::Fault, "migration 1 is another"),
            (&[(1, 1, true), (2, 2, true), (3, 3, false)], Status::Warning, "1 migrations that"),
            (&[(1, 1, true), (2, 2, true), (3, 3, true)], Status::Warning, "1 migrations that"),
            (&[(1, 1, true), (2, 2, true)], Status::Ok, "all 2"),
        ];
        for (rows, status, says) in cases {
            let (got, said) = said(state(rows));
            assert!(got == status && said.contains(says), "{rows:?}: {said}");
        }
    }

    #[test]
    fn two_services_without_tables_are_one_line_with_both_remedies() {
        let other = State { process: Process::SubscriptionSvc, ..state(&[]) };
        let check = check(&[state(&[]), other]).expect("a check");
        assert_eq!(
            check.remedy.as_deref(),
            Some("run `identity-svc migrate`, then run `subscription-svc migrate`")
        );
    }
}
