//! A stand-in for core-manager, the service behind the gateway, for development and tests alone. It keeps templates
//! and persona instances in memory, runs make-believe workflows, records what it is sent, and misbehaves on request.

mod identity;
mod recorder;
mod resources;
mod server;
mod socket;
mod switches;
mod workflow;

use std::net::SocketAddr;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use server::Stub;

#[derive(Parser)]
#[command(about = "A stand-in for core-manager, for development and tests")]
struct Arguments {
    /// Address to listen on, by default CORE_MANAGER_LISTEN or 127.0.0.1:8082; port 0 takes a free one.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let from_environment = std::env::var("CORE_MANAGER_LISTEN").ok();
    let listen = match (Arguments::parse().listen, from_environment) {
        (Some(listen), _) => listen,
        (None, Some(text)) => text.parse().map_err(|e| format!("CORE_MANAGER_LISTEN: {e}"))?,
        (None, None) => SocketAddr::from(([127, 0, 0, 1], 8082)),
    };
    let listener = TcpListener::bind(listen).await?;
    println!(
        "core-manager-stub (a stand-in, for development and tests) listens on {}",
        listener.local_addr()?
    );
    let end = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ending = end.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        ending.cancel();
    });
    server::serve(listener, Stub::new(end)).await;
    Ok(())
}
