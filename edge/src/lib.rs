//! The edge: REST, WebSocket and the gateway to core-manager. It owns no data.

mod answer;
mod body;
mod claims;
mod console;
mod front;
#[cfg(test)]
mod fuzz;
mod gateway;
#[doc(hidden)]
pub mod hot_path;
mod idempotency;
mod json;
mod openapi;
mod places;
mod rate;
mod routes;
mod services;
mod settings;
#[doc(hidden)]
pub mod simulated;
mod ws;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use chassis::drain::Drain;
use chassis::health::{Health, Need};
use chassis::settings::Survey;
use chassis::{descriptors, internal, listener, logs, memory};

use body::Room;
use claims::{Authenticator, Itself, LiveClaims, Sights, Watch};
use front::Front;
use gateway::{CORE_MANAGER, Gateway, RouteTable};
use idempotency::Waiting;
use json::JsonLimit;
use rate::RateLimiter;
use routes::{Edge, Imports, Public};
use services::{IDENTITY, SUBSCRIPTION, Services};
use settings::Settings;
use ws::Sockets;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The settings of an edge with these variables, and what is wrong with them.
pub fn survey(variables: impl IntoIterator<Item = (String, String)>) -> Survey {
    chassis::settings::survey(variables, Settings::read)
}

/// What the program `edge` does, told by its arguments.
pub async fn run() -> ExitCode {
    memory::use_small_pages();
    descriptors::raise_limit();
    let command = std::env::args().nth(1);
    match command.as_deref() {
        None | Some("healthy") => {}
        Some("settings") => {
            print!("{}", chassis::settings::table(Settings::read));
            return ExitCode::SUCCESS;
        }
        Some("openapi") => {
            println!("{:#}", routes::document(&RouteTable::new(Vec::new())));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            eprintln!(
                "usage: edge            serve, with settings from the environment\n       \
                 edge settings   print them\n       \
                 edge openapi    print what its routes are\n       \
                 edge healthy    ask the one that serves here whether it is ready"
            );
            return ExitCode::FAILURE;
        }
    }
    let settings = match chassis::settings::load(Settings::read) {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("edge: {faults}");
            return ExitCode::FAILURE;
        }
    };
    if command.is_some() {
        return match internal::ask_ready(settings.internal_listen).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("edge: {fault}");
                ExitCode::FAILURE
            }
        };
    }
    let logs = match logs::init(&settings.logs, "edge") {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("edge: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = serve(settings).await;
    if let Err(error) = &outcome {
        tracing::error!(%error, "the edge cannot run");
    }
    logs.finish().await;
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(mut settings: Settings) -> Result<(), Box<dyn Error>> {
    front::fit(&mut settings.front, &mut settings.gateway, descriptors::limit());
    let drain = Drain::on_signals(settings.drain.clone())?;
    let health = Health::default();
    let listener = listener::bind("EDGE_LISTEN", settings.listen).await?;
    let private = listener::bind("EDGE_INTERNAL_LISTEN", settings.internal_listen).await?;
    tracing::info!(public = %listener.local_addr()?, internal = %private.local_addr()?, "the edge listens");

    let services = Services::connect(&settings.identity, &settings.subscription, &settings.internal);
    let live = Arc::new(LiveClaims::new(settings.staleness));
    let (sights, reports) = Sights::new();
    let rate = RateLimiter::new(settings.rate.limits.clone(), settings.rate.shared()?);
    let authenticator = Authenticator::new(live.clone(), sights, rate.clone(), services.identity_channel());
    let gateway = Arc::new(Gateway::new(settings.gateway, authenticator.clone(), services.clone()));
    watch_dependencies(&health, &services, &gateway);
    let (enforcement, reporter) = claims::enforcement(settings.name);
    let watch = Watch {
        channel: services.identity_channel(),
        authenticator: authenticator.clone(),
        keys: settings.keys,
        enforcement,
        health: health.clone(),
        jitter: claims::jitter,
    };
    tokio::spawn(watch.run());
    let itself = Itself { live, open_sockets: ws::open_sockets };
    tokio::spawn(reporter.run(services.identity_channel(), itself));
    tokio::spawn(claims::housekeeping(authenticator.clone()));
    tokio::spawn(claims::tell(reports, services.identity_channel()));

    let sockets = Arc::new(Sockets::new(
        settings.sockets,
        settings.origins.clone(),
        authenticator.clone(),
        services.clone(),
        gateway.clone(),
        drain.clone(),
    ));
    let json_limit = JsonLimit(settings.front.json_limit);
    let front = Front {
        origins: settings.origins,
        trusted_hops: settings.front.trusted_hops,
        header_limit: settings.front.header_limit,
        rate,
    };
    let imports = Arc::new(Imports::new(settings.front.import_limit));
    let waiting = Arc::new(Waiting::default());
    let edge = Edge {
        authenticator,
        services,
        json_limit,
        room: Room::default(),
        gateway,
        sockets: sockets.clone(),
        imports,
        waiting,
        offer: Arc::default(),
    };
    let public = Public::new(edge, front, settings.pages);

    let internal = tokio::spawn(internal::serve(private, "edge", health, drain.clone()));
    sockets.outlasting(front::serve(listener, public, &settings.front, drain)).await;
    internal.await??;
    tracing::info!("the edge has stopped");
    Ok(())
}

/// Only identity-svc sees the database, so it is asked how that is.
fn watch_dependencies(health: &Health, services: &Services, gateway: &Arc<Gateway>) {
    let identity = services.identity_channel();
    health.watch(IDENTITY, Need::Required, move || std::future::ready(identity.state()));
    let subscription = services.subscription_channel();
    health.watch(SUBSCRIPTION, Need::Partial, move || std::future::ready(subscription.state()));
    let identity = services.identity_channel();
    health.watch("mysql", Need::Required, move || {
        let identity = identity.clone();
        async move { identity.dependency("mysql").await }
    });
    let gateway = gateway.clone();
    health.watch(CORE_MANAGER, Need::Partial, move || {
        let gateway = gateway.clone();
        async move { gateway.upstream().probe().await }
    });
}
