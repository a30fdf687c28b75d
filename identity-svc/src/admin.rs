//! `identity-svc admin`: the first administrator.

use std::error::Error;
use std::io::Read;

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
        #[arg(long, required = true)]
        password_stdin: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, or that the database is away.
pub async fn run(settings: Settings, command: Command) -> Result<(), Box<dyn Error>> {
    let Command::Create { email, client_id, password_stdin: _ } = command;
    if !is_client_id(&client_id) {
        return Err("--client-id: must have 1 to 100 letters, digits, dots, hyphens or underscores".into());
    }
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password)?;
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
