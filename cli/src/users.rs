//! `persona user`: accounts, over the routes of administrators.

use std::io::Read;
use std::process::ExitCode;

use contract::{ErrorCode, Role, Tier};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::Outcome;
use crate::import::one_row;
use crate::output::{Fault, Output, cell, table};
use crate::rest::{Rest, part, query};

pub const USERS: &str = "/api/v1/admin/users";
/// The most that the platform gives at once.
const PAGE_SIZE: usize = 100;

#[derive(clap::Subcommand)]
pub enum Command {
    /// List accounts, newest first, all pages of them
    List {
        #[command(flatten)]
        filters: Filters,
        /// Most accounts that are listed
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Look at an account
    Show {
        /// Its e-mail address or id
        user: String,
    },
    /// Make an account, without a session; an address that is taken is refused
    Create {
        email: String,
        #[arg(long)]
        client_id: String,
        #[arg(long)]
        role: Option<Role>,
        #[arg(long)]
        tier: Option<Tier>,
        /// Take the password from stdin; without one, the account gets one by the mail of a reset
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give an account another role
    SetRole { user: String, role: Role },
    /// Put an account on another tier
    SetTier { user: String, tier: Tier },
    /// Shut an account out; its tokens and sockets end within a second
    Suspend { user: String },
    /// Let a suspended account in again
    Activate { user: String },
    /// Delete an account with all that is its own
    Delete {
        user: String,
        /// That it is meant
        #[arg(long)]
        yes: bool,
    },
}

/// What accounts are narrowed by.
#[derive(clap::Args)]
pub struct Filters {
    /// A part of the e-mail address
    #[arg(long)]
    search: Option<String>,
    #[arg(long)]
    client_id: Option<String>,
    #[arg(long)]
    role: Option<Role>,
    #[arg(long)]
    tier: Option<Tier>,
    /// `true` or `false`
    #[arg(long)]
    active: Option<bool>,
}

impl Filters {
    /// Each under the name that the platform has for it, with its value if it is given.
    pub fn parameters(&self) -> [(&'static str, Option<Value>); 5] {
        [
            ("email", self.search.as_deref().map(Value::from)),
            ("client_id", self.client_id.as_deref().map(Value::from)),
            ("role", self.role.map(|role| role.name().into())),
            ("tier", self.tier.map(|tier| tier.name().into())),
            ("is_active", self.active.map(Value::from)),
        ]
    }
}

/// `persona user …`
pub async fn run(command: &Command, output: Output) -> Outcome {
    let rest = Rest::from_environment()?;
    let update = async |user: &str, change: Value| {
        let changed = rest.put(&format!("{USERS}/{}", find(&rest, user).await?), &change).await?;
        part(&changed, "id")?;
        output.show(&changed, details)
    };
    match command {
        Command::List { filters, limit } => {
            let filters = filters.parameters().map(|(name, value)| (name, value.as_ref().map(cell)));
            let users = list(&rest, &filters, *limit).await?;
            output.show(&Value::Array(users), lines)?;
        }
        Command::Show { user } => {
            let shown = rest.get(&format!("{USERS}/{}", find(&rest, user).await?)).await?;
            part(&shown, "user")?;
            output.show(&shown, |shown| details(&shown["user"]) + &details(&shown["stats"]))?;
        }
        Command::Create { email, client_id, role, tier, password_stdin } => {
            let password = if *password_stdin { Some(password()?) } else { None };
            create(&rest, email, client_id, password.as_ref()).await?;
            let change = json!({ "role": role, "subscription_tier": tier });
            if role.is_some() || tier.is_some() {
                update(email, change).await?;
            } else {
                let made = rest.get(&format!("{USERS}/{}", find(&rest, email).await?)).await?;
                output.show(part(&made, "user")?, details)?;
            }
        }
        Command::SetRole { user, role } => update(user, json!({ "role": role })).await?,
        Command::SetTier { user, tier } => update(user, json!({ "subscription_tier": tier })).await?,
        Command::Suspend { user } => update(user, json!({ "is_active": false })).await?,
        Command::Activate { user } => update(user, json!({ "is_active": true })).await?,
        Command::Delete { user, yes } => {
            if !yes {
                return Err(Fault::Usage(format!("to delete {user} with all that is its own, say --yes")));
            }
            let id = find(&rest, user).await?;
            rest.delete(&format!("{USERS}/{id}")).await?;
            output.show(&json!({ "id": id, "deleted": true }), |_| format!("{user} is deleted\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows the pages. They shift while somebody registers: whoever was seen is not seen twice.
async fn list(
    rest: &Rest,
    filters: &[(&str, Option<String>)],
    limit: Option<usize>,
) -> Result<Vec<Value>, Fault> {
    let limit = limit.unwrap_or(usize::MAX);
    let (mut users, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for page in 1.. {
        if users.len() >= limit {
            break;
        }
        let mut parameters = filters.to_vec();
        parameters.extend([("page", Some(page.to_string())), ("page_size", Some(PAGE_SIZE.to_string()))]);
        let answer = rest.get(&format!("{USERS}{}", query(&parameters))).await?;
        let found = part(&answer, "users")?.as_array().cloned().unwrap_or_default();
        let is_last = answer["total_pages"].as_u64().unwrap_or_default() <= page;
        users.extend(found.into_iter().filter(|user| seen.insert(user["id"].to_string())));
        if is_last {
            break;
        }
    }
    users.truncate(limit);
    Ok(users)
}

/// The id of an account that is named by it or by its e-mail address.
///
/// # Errors
/// When there is no such account, or it cannot be looked for.
pub async fn find(rest: &Rest, user: &str) -> Result<String, Fault> {
    if !user.contains('@') {
        return canonical(user).map(str::to_owned);
    }
    let wanted = user.trim().to_lowercase();
    let users = list(rest, &[("email", Some(wanted.clone()))], None).await?;
    let found = users.iter().find(|user| user["email"] == wanted.as_str());
    let id = found.and_then(|user| user["id"].as_str()).map(str::to_owned);
    id.ok_or_else(|| Fault::refused(ErrorCode::UserNotFound, format!("there is no account {wanted}")))
}

/// An id in the one form that it has. What is none is not printed: it may be a key that was meant to be kept.
///
/// # Errors
/// When it is none.
pub fn canonical(id: &str) -> Result<&str, Fault> {
    if contract::is_canonical_id(id) {
        Ok(id)
    } else {
        Err(Fault::Usage(format!("the id {}", contract::NOT_AN_ID)))
    }
}

/// By an import of one row: a registration would open a session and tell its tokens.
async fn create(
    rest: &Rest,
    email: &str,
    client_id: &str,
    password: Option<&SecretString>,
) -> Result<(), Fault> {
    let password = password.map(ExposeSecret::expose_secret);
    let result = one_row(rest, client_id, email, password).await?;
    if result["created"] == 1 {
        return Ok(());
    }
    let error = &result["errors"][0];
    Err(if result["unchanged"] == 1 {
        Fault::refused(ErrorCode::UserExists, format!("there is an account {email} already"))
    } else {
        let told = format!("{} {}", cell(&error["field"]), cell(&error["message"]));
        Fault::refused(ErrorCode::InvalidRequest, told)
    })
}

fn password() -> Result<SecretString, Fault> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Fault::said)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Fault::Usage("--password-stdin: there is no password on stdin".to_owned()));
    }
    Ok(password.to_owned().into())
}

fn lines(users: &Value) -> String {
    let columns =
        ["id", "email", "client_id", "role", "subscription_tier", "is_active", "created_at", "last_login_at"];
    let rows: Vec<_> =
        users.as_array().into_iter().flatten().map(|user| columns.map(|name| cell(&user[name]))).collect();
    table(["ID", "EMAIL", "CLIENT", "ROLE", "TIER", "ACTIVE", "CREATED", "LAST LOGIN"], &rows)
}

/// One line for each field, those of objects inside it included.
fn details(value: &Value) -> String {
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) if name == "profile" => {
                let filled = inner.iter().filter(|(name, value)| !value.is_null() && *name != "user_id");
                text.extend(filled.map(|(name, value)| format!("{name:<18} {}\n", cell(value))));
            }
            value => text += &format!("{name:<18} {}\n", cell(value)),
        }
    }
    text
}
