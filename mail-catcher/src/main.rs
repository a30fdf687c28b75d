//! Catches the mails of development and tests: an SMTP server that takes everything and delivers nothing, and a page
//! that shows what it took. For loopback alone: it asks nobody who they are.

mod mailbox;
mod smtp;
mod web;

use std::env;
use std::error::Error;
use std::io::{self, Write};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use mailbox::Mailbox;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let smtp = listen("MAIL_CATCHER_SMTP_LISTEN", "127.0.0.1:1025").await?;
    let web = listen("MAIL_CATCHER_LISTEN", "127.0.0.1:8025").await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    writeln!(
        io::stdout(),
        "mail-catcher (for development and tests) takes mail at {} and shows it at http://{}",
        smtp.local_addr()?,
        web.local_addr()?
    )?;
    let mailbox = Mailbox::default();
    tokio::select! {
        () = smtp::serve(smtp, mailbox.clone()) => {}
        served = axum::serve(web, web::routes(mailbox)) => served?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn listen(name: &str, default: &str) -> Result<TcpListener, String> {
    let address = env::var(name).unwrap_or_else(|_| default.to_owned());
    TcpListener::bind(&address).await.map_err(|e| format!("mail-catcher cannot listen on {address}: {e}"))
}
