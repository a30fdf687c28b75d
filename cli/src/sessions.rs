//! `persona session`: the caller's sessions, and those of others for administrators.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{Fault, Output, cell, table};
use crate::rest::{Rest, part};
use crate::users::{USERS, canonical, find};

const OWN: &str = "/api/v1/auth/sessions";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the own sessions, or those of an account
    List {
        /// The e-mail address or id of an account, for administrators
        user: Option<String>,
    },
    /// End one of the own sessions
    End {
        /// Its id
        id: String,
    },
    /// End all own sessions but this one, or all of an account
    EndAll {
        /// The e-mail address or id of an account, for administrators
        user: Option<String>,
    },
}

/// `persona session …`
pub async fn run(command: &Command, output: Output) -> Outcome {
    let rest = Rest::from_environment()?;
    match command {
        Command::List { user } => {
            let listed = rest.get(&place(&rest, user.as_deref()).await?).await?;
            output.show(part(&listed, "sessions")?, text)?;
        }
        Command::End { id } => {
            let id = canonical(id)?;
            rest.delete(&format!("{OWN}/{id}")).await?;
            output.show(&json!({ "id": id, "ended": true }), |_| format!("{id} has ended\n"))?;
        }
        Command::EndAll { user } => {
            rest.delete(&place(&rest, user.as_deref()).await?).await?;
            let which = user
                .as_ref()
                .map_or("all other sessions".to_owned(), |user| format!("all sessions of {user}"));
            output.show(&json!({ "ended": true }), |_| format!("{which} have ended\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The route of the sessions that are meant.
async fn place(rest: &Rest, user: Option<&str>) -> Result<String, Fault> {
    match user {
        None => Ok(OWN.to_owned()),
        Some(user) => Ok(format!("{USERS}/{}/sessions", find(rest, user).await?)),
    }
}

fn text(sessions: &Value) -> String {
    let columns = ["id", "created_at", "last_seen_at", "ip_address", "user_agent", "current"];
    let rows: Vec<_> = sessions
        .as_array()
        .into_iter()
        .flatten()
        .map(|session| columns.map(|name| cell(&session[name])))
        .collect();
    table(["ID", "BEGUN", "LAST SEEN", "ADDRESS", "WITH", "CURRENT"], &rows)
}
