//! `persona keys`: the caller's API keys, those of others for administrators, and fresh secrets for operators.

use std::process::ExitCode;

use chrono::{Days, SecondsFormat, Utc};
use serde_json::json;

use crate::output::{Fault, Output, cell, table};
use crate::rest::{Rest, part};
use crate::users::{USERS, canonical, find};
use crate::{Outcome, secret};

const KEYS: &str = "/api/v1/user/api-keys";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the own API keys, or those of an account, newest first
    List {
        /// The e-mail address or id of an account, for administrators
        user: Option<String>,
    },
    /// Make an API key and print it, this once
    Create {
        /// What it is called in lists
        name: String,
        /// A permission of the account that the key shall have; may be repeated
        #[arg(long = "permission", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// In how many days it expires; the platform decides by default
        #[arg(long)]
        days: Option<u64>,
    },
    /// End an API key, on every edge and open socket
    Revoke {
        /// Its id
        id: String,
        /// The e-mail address or id of the account that has it, for administrators
        #[arg(long = "of", value_name = "USER")]
        user: Option<String>,
    },
    /// Print a fresh secret, as for JWT_SECRET_KEY or INTERNAL_GRPC_TOKEN
    Secret {
        /// Say on stderr how it takes the place of another
        #[arg(long)]
        rotation: bool,
    },
}

/// `persona keys …`
pub async fn run(command: &Command, output: Output) -> Outcome {
    match command {
        Command::Secret { rotation } => return secret::run(*rotation, output),
        Command::List { user } => list(user.as_deref(), output).await?,
        Command::Create { name, permissions, days } => create(name, permissions, *days, output).await?,
        Command::Revoke { id, user } => {
            let (id, rest) = (canonical(id)?, Rest::from_environment()?);
            rest.delete(&format!("{}/{id}", place(&rest, user.as_deref()).await?)).await?;
            output.show(&json!({ "id": id, "revoked": true }), |_| format!("{id} is revoked\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The route of the keys that are meant.
async fn place(rest: &Rest, user: Option<&str>) -> Result<String, Fault> {
    match user {
        None => Ok(KEYS.to_owned()),
        Some(user) => Ok(format!("{USERS}/{}/api-keys", find(rest, user).await?)),
    }
}

async fn list(user: Option<&str>, output: Output) -> Result<(), Fault> {
    let rest = Rest::from_environment()?;
    let listed = rest.get(&place(&rest, user).await?).await?;
    output.show(part(&listed, "api_keys")?, |keys| {
        let columns = ["id", "name", "start", "permissions", "expires_at", "last_used_at"];
        let rows: Vec<_> =
            keys.as_array().into_iter().flatten().map(|key| columns.map(|name| cell(&key[name]))).collect();
        table(["ID", "NAME", "BEGINS", "PERMISSIONS", "EXPIRES", "LAST USED"], &rows)
    })
}

/// The key alone goes to stdout as text, so that it can be kept without being shown.
async fn create(name: &str, permissions: &[String], days: Option<u64>, output: Output) -> Result<(), Fault> {
    let mut body = json!({ "name": name, "permissions": permissions });
    if let Some(days) = days {
        let end = Utc::now().checked_add_days(Days::new(days));
        let end = end.ok_or_else(|| Fault::Usage("--days is beyond the calendar".to_owned()))?;
        body["expires_at"] = end.to_rfc3339_opts(SecondsFormat::Secs, true).into();
    }
    let made = Rest::from_environment()?.post(KEYS, &body).await?;
    part(&made, "key")?;
    if output == Output::Text {
        eprintln!(
            "{} ({}) is good until {}. It is not shown again.",
            cell(&made["name"]),
            cell(&made["id"]),
            cell(&made["expires_at"])
        );
    }
    output.show(&made, |made| format!("{}\n", cell(&made["key"])))
}
