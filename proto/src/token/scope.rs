//! What a key may do of what its account may.

use serde::{Deserialize, Serialize};

use crate::{ANY_PERMISSION, Role};

/// Permissions, in the form of RFC 8693 section 4.2. What needs no permission every key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Scope(Vec<String>);

impl Scope {
    pub fn new(permissions: Vec<String>) -> Self {
        Scope(permissions)
    }

    /// What is left of an account's rights. Nobody acts as more than an ordinary user with a key that is not for
    /// everything.
    pub fn narrow(&self, role: Role, held: Vec<String>) -> (Role, Vec<String>) {
        if self.0.iter().any(|permission| permission == ANY_PERMISSION) {
            return (role, held);
        }
        let holds_any = held.iter().any(|permission| permission == ANY_PERMISSION);
        let left = self.0.iter().filter(|permission| holds_any || held.contains(permission));
        (Role::User, left.cloned().collect())
    }
}

impl From<String> for Scope {
    fn from(text: String) -> Self {
        Scope(text.split_ascii_whitespace().map(str::to_owned).collect())
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(scope: &str, role: Role, held: &[&str]) -> (Role, Vec<String>) {
        Scope::from(scope.to_owned()).narrow(role, held.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn a_key_holds_what_both_it_and_its_account_hold() {
        let held = ["personas.create", "projects.manage"];
        for (scope, role, held, left_role, left) in [
            ("", Role::User, &held[..], Role::User, &[][..]),
            ("projects.manage admin.users", Role::User, &held, Role::User, &["projects.manage"]),
            ("*", Role::Moderator, &held, Role::Moderator, &held),
            ("*", Role::Admin, &["*"], Role::Admin, &["*"]),
            ("projects.manage", Role::Admin, &["*"], Role::User, &["projects.manage"]),
            ("", Role::Admin, &["*"], Role::User, &[]),
        ] {
            let left = left.iter().map(|&name: &&str| name.to_owned()).collect();
            assert_eq!(narrowed(scope, role, held), (left_role, left), "{scope:?} of {role} with {held:?}");
        }
    }

    #[test]
    fn a_scope_is_written_as_one_text_and_read_back() {
        let scope = Scope::new(vec!["personas.create".to_owned(), "*".to_owned()]);
        let written = serde_json::to_string(&scope).expect("written");
        assert_eq!(written, r#""personas.create *""#);
        assert_eq!(serde_json::from_str::<Scope>(&written).expect("read"), scope);
    }
}
