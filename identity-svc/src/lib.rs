//! identity-svc: accounts, sessions, tokens, permissions, projects, and the events that make changes bind at once.

mod accounts;
mod admin;
mod administration;
mod administrators;
mod api_keys;
mod audit;
mod bulkhead;
mod claims;
mod edges;
mod email;
mod enforcement;
mod events;
mod hasher;
mod holders;
mod identity;
mod keys;
mod mail;
mod newcomers;
mod opaque;
mod password;
mod profiles;
mod project_days;
mod projects;
mod recovery;
mod restored;
mod rpc;
mod sessions;
mod settings;
mod shares;
mod sign_in;
#[doc(hidden)]
pub mod simulated;
mod snapshots;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod throttle;
mod token_lives;
mod verification;
mod watching;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chassis::drain::Drain;
use chassis::health::{Health, Need};
use chassis::mysql::SetupError;
use chassis::settings::Survey;
use chassis::{descriptors, grpc, internal, listener, logs, memory, mysql};
use clap::{Parser, Subcommand};
use sqlx::MySqlPool;
use sqlx::migrate::Migrator;

use bulkhead::Bulkhead;
use enforcement::Reports;
use hasher::{BadCost, Hasher};
use holders::Holders;
use identity::{Identity, Tokens};
use keys::KeyRing;
use mail::{Mail, Relay};
use settings::{PasswordSettings, Settings};
use tail::Tail;
use token_lives::Noted;
use watching::Watching;

/// How long the start waits between two tries to reach the database.
const RETRY: Duration = Duration::from_millis(500);
/// The longest that reading the keys may take, or making the first.
const KEYS_LIMIT: Duration = Duration::from_secs(30);
/// How long the end waits for mails that are on their way.
const MAIL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "Accounts, sessions, tokens, permissions and projects. Without a command: serve.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Brings the tables up to date and ends.
    Migrate,
    /// Prints the settings as rows of a Markdown table.
    Settings,
    /// Asks the one that serves here whether it is ready.
    Healthy,
    /// Administrators.
    #[command(subcommand)]
    Admin(admin::Command),
    /// Signing keys.
    #[command(subcommand)]
    Keys(keys::Command),
    Restored(restored::Command),
}

/// The settings of an identity-svc with these variables, and what is wrong with them.
pub fn survey(variables: impl IntoIterator<Item = (String, String)>) -> Survey {
    chassis::settings::survey(variables, Settings::read)
}

/// The migrations of its tables, and the table of those that were applied.
pub fn migrations() -> (Migrator, &'static str) {
    (sqlx::migrate!(), "_identity_migrations")
}

