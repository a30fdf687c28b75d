//! Whether the processes would start with their settings, and whether a setting is misspelt.

use std::collections::{BTreeMap, BTreeSet};

use chassis::settings::Origin;

use crate::deployment::{Member, Process};
use crate::report::{Check, names};

const SUBJECT: &str = "settings";

/// A fault that several processes have is one.
pub fn checks(members: &[Member]) -> Vec<Check> {
    let mut faults: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in members {
        for fault in &member.survey.faults {
            faults.entry(fault).or_default().push(member);
        }
    }
    let mut checks: Vec<Check> =
        members.iter().filter(|member| member.survey.faults.is_empty()).map(fine).collect();
    checks.extend(faults.iter().map(|(fault, of)| {
        let who: Vec<&str> = of.iter().map(|member| member.process.name()).collect();
        Check::fault(SUBJECT, format!("{}: {fault}", names(&who)), remedy(fault, of))
    }));
    checks.extend(misspelt(members));
    checks
}

fn fine(member: &Member) -> Check {
    let settings = &member.survey.settings;
    let given = settings.iter().filter(|setting| setting.origin != Origin::Default).count();
    Check::ok(SUBJECT, format!("{}: {} settings, {given} of them given", member.process, settings.len()))
}

/// By the first setting that the fault names.
fn remedy(fault: &str, members: &[&Member]) -> String {
    let words = || fault.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    if let Some(name) =
        words().find_map(|word| word.strip_suffix("_FILE")).filter(|_| fault.contains("_FILE: "))
    {
        return format!("let the process read that file, or correct {name}_FILE");
    }
    let setting = words().find_map(|word| members.iter().find_map(|member| member.survey.find(word)));
    match setting {
        None => "see docs/settings.md".to_owned(),
        Some(setting) if setting.default.contains("32 bytes") => {
            format!(
                "set {} to a secret of `persona keys secret`, the same in every process that has it",
                setting.name
            )
        }
        Some(setting) => format!("set {}: {} (default {})", setting.name, setting.meaning, setting.default),
    }
}

/// Variables that no process reads and that are nearly called like one that some process does.
fn misspelt(members: &[Member]) -> Vec<Check> {
    let every: Vec<_> = Process::ALL.into_iter().map(|process| process.survey_of_nothing()).collect();
    let known = every.iter().flat_map(|survey| survey.settings.iter().map(|setting| setting.name));
    let known: BTreeSet<String> = known.flat_map(|name| [name.to_owned(), format!("{name}_FILE")]).collect();
    let given: BTreeSet<&str> =
        members.iter().flat_map(|member| member.variables.keys().map(String::as_str)).collect();
    let unknown = given.into_iter().filter(|name| !known.contains(*name));
    let meant = unknown.filter_map(|name| Some((name, nearest(name, &known)?)));
    meant
        .map(|(name, meant)| {
            Check::warning(
                SUBJECT,
                format!("{name} is no setting and has no effect"),
                format!("call it {meant}"),
            )
        })
        .collect()
}

/// The known name that differs by so little that it must have been meant.
fn nearest<'k>(name: &str, known: &'k BTreeSet<String>) -> Option<&'k str> {
    let may_differ = if name.len() < 14 { 1 } else { 2 };
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), known.as_str()));
    distances.min().filter(|(distance, _)| *distance <= may_differ).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use crate::deployment::Member;

    use super::*;

    #[test]
    fn a_slip_in_the_name_of_a_file_is_found_too() {
        let found = |name: &str| {
            let variables = BTreeMap::from([(name.to_owned(), "/x".to_owned())]);
            misspelt(&[Member::of(Process::Edge, variables, Vec::new())])
                .into_iter()
                .next()
                .map(|check| check.remedy)
        };
        assert_eq!(found("JWT_SECRT_KEY_FILE"), Some(Some("call it JWT_SECRET_KEY_FILE".to_owned())));
        assert_eq!(found("JWT_SECRET_KEY_FIEL"), Some(Some("call it JWT_SECRET_KEY_FILE".to_owned())));
        assert_eq!(found("JWT_SECRET_KEY_FILE"), None);
        assert_eq!(found("PERSONA_TOKEN_FILE"), None);
    }

    #[test]
    fn a_slip_of_the_pen_is_found_and_another_name_is_not_taken_for_one() {
        let known = ["AUTH_DB_HOST", "AUTH_DB_PASSWORD", "EDGE_LISTEN", "EDGE_INTERNAL_LISTEN"];
        let known = BTreeSet::from(known.map(str::to_owned));
        assert_eq!(nearest("AUTH_DB_PASWORD", &known), Some("AUTH_DB_PASSWORD"));
        assert_eq!(nearest("EDGE_LISTNE", &known), Some("EDGE_LISTEN"));
        for other in ["EDGE", "EDGE_INTERNAL", "AUTH_DB_ROOT", "PATH", "EDGE_PORT"] {
            assert_eq!(nearest(other, &known), None, "{other}");
        }
    }
}
