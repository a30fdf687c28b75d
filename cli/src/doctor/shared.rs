//! Whether the processes agree where they must, when their settings come from different places.

use std::collections::BTreeMap;

use chassis::settings::{Value, token_secrets};
use secrecy::{ExposeSecret, SecretString};

use crate::deployment::{Member, Process};
use crate::report::{Check, names};

const SUBJECT: &str = "agreement";

pub fn checks(members: &[Member]) -> Vec<Check> {
    if members.len() < 2 {
        return Vec::new();
    }
    let mut checks: Vec<Check> =
        ["INTERNAL_GRPC_TOKEN", "JWT_AUDIENCE", "AUTH_DB_HOST", "AUTH_DB_PORT", "AUTH_DB_NAME"]
            .into_iter()
            .filter_map(|name| disagreement(members, name))
            .collect();
    checks.extend(token_secrets_apart(members));
    let secrets = ["INTERNAL_GRPC_TOKEN", "JWT_"];
    if members.iter().any(|member| secrets.iter().any(|name| member.survey.is_faulty(name))) {
        checks.push(Check::skipped(SUBJECT, "of secrets: needs the settings that are named above"));
    } else if checks.is_empty() {
        let who: Vec<&str> = members.iter().map(|member| member.process.name()).collect();
        checks
            .push(Check::ok(SUBJECT, format!("{} have the same secrets, audience and schema", names(&who))));
    }
    checks
}

/// Those that have a setting, by its value.
fn disagreement(members: &[Member], name: &str) -> Option<Check> {
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for member in members.iter().filter(|member| !member.survey.is_faulty(name)) {
        let value = match &member.survey.find(name).map(|setting| &setting.value) {
            Some(Value::Plain(text)) => text.as_str(),
            Some(Value::Secret(secret)) => secret.expose_secret(),
            _ => continue,
        };
        holders.entry(value).or_default().push(member.process.name());
    }
    let groups: Vec<String> = holders.values().map(|who| names(who)).collect();
    (groups.len() > 1).then(|| {
        let says = format!("{} have different values of {name}", names(&groups));
        Check::fault(SUBJECT, says, format!("set {name} to the same in all of them"))
    })
}

/// An edge must accept what identity-svc signs; while the secret is being replaced it may do so as with a former one.
fn token_secrets_apart(members: &[Member]) -> Option<Check> {
    let of = |process| {
        let member = members.iter().find(|member| member.process == process);
        member.filter(|member| !member.survey.is_faulty("JWT_"))?.read(token_secrets).ok()
    };
    let (edge, identity) = (of(Process::Edge)?, of(Process::IdentitySvc)?);
    let signing = identity.first().map(SecretString::expose_secret)?;
    let is_accepted = edge.iter().any(|secret| secret.expose_secret() == signing);
    (!is_accepted).then(|| {
        Check::fault(
            SUBJECT,
            "the edge does not have the JWT_SECRET_KEY that identity-svc signs with, not even as a former one",
            "set JWT_SECRET_KEY to the same in both; to replace it without a refused token: `persona keys secret --rotation`",
        )
    })
}
