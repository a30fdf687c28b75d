//! gRPC between the processes: a server that admits only callers with the internal token, and channels to it.

mod call;
mod client;
mod handshakes;
mod meters;
mod server;
mod tls;
mod trust;

pub use client::{InternalChannel, channel, channel_over, endpoint};
pub use server::{answer, serve};

use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::Env;
use tls::Tls;
pub(crate) use tls::roots;

/// The metadata key, and HTTP header, that ties the logs of all processes for one request together.
pub const REQUEST_ID: &str = "x-request-id";

/// How long a call may take unless its own deadline is shorter.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a process takes part in the internal plane.
#[derive(Clone)]
pub struct Settings {
    token: InternalToken,
    tls: Tls,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        Settings { token: InternalToken::read(env), tls: Tls::read(env) }
    }

    /// Without TLS, for tests.
    pub fn plain(token: SecretString) -> Self {
        Settings { token: InternalToken(token), tls: Tls::default() }
    }

    /// The replicas of a service that the process calls: a comma-separated list of URLs, at least one.
    pub fn replicas(
        &self,
        env: &mut Env,
        name: &'static str,
        default: &'static str,
        meaning: &'static str,
    ) -> Vec<Uri> {
        let replicas = env.replicas(name, default, meaning);
        if !self.tls.can_call(&replicas) {
            env.fault(format!("{name}: https needs GRPC_TLS_CA"));
        }
        replicas
    }
}

/// The token without which no call of the internal plane is admitted.
#[derive(Clone, Debug)]
struct InternalToken(SecretString);

impl InternalToken {
    fn read(env: &mut Env) -> Self {
        InternalToken(env.secret("INTERNAL_GRPC_TOKEN", "The token that every internal gRPC call carries"))
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.0.expose_secret())
    }
}
