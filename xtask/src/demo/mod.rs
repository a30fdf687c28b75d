//! `cargo xtask demo`: the story of the platform in under a minute, told by real requests.

mod story;
mod workflow;

use std::env;
use std::process::Stdio;

use tokio::process::Command;

use crate::Outcome;
use crate::process::unless_interrupted;
use crate::up::{ADMINISTRATOR, facts, with_platform};
use crate::workspace::root;
use story::Story;

/// Where docker-compose.yml has the administrator's password in the container of MySQL.
const PASSWORD_IN_COMPOSE: &str = "/administrator/admin_password";

#[derive(clap::Args)]
pub struct Options {
    /// The edge to talk to, when it is not that of the running `up`; the administrator's ADMIN_EMAIL and ADMIN_PASSWORD
    /// are taken from the environment, or asked of docker compose
    #[arg(long, value_name = "URL")]
    edge: Option<String>,
}

/// Talks to the running platform, or to one that is started for this and stopped afterwards.
pub async fn run(options: Options) -> Outcome {
    if let Some(edge) = options.edge {
        return unless_interrupted(async { tell(&edge, &administrator().await?).await }).await;
    }
    if facts()?.is_some() {
        return unless_interrupted(tell_here()).await;
    }
    println!("No `cargo xtask up` is running: starting the platform for the demo.");
    with_platform(tell_here).await
}

/// At the edge of the running `up`.
async fn tell_here() -> Outcome {
    let facts = facts()?.ok_or("target/up.env is missing")?;
    let fact = |name: &str| {
        let found = facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        found.ok_or_else(|| format!("target/up.env has no {name}"))
    };
    let administrator = Administrator { email: fact("ADMIN_EMAIL")?, password: fact("ADMIN_PASSWORD")? };
    tell(&fact("EDGE")?, &administrator).await
}

struct Administrator {
    email: String,
    password: String,
}

/// That of an edge which `up` did not start.
async fn administrator() -> Outcome<Administrator> {
    if let (Ok(email), Ok(password)) = (env::var("ADMIN_EMAIL"), env::var("ADMIN_PASSWORD")) {
        return Ok(Administrator { email, password });
    }
    let mut asking = Command::new("docker");
    asking.current_dir(root()).args(["compose", "exec", "-T", "mysql", "cat"]).arg(PASSWORD_IN_COMPOSE);
    let told = asking.stdin(Stdio::null()).output().await;
    let told =
        told.ok().filter(|told| told.status.success()).and_then(|told| String::from_utf8(told.stdout).ok());
    let password = told.ok_or(
        "who is the administrator there? Set ADMIN_EMAIL and ADMIN_PASSWORD (docker compose, which was asked, runs no such platform)",
    )?;
    Ok(Administrator { email: ADMINISTRATOR.to_owned(), password: password.trim_end().to_owned() })
}

async fn tell(edge: &str, administrator: &Administrator) -> Outcome {
    let Administrator { email, password } = administrator;
    Story::new(edge.trim_end_matches('/'), email, password)?.tell().await
}
