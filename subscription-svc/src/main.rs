//! The program; everything is in the library, where the crate `simulation` gets at it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    subscription_svc::run().await
}
