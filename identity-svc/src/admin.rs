//! `identity-svc admin`: the first administrator.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;

use chassis::mysql;
use clap::Subcommand;
use contract::{ErrorCode, Failure};

use crate::administrators;
use crate::settings::Settings;
use crate::sign_in::is_client_id;

#[derive(Subcommand)]
pub enum Command {
    /// Makes an administrator. An account that exists already is promoted and keeps its password.
    Create {
        #[arg(long)]
        email: String,
        /// For what runs at each start: does nothing where there is an administrator already, active or not, and
        /// promotes no account.
        #[arg(long)]
        if_none: bool,
        /// The client that a new account belongs to.
        #[arg(long, default_value = "admin")]
        client_id: String,
        /// The password of a new account is read from standard input; a line end is not part of it.
        #[arg(long, required_unless_present = "password_file")]
        password_stdin: bool,
        /// The same from a file, where nothing can be piped into the program.
        #[arg(long, conflicts_with = "password_stdin")]
        password_file: Option<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, or that the database is away.
pub async fn run(settings: Settings, command: Command) -> Result<(), Box<dyn Error>> {
    let Command::Create { email, if_none, client_id, password_stdin: _, password_file } = command;
    if !is_client_id(&client_id) {
        return Err("--client-id: must have 1 to 100 letters, digits, dots, hyphens or underscores".into());
    }
    let password = match password_file {
        Some(path) => std::fs::read_to_string(&path)
            .map_err(|error| format!("--password-file {}: {error}", path.display()))?,
        None => {
            let mut password = String::new();
            std::io::stdin().read_to_string(&mut password)?;
            password
        }
    };
    let password = password.trim_end_matches(['\r', '\n']);
    let pool = mysql::pool(&settings.database);
    crate::migrate(&pool).await?;
    let one_is_there = "there is an administrator already; nothing was done";
    if if_none && administrators::are_there(&pool).await.map_err(|failure| told(&failure))? {
        println!("{one_is_there}");
        return Ok(());
    }
    let identity = crate::state(&settings, pool).await?;
    if if_none {
        let made = administrators::make_first_administrator(&identity, &email, &client_id, password).await;
        let is_made = made.map_err(|failure| match failure.code() {
            ErrorCode::UserExists => taken(&email),
            _ => told(&failure),
        })?;
        println!(
            "{}",
            if is_made { format!("{email} is now an administrator") } else { one_is_there.to_owned() }
        );
        return Ok(());
    }
    let made = administrators::make_administrator(&identity, &email, &client_id, password).await;
    println!(
        "{email} {}",
        if made.map_err(|failure| told(&failure))? {
            "is now an administrator"
        } else {
            "was there already and is an administrator"
        }
    );
    Ok(())
}

fn told(failure: &Failure) -> String {
    let fields: Vec<String> =
        failure.fields().iter().map(|(name, fault)| format!("{name} {fault}")).collect();
    if fields.is_empty() { format!("{failure:?}") } else { fields.join("; ") }
}

fn taken(email: &str) -> String {
    format!(
        "there is no administrator, and {email} belongs to an account that somebody has registered, which is not \
         promoted: give another --email, or, if you know whose account it is, run this again without --if-none"
    )
}
