//! subscription-svc: subscriptions, tiers, usage and quota. The only writer of tiers.

mod administration;
mod billing;
mod census;
mod forgetting;
mod idempotency;
mod newcomers;
mod outbox;
mod rpc;
mod service;
mod settings;
#[doc(hidden)]
pub mod simulated;
mod subscriptions;
mod sweep;
#[cfg(test)]
mod tests;
mod tiers;
mod usage;

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

use billing::Billing;
use outbox::Relay;
use service::{IDENTITY, Service};
use settings::Settings;

/// How long the start waits between two tries to reach the database.
const RETRY: Duration = Duration::from_millis(500);
/// How long the database may take to say whether the table `users` is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an ending process tries to send what is left in the outbox.
const LAST_SEND: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(about = "Subscriptions, tiers, usage and quota. Without a command: serve.")]
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
}

/// The settings of a subscription-svc with these variables, and what is wrong with them.
pub fn survey(variables: impl IntoIterator<Item = (String, String)>) -> Survey {
    chassis::settings::survey(variables, Settings::read)
}

/// The migrations of its tables, and the table of those that were applied.
pub fn migrations() -> (Migrator, &'static str) {
    (sqlx::migrate!(), "_subscription_migrations")
}

/// What the program `subscription-svc` does, told by its arguments.
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
            eprintln!("subscription-svc: {faults}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = match command {
        None => match logs::init(&settings.logs, "subscription-svc") {
            Ok(logs) => {
                let outcome = serve(settings).await;
                if let Err(error) = &outcome {
                    tracing::error!(%error, "subscription-svc cannot run");
                }
                logs.finish().await;
                return if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            Err(error) => Err(error.into()),
        },
        Some(Command::Healthy) => internal::ask_ready(settings.internal_listen).await.map_err(Into::into),
        Some(Command::Migrate | Command::Settings) => Ok(()),
    };
    ended(outcome)
}

fn ended(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subscription-svc: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Needs the settings of the database and no others, so that nothing else has to be there for it.
async fn migrate_alone() -> Result<(), Box<dyn Error>> {
    let settings = chassis::settings::load(|env| mysql::Settings::read(env, settings::DATABASE_USER))?;
    let pool = mysql::pool(&settings);
    if !users_exist(&pool).await? {
        return Err(
            "the table `users`, which the foreign keys need, is missing: run `identity-svc migrate` first"
                .into(),
        );
    }
    Ok(migrate(&pool).await?)
}

async fn migrate(pool: &MySqlPool) -> Result<(), SetupError> {
    let (migrations, applied) = migrations();
    mysql::migrate(pool, migrations, applied).await
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    let drain = Drain::on_signals(settings.drain.clone())?;
    let health = Health::default();
    let public = listener::bind("SUBSCRIPTION_LISTEN", settings.listen).await?;
    let private = listener::bind("SUBSCRIPTION_INTERNAL_LISTEN", settings.internal_listen).await?;
    tracing::info!(grpc = %public.local_addr()?, internal = %private.local_addr()?, "subscription-svc listens");
    let internal = tokio::spawn(internal::serve(private, "subscription-svc", health.clone(), drain.clone()));

    let (pool, lane) = mysql::pool_and_lane(&settings.database);
    let identity = grpc::channel(&settings.identity, &settings.internal);
    watch_dependencies(&health, &pool, &identity);
    tokio::select! {
        migrated = migrate_when_possible(&pool) => migrated?,
        () = drain.stop_accepting() => return Ok(()),
    }
    let relay = Relay::new(pool.clone(), identity.clone());
    let billing = settings.billing.map(|settings| Arc::new(Billing::new(settings)));
    let service = Service { pool, lane, identity, relay, billing, grace: settings.grace };
    let background = tokio::spawn(in_the_background(service.clone()));
    health.now_ready();
    let services = rpc::services(&service);
    let descriptors = settings.reflection.then_some(contract::subscription::FILE_DESCRIPTOR_SET);
    grpc::serve(public, services, descriptors, &settings.internal, health, drain)
        .await
        .map_err(|error| error.to_string())?;
    background.abort();
    // What was committed last; after this another replica sends it, or the next start does.
    let _ = tokio::time::timeout(LAST_SEND, service.relay.send_all()).await;
    service.lane.close().await;
    mysql::close(&service.pool).await;
    internal.await??;
    tracing::info!("subscription-svc has stopped");
    Ok(())
}

async fn in_the_background(service: Service) {
    tokio::join!(
        service.relay.clone().run(),
        billing::run(service.clone()),
        sweep::run(service.clone()),
        forgetting::run(service.pool.clone()),
        newcomers::run(service)
    );
}

fn watch_dependencies(health: &Health, pool: &MySqlPool, identity: &grpc::InternalChannel) {
    let (pool, identity) = (pool.clone(), identity.clone());
    health.watch("mysql", Need::Required, move || {
        let pool = pool.clone();
        async move { mysql::probe(&pool).await }
    });
    health.watch(IDENTITY, Need::Partial, move || std::future::ready(identity.state()));
}

/// The database may come up after the service, and so may the table `users`, which the foreign keys need.
async fn migrate_when_possible(pool: &MySqlPool) -> Result<(), SetupError> {
    let database = mysql::place(pool);
    loop {
        match users_exist(pool).await {
            Ok(true) => match migrate(pool).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, database, "the tables cannot be brought up to date; trying again");
                }
                outcome => return outcome,
            },
            Ok(false) => tracing::info!("waiting for the table `users`, which identity-svc makes"),
            Err(error) => tracing::warn!(%error, database, "the database cannot be used; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The service may point at `users` but not read it, so it asks the catalogue.
async fn users_exist(pool: &MySqlPool) -> Result<bool, sqlx::Error> {
    let count = sqlx::query_scalar::<_, i64>(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'users'",
    )
    .fetch_one(pool);
    Ok(mysql::answer_within(PATIENCE, count).await? == 1)
}
