//! The program; everything is in the library, where `benches/` gets at it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    edge::run().await
}
