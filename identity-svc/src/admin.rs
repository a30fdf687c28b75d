//! `identity-svc admin`: the first administrator.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;

use chassis::mysql;
use clap::Subcommand;

use crate::administrators;
use crate::settings::Settings;
use crate::sign_in::is_client_id;

#[derive(Subcommand)]
pub enum Command {
    /// Makes an administrator. An account that exists already is promoted and keeps its password.
    Create {
        #[arg(long)]
        email: String,
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
    let Command::Create { email, client_id, password_stdin: _, password_file } = command;
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
    let identity = crate::state(&settings, pool).await?;
    let made = administrators::make_administrator(&identity, &email, &client_id, password).await;
    let is_new = made.map_err(|failure| {
        let fields: Vec<String> =
            failure.fields().iter().map(|(name, fault)| format!("{name} {fault}")).collect();
        if fields.is_empty() { format!("{failure:?}") } else { fields.join("; ") }
    })?;
    println!(
        "{email} {}",
        if is_new { "is now an administrator" } else { "was there already and is an administrator" }
    );
    Ok(())
}
