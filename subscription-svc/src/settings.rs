//! Every setting of subscription-svc.

use std::net::SocketAddr;

use chassis::settings::Env;
use chassis::{drain, grpc, logs, mysql};
use tonic::transport::Uri;

pub struct Settings {
    pub listen: SocketAddr,
    pub internal_listen: SocketAddr,
    pub logs: logs::Settings,
    pub drain: drain::Settings,
    pub database: mysql::Settings,
    pub internal: grpc::Settings,
    pub reflection: bool,
    pub identity: Vec<Uri>,
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
            database: mysql::Settings::read(env, "subscription_svc"),
            reflection: env.value("GRPC_REFLECTION", "true", "Whether gRPC reflection is served"),
            identity: internal.replicas(
                env,
                "IDENTITY_URL",
                "http://127.0.0.1:50051",
                "identity-svc, one URL for each replica",
            ),
            internal,
        }
    }
}
