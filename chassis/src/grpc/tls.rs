//! TLS of the internal plane. A process has one certificate, as a server and as a client.

use http::Uri;
use http::uri::Scheme;
use secrecy::{ExposeSecret, SecretString};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

use crate::settings::Env;

/// Who a process is, and whose certificates it believes.
#[derive(Clone, Default)]
pub struct Tls {
    own: Option<Identity>,
    authority: Option<Certificate>,
}

impl Tls {
    /// Reads the certificates and tries them.
    pub fn read(env: &mut Env) -> Self {
        let certificate: Option<String> = env.optional(
            "GRPC_TLS_CERT",
            "PEM certificate chain of the process for internal gRPC, for its names as server and client; mostly \
             `GRPC_TLS_CERT_FILE`",
        );
        let key: Option<SecretString> =
            env.optional::<String>("GRPC_TLS_KEY", "Its private key, PEM").map(Into::into);
        let authority: Option<String> = env.optional(
            "GRPC_TLS_CA",
            "PEM certificates of the authority that signs those of the other processes; with it, a service admits no \
             caller without one (mutual TLS)",
        );
        let own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Identity::from_pem(certificate, key.expose_secret())),
            (None, None) => None,
            _ => {
                env.fault("GRPC_TLS_CERT and GRPC_TLS_KEY: both are needed, or none");
                None
            }
        };
        let tls = Tls { own, authority: authority.map(Certificate::from_pem) };
        if let Some(fault) = tls.fault() {
            env.fault(format!("GRPC_TLS_CERT, GRPC_TLS_KEY or GRPC_TLS_CA: {fault}"));
            return Tls::default();
        }
        tls
    }

    fn fault(&self) -> Option<String> {
        let as_server = self.of_server().map(|tls| Server::builder().tls_config(tls).err());
        let as_client = Endpoint::from_static("https://localhost").tls_config(self.of_client());
        let fault = as_server.flatten().or(as_client.err())?;
        Some(std::error::Error::source(&fault).map_or_else(|| fault.to_string(), ToString::to_string))
    }

    /// What a service listens with; without a certificate of its own it speaks plain HTTP/2.
    pub fn of_server(&self) -> Option<ServerTlsConfig> {
        let tls = ServerTlsConfig::new().identity(self.own.clone()?);
        Some(match &self.authority {
            Some(authority) => tls.client_ca_root(authority.clone()),
            None => tls,
        })
    }

    /// What `https` URLs are called with.
    pub fn of_client(&self) -> ClientTlsConfig {
        let mut tls = ClientTlsConfig::new();
        if let Some(authority) = &self.authority {
            tls = tls.ca_certificate(authority.clone());
        }
        if let Some(own) = &self.own {
            tls = tls.identity(own.clone());
        }
        tls
    }

    /// Whether replicas can be called: `https` needs an authority to believe.
    pub fn can_call(&self, replicas: &[Uri]) -> bool {
        self.authority.is_some() || !replicas.iter().any(|uri| uri.scheme() == Some(&Scheme::HTTPS))
    }
}
