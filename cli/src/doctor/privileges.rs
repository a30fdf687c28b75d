//! Whether the database users of the services may do what deploy/database/grants.sql gives them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::MySqlConnection;

use crate::deployment::Process;
use crate::report::{Check, Status};

const SUBJECT: &str = "privileges";
const GRANTS: &str = include_str!("../../../deploy/database/grants.sql");
/// All tables, in grants.
const EVERYWHERE: &str = "*";

/// What the user of a service lacks: privileges by table.
pub struct State {
    process: Process,
    lacks: BTreeMap<String, BTreeSet<String>>,
    has_role: bool,
}

impl State {
    /// # Errors
    /// When the database cannot be asked.
    pub async fn of(
        process: Process,
        connection: &mut MySqlConnection,
    ) -> Result<Option<State>, sqlx::Error> {
        let Some(user) = process.database_user() else { return Ok(None) };
        let held = held(connection).await?;
        let role: Option<String> = sqlx::query_scalar("SELECT CURRENT_ROLE()").fetch_one(connection).await?;
        let has_role = role.is_some_and(|role| role != "NONE");
        Ok(Some(State { process, lacks: lacks(&needed(GRANTS, user), &held), has_role }))
    }
}

/// Privileges by table.
type Privileges = BTreeMap<String, BTreeSet<String>>;

/// What the grants give a user.
fn needed(grants: &str, user: &str) -> Privileges {
    let of_user = format!("'{user}'@");
    let mut needed = Privileges::new();
    for line in grants.lines().filter(|line| line.contains(&of_user)) {
        let parts =
            line.strip_prefix("GRANT ").and_then(|line| line.split_once(" TO ")?.0.split_once(" ON "));
        if let Some((privileges, table)) = parts {
            let privileges = privileges.split(',').map(|privilege| privilege.trim().to_owned());
            needed.entry(table.trim().to_owned()).or_default().extend(privileges);
        }
    }
    needed
}

/// What the user of a connection holds in its schema, directly.
async fn held(connection: &mut MySqlConnection) -> Result<Privileges, sqlx::Error> {
    let user: String = sqlx::query_scalar("SELECT CURRENT_USER()").fetch_one(&mut *connection).await?;
    let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
    let grantee = format!("'{name}'@'{host}'");
    let schema: String = sqlx::query_scalar("SELECT DATABASE()").fetch_one(&mut *connection).await?;
    let mut held = Privileges::new();
    // MySQL has some of these columns as bytes.
    let everywhere: Vec<String> = sqlx::query_scalar(
        "SELECT CAST(privilege_type AS CHAR) FROM information_schema.user_privileges WHERE grantee = ?",
    )
    .bind(&grantee)
    .fetch_all(&mut *connection)
    .await?;
    held.entry(EVERYWHERE.to_owned()).or_default().extend(everywhere);
    let of_schemas: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_schema AS CHAR), CAST(privilege_type AS CHAR)
         FROM information_schema.schema_privileges WHERE grantee = ?",
    )
    .bind(&grantee)
    .fetch_all(&mut *connection)
    .await?;
    let of_schema = of_schemas.into_iter().filter(|(pattern, _)| is_meant(pattern, &schema));
    held.entry(EVERYWHERE.to_owned()).or_default().extend(of_schema.map(|(_, privilege)| privilege));
    let of_tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS CHAR), CAST(privilege_type AS CHAR)
         FROM information_schema.table_privileges WHERE grantee = ? AND table_schema = ?",
    )
    .bind(&grantee)
    .bind(&schema)
    .fetch_all(&mut *connection)
    .await?;
    for (table, privilege) in of_tables {
        held.entry(table).or_default().insert(privilege);
    }
    Ok(held)
}

/// Whether the schema of a grant, which may end in a wildcard, is the schema.
fn is_meant(pattern: &str, schema: &str) -> bool {
    let pattern = pattern.replace("\\_", "_");
    match pattern.split_once('%') {
        Some((begin, _)) => schema.starts_with(begin),
        None => pattern == schema,
    }
}

fn lacks(needed: &Privileges, held: &Privileges) -> Privileges {
    let has = |table: &str, privilege: &String| held.get(table).is_some_and(|held| held.contains(privilege));
    let mut lacks = Privileges::new();
    for (table, privileges) in needed {
        let missing =
            privileges.iter().filter(|privilege| !has(EVERYWHERE, privilege) && !has(table, privilege));
        let missing: BTreeSet<String> = missing.cloned().collect();
        if !missing.is_empty() {
            lacks.insert(table.clone(), missing);
        }
    }
    lacks
}

/// All services in one line.
pub fn check(states: &[State]) -> Option<Check> {
    let lacking: Vec<&State> = states.iter().filter(|state| !state.lacks.is_empty()).collect();
    let (status, says, remedy) = if states.is_empty() {
        return None;
    } else if lacking.is_empty() {
        (Status::Ok, "the database users hold what the services need".to_owned(), None)
    } else if lacking.iter().all(|state| state.has_role) {
        (Status::Skipped, "held through roles, which are not looked into".to_owned(), None)
    } else {
        let says = lacking.iter().map(|state| told(state)).collect::<Vec<_>>().join("; ");
        let remedy =
            "run deploy/database/grants.sql in the schema as an administrator of the database".to_owned();
        (Status::Fault, says, Some(remedy))
    };
    Some(Check { status, subject: SUBJECT, says, remedy })
}

fn told(state: &State) -> String {
    let tables = state.lacks.len();
    let first = state.lacks.iter().next().map(|(table, privileges)| {
        let privileges: Vec<&str> = privileges.iter().map(String::as_str).collect();
        format!("{} on {table}", privileges.join(", "))
    });
    let more = if tables > 1 { format!(" and on {} more tables", tables - 1) } else { String::new() };
    format!("the user of {} lacks {}{more}", state.process, first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_services_need_stands_in_the_grants() {
        let identity = needed(GRANTS, "identity_svc");
        assert!(identity["sessions"].contains("DELETE") && !identity.contains_key("tiers"), "{identity:?}");
        let subscription = needed(GRANTS, "subscription_svc");
        assert_eq!(subscription["*"], BTreeSet::from(["REFERENCES".to_owned()]));
    }

    #[test]
    fn a_privilege_is_held_on_the_table_or_everywhere() {
        let privileges = |pairs: &[(&str, &[&str])]| -> Privileges {
            let pairs = pairs.iter();
            pairs
                .map(|(table, names)| {
                    ((*table).to_owned(), names.iter().map(|&name| name.to_owned()).collect())
                })
                .collect()
        };
        let needed = privileges(&[("a", &["SELECT", "DELETE"]), ("*", &["REFERENCES"])]);
        let held = privileges(&[("a", &["DELETE"]), ("b", &["SELECT"]), ("*", &["REFERENCES"])]);
        assert_eq!(lacks(&needed, &held), privileges(&[("a", &["SELECT"])]));
        assert_eq!(
            lacks(&needed, &privileges(&[("*", &["SELECT", "DELETE", "REFERENCES"])])),
            Privileges::new()
        );
    }

    #[test]
    fn the_schema_of_a_grant_may_be_a_pattern() {
        assert!(
            is_meant("auth\\_db", "auth_db")
                && is_meant("auth_db", "auth_db")
                && is_meant("auth%", "auth_db")
        );
        assert!(!is_meant("other", "auth_db"));
    }
}
