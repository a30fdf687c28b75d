//! `cargo xtask demo`: the story of the platform in under a minute, told by real requests.

mod story;
mod workflow;

use crate::Outcome;
use crate::process::unless_interrupted;
use crate::up::{facts, with_platform};
use story::Story;

#[derive(clap::Args)]
pub struct Options {
    /// The edge to talk to, when it is not that of the running `up`
    #[arg(long, value_name = "URL")]
    edge: Option<String>,
}

/// Talks to the running platform, or to one that is started for this and stopped afterwards.
pub async fn run(options: Options) -> Outcome {
    if facts()?.is_some() {
        return unless_interrupted(tell(&options)).await;
    }
    println!("No `cargo xtask up` is running: starting the platform for the demo.");
    with_platform(async || tell(&options).await).await
}

async fn tell(options: &Options) -> Outcome {
    let facts = facts()?.ok_or("target/up.env is missing")?;
    let fact = |name: &str| {
        let found = facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        found.ok_or_else(|| format!("target/up.env has no {name}"))
    };
    let edge = options.edge.clone().map_or_else(|| fact("EDGE"), Ok)?;
    let story = Story::new(edge.trim_end_matches('/'), &fact("ADMIN_EMAIL")?, &fact("ADMIN_PASSWORD")?)?;
    story.tell().await
}
