//! The document of all routes in the docs, written from what the edge says about itself.

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::generated::{keep, said};
use crate::process::unless_interrupted;

#[derive(clap::Args)]
pub struct Options {
    /// Only say whether the docs are right
    #[arg(long)]
    check: bool,
}

/// `cargo xtask openapi`
pub async fn run(options: Options) -> Outcome {
    unless_interrupted(run_cargo(&mut cargo(&["build", "--package", "edge"]))).await?;
    write(options.check).await
}

/// Writes the document from a program that is built, or compares.
pub async fn write(check: bool) -> Outcome {
    keep("docs/openapi.json", &said("edge", "openapi").await?, check, "openapi")
}
