//! gRPC between the processes: a server that admits only callers with the internal token, and channels to it.

mod client;
mod server;

pub use client::{InternalChannel, channel};
pub use server::{answer, serve};

use secrecy::{ExposeSecret, SecretString};

use crate::settings::Env;

/// The metadata key, and HTTP header, that ties the logs of all processes for one request together.
pub const REQUEST_ID: &str = "x-request-id";

/// The token without which no call of the internal plane is admitted.
#[derive(Clone, Debug)]
pub struct InternalToken(SecretString);

impl InternalToken {
    pub fn read(env: &mut Env) -> Self {
        InternalToken(env.secret("INTERNAL_GRPC_TOKEN", "The token that every internal gRPC call carries"))
    }

    /// For tests and tools that already hold the token.
    pub fn new(token: SecretString) -> Self {
        InternalToken(token)
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.0.expose_secret())
    }
}