/// What the program `identity-svc` does, told by its arguments.
pub async fn run() -> ExitCode {
    memory::use_small_pages();
    descriptors::raise_limit();
    let command = Arguments::parse().command;
    if command.is_some() {
        logs::of_a_command();
    }
    if matches!(command, Some(Command::Settings)) {
        print!("{}", chassis::settings::table(Settings::read));
        return ExitCode::SUCCESS;
    }
    if matches!(command, Some(Command::Migrate)) {
        return ended(migrate_alone().await);
    }
    let settings = match chassis::settings::load(Settings::read) {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("identity-svc: {faults}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match command {
        None => match logs::init(&settings.logs, "identity-svc") {
            Ok(logs) => {
                let outcome = serve(settings).await;
                if let Err(error) = &outcome {
                    tracing::error!(%error, "identity-svc cannot run");
                }
                logs.finish().await;
                return if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            Err(error) => Err(error.into()),
        },
        Some(Command::Admin(command)) => admin::run(settings, command).await,
        Some(Command::Keys(command)) => {
            let pool = mysql::pool(&settings.database);
            match migrate(&pool).await {
                Ok(()) => keys::run(&pool, &settings.keys, command).await,
                Err(error) => Err(error.into()),
            }
        }
        Some(Command::Restored(command)) => {
            let pool = mysql::pool(&settings.database);
            restored::run(&pool, settings.lifetimes.access_token, command).await
        }
        Some(Command::Healthy) => internal::ask_ready(settings.internal_listen).await.map_err(Into::into),
        Some(Command::Migrate | Command::Settings) => Ok(()),
    };
    ended(outcome)
}

fn ended(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("identity-svc: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Needs the settings of the database and no others, so that nothing else has to be there for it.
async fn migrate_alone() -> Result<(), Box<dyn Error>> {
    let settings = chassis::settings::load(|env| mysql::Settings::read(env, settings::DATABASE_USER))?;
    Ok(migrate(&mysql::pool(&settings)).await?)
}

async fn migrate(pool: &MySqlPool) -> Result<(), SetupError> {
    let (migrations, applied) = migrations();
    mysql::migrate(pool, migrations, applied).await
}

/// The state of the process. The tables are up to date.
async fn state(settings: &Settings, pool: MySqlPool) -> Result<Identity, Box<dyn Error>> {
    let keys = KeyRing::open(&pool, settings.keys.clone());
    let keys = mysql::in_time(KEYS_LIMIT, keys).await.map_err(|failure| match failure.cause() {
        Some(cause) => format!("{failure}: {cause}"),
        None => failure.to_string(),
    })?;
    let holders = Holders::new();
    let tail = Tail::new(holders.clone());
    let bulkhead = Bulkhead::new(pool.options().get_max_connections());
    Ok(Identity {
        watching: Watching::new(pool.clone(), tail.clone()),
        reports: Reports::default(),
        pool,
        hasher: hasher(&settings.passwords)?,
        tokens: Arc::new(Tokens {
            keys,
            lifetimes: settings.lifetimes,
            max_sessions: settings.max_sessions,
            noted: Noted::default(),
        }),
        tail,
        holders,
        min_password_length: settings.passwords.min_length,
        limits: settings.limits,
        api_keys: settings.api_keys,
        mail: Mail::new(settings.mail.clone()),
        bulkhead,
    })
}

fn hasher(settings: &PasswordSettings) -> Result<Hasher, BadCost> {
    Hasher::new(settings.cost, settings.queue, settings.per_address)
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    let drain = Drain::on_signals(settings.drain.clone())?;
    let health = Health::default();
    let public = listener::bind("IDENTITY_LISTEN", settings.listen).await?;
    let private = listener::bind("IDENTITY_INTERNAL_LISTEN", settings.internal_listen).await?;
    tracing::info!(grpc = %public.local_addr()?, internal = %private.local_addr()?, "identity-svc listens");
    let internal = tokio::spawn(internal::serve(private, "identity-svc", health.clone(), drain.clone()));

    let (pool, followers) = mysql::pool_and_followers(&settings.database);
    let probed = pool.clone();
    health.watch("mysql", Need::Required, move || {
        let pool = probed.clone();
        async move { mysql::probe(&pool).await }
    });
    tokio::select! {
        migrated = migrate_when_possible(&pool) => migrated?,
        () = drain.stop_accepting() => return Ok(()),
    }
    let identity = state(&settings, pool).await?;
    tokio::spawn(identity.tokens.keys.clone().follow(followers.clone()));
    tokio::spawn(keys::sweep(identity.pool.clone()));
    tokio::spawn(identity.reports.clone().keep(identity.pool.clone()));
    tokio::spawn(enforcement::sweep(identity.pool.clone()));
    tokio::spawn(edges::sweep(identity.pool.clone()));
    tokio::spawn(identity.tail.clone().follow(followers.clone()));
    tokio::spawn(events::sweep(identity.pool.clone()));
    tokio::spawn(sessions::sweep(identity.pool.clone()));
    tokio::spawn(api_keys::sweep(identity.pool.clone()));
    tokio::spawn(throttle::sweep(identity.pool.clone()));
    tokio::spawn(audit::sweep(identity.pool.clone(), settings.audit_log_kept));
    tokio::spawn(mail::tokens::sweep(identity.pool.clone()));
    let relay = Relay::new(identity.pool.clone(), &identity.mail)?;
    if relay.is_none() {
        tracing::warn!(
            "mail is off: MAIL_SMTP_URL is not set, so that nobody can verify an address or reset a password"
        );
    }
    let relay = relay.map(|relay| tokio::spawn(relay.run(drain.clone())));
    let noted = identity.tokens.noted.clone();
    tokio::spawn(noted.keep(identity.pool.clone(), settings.lifetimes.access_token));
    tokio::spawn(token_lives::sweep(identity.pool.clone()));
    health.now_ready();
    let services = rpc::services(&identity, drain.clone());
    let descriptors = settings.reflection.then_some(contract::identity::FILE_DESCRIPTOR_SET);
    grpc::serve(public, services, descriptors, &settings.internal, health, drain)
        .await
        .map_err(|error| error.to_string())?;
    if let Some(relay) = relay {
        // A mail that takes longer is sent again by another replica.
        if tokio::time::timeout(MAIL_LIMIT, relay).await.is_err() {
            tracing::warn!("mails were still being sent; another replica sends them in a minute");
        }
    }
    tokio::join!(mysql::close(&identity.pool), mysql::close(&followers));
    internal.await??;
    tracing::info!("identity-svc has stopped");
    Ok(())
}

/// The database may come up after the service.
async fn migrate_when_possible(pool: &MySqlPool) -> Result<(), SetupError> {
    let database = mysql::place(pool);
    loop {
        match migrate(pool).await {
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, database, "the tables cannot be brought up to date; trying again");
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}
