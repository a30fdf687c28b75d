//! A stand-in for core-manager, the service behind the gateway, for development and tests alone. It keeps templates
//! and persona instances in memory, runs make-believe workflows, records what it is sent, and misbehaves on request.

mod answers;
mod app;
mod control;
mod echo;
mod garbage;
mod gauge;
mod identity;
mod instances;
mod misbehaviour;
mod recorder;
mod server;
mod shelf;
mod socket;
mod switches;
mod templates;
mod workflow;

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use app::App;

/// How long running requests and open sockets may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "A stand-in for core-manager, for development and tests")]
struct Settings {
    /// Address and port, by default CORE_MANAGER_LISTEN or 127.0.0.1:8082; port 0 takes a free one.
    #[arg(long)]
    listen: Option<String>,
}

impl Settings {
    fn address(self) -> String {
        self.listen
            .or_else(|| env::var("CORE_MANAGER_LISTEN").ok())
            .unwrap_or_else(|| "127.0.0.1:8082".to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = Settings::parse().address();
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|e| format!("core-manager-stub cannot listen on {address}: {e}"))?;
    let closing = close_on_signal()?;
    announce(listener.local_addr()?)?;
    let app = App::new(closing.clone());
    let end = async {
        server::serve(listener, app::router(app.clone()), closing.clone(), app.keep_alive.clone()).await;
        app.sockets.emptied().await;
    };
    tokio::select! {
        () = end => {}
        () = out_of_patience(&closing) => {}
    }
    Ok(())
}

/// The one line of standard output, with the real address, which a caller that asked for port 0 waits for.
fn announce(address: SocketAddr) -> io::Result<()> {
    let name = "core-manager-stub (a stand-in, for development and tests)";
    writeln!(io::stdout(), "{name} listens on {address}")
}

/// Ends at SIGTERM or SIGINT. The handlers stand before the address is announced: who reads it may signal at once.
fn close_on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let closing = CancellationToken::new();
    let close = closing.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        close.cancel();
    });
    Ok(closing)
}

async fn out_of_patience(closing: &CancellationToken) {
    closing.cancelled().await;
    sleep(PATIENCE).await;
}
