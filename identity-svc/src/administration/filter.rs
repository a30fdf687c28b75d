//! Which accounts a list or an export has.

use std::fmt::Display;
use std::str::FromStr;

use contract::identity::UserFilter;
use contract::{Failure, Role, Tier};
use sqlx::{MySql, QueryBuilder};
use unicode_normalization::UnicodeNormalization;

use crate::sign_in::is_client_id;

/// The longest part of an address that is looked for, in bytes.
const MAX_EMAIL: usize = 255;

/// Which accounts.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    email: Option<String>,
    client_id: Option<String>,
    role: Option<Role>,
    tier: Option<Tier>,
    is_active: Option<bool>,
}

impl Filter {
    /// Reads a filter; what is wrong with it is added to `failure`.
    pub fn parse(given: UserFilter, failure: &mut Failure) -> Filter {
        // As addresses are stored: see `Email`.
        let email =
            given.email.map(|part| part.trim().nfc().collect::<String>().to_lowercase().nfc().collect());
        let filter = Filter {
            email,
            client_id: given.client_id,
            role: named("role", given.role.as_deref(), failure),
            tier: named("tier", given.tier.as_deref(), failure),
            is_active: given.is_active,
        };
        if filter.email.as_ref().is_some_and(|part| part.is_empty() || part.len() > MAX_EMAIL) {
            failure.add_field("email", format!("must have 1 to {MAX_EMAIL} bytes"));
        }
        if filter.client_id.as_deref().is_some_and(|client_id| !is_client_id(client_id)) {
            failure
                .add_field("client_id", "must have 1 to 100 letters, digits, dots, hyphens or underscores");
        }
        filter
    }

    /// Adds the conditions to a statement that has a `WHERE` already.
    pub fn restrict(&self, statement: &mut QueryBuilder<MySql>) {
        if let Some(part) = &self.email {
            // Not the backslash: whether it escapes depends on the server's mode.
            let escaped = part.replace('!', "!!").replace('%', "!%").replace('_', "!_");
            statement.push(" AND users.email LIKE ").push_bind(format!("%{escaped}%")).push(" ESCAPE '!'");
        }
        if let Some(client_id) = &self.client_id {
            statement.push(" AND users.client_id = ").push_bind(client_id.clone());
        }
        if let Some(role) = self.role {
            statement.push(" AND users.role = ").push_bind(role.name());
        }
        if let Some(tier) = self.tier {
            statement.push(" AND users.subscription_tier = ").push_bind(tier.name());
        }
        if let Some(is_active) = self.is_active {
            statement.push(" AND users.is_active = ").push_bind(is_active);
        }
    }
}

/// A name that the contract knows, if there is one; what is wrong with it is added to `failure`.
pub fn named<T: FromStr<Err: Display>>(
    field: &'static str,
    text: Option<&str>,
    failure: &mut Failure,
) -> Option<T> {
    let parsed = text?.parse();
    parsed.inspect_err(|fault| failure.add_field(field, fault)).ok()
}
