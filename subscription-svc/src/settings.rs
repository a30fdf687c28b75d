//! Every setting of subscription-svc.

use std::net::SocketAddr;

use chassis::settings::Env;
use chassis::{drain, grpc, logs, mysql};
use chrono::TimeDelta;
use tonic::transport::Uri;

use crate::billing;

/// The service's own database user, unless it is given another.
pub const DATABASE_USER: &str = "subscription_svc";

pub struct Settings {
    pub listen: SocketAddr,
    pub internal_listen: SocketAddr,
    pub logs: logs::Settings,
    pub drain: drain::Settings,
    pub database: mysql::Settings,
    pub internal: grpc::Settings,
    pub reflection: bool,
    pub identity: Vec<Uri>,
    pub billing: Option<billing::Settings>,
    /// How long a late payment is forgiven.
    pub grace: TimeDelta,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        let internal = grpc::Settings::read(env);
        Settings {
            listen: env.value("SUBSCRIPTION_LISTEN", "0.0.0.0:50052", "Address of the gRPC listener"),
            internal_listen: env.value(
                "SUBSCRIPTION_INTERNAL_LISTEN",
                "0.0.0.0:9052",
                "Address of the internal listener",
            ),
            logs: logs::Settings::read(env),
            drain: drain::Settings::read(env),
            database: mysql::Settings::read(env, DATABASE_USER),
            reflection: env.value("GRPC_REFLECTION", "true", "Whether gRPC reflection is served"),
            identity: internal.replicas(
                env,
                "IDENTITY_URL",
                "http://127.0.0.1:50051",
                "identity-svc, one URL for each replica",
            ),
            billing: billing::Settings::read(env),
            grace: TimeDelta::seconds(
                env.number(
                    "PAST_DUE_GRACE_SECONDS",
                    "604800",
                    0..=31_536_000,
                    "Seconds that a tier lasts after a payment for it has failed",
                )
                .cast_signed(),
            ),
            internal,
        }
    }
}
