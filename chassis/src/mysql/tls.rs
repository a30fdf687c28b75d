//! What a connection to the server must prove before it is used.

use std::str::FromStr;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use crate::grpc;
use crate::settings::Env;

#[derive(Clone, Debug)]
pub struct Tls {
    mode: MySqlSslMode,
    authority: Option<Authority>,
}

/// Certificates in PEM that were tried.
#[derive(Clone, Debug)]
struct Authority(String);

struct Mode(MySqlSslMode);

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = text.parse();
        mode.map(Mode).map_err(|_| "must be disabled, preferred, required, verify_ca or verify_identity")
    }
}

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        grpc::roots(text)?;
        Ok(Authority(text.to_owned()))
    }
}

impl Tls {
    pub fn read(env: &mut Env) -> Self {
        let Mode(mode) = env.value(
            "AUTH_DB_TLS",
            "preferred",
            "`disabled`, `preferred`, `required`, `verify_ca` (a certificate of any authority that is believed) or \
             `verify_identity` (and for the name in `AUTH_DB_HOST`)",
        );
        let authority = env.optional(
            "AUTH_DB_CA",
            "PEM certificates of the authority that signed the server's, believed beside those of the web; needs \
             `verify_ca` or `verify_identity`; mostly `AUTH_DB_CA_FILE`",
        );
        if authority.is_some() && !matches!(mode, MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity) {
            env.fault("AUTH_DB_CA: nothing is verified unless AUTH_DB_TLS is verify_ca or verify_identity");
        }
        Tls { mode, authority }
    }

    /// These options, with what is demanded here.
    pub fn demanded(&self, options: MySqlConnectOptions) -> MySqlConnectOptions {
        let options = options.ssl_mode(self.mode);
        match &self.authority {
            Some(Authority(pem)) => options.ssl_ca_from_pem(pem.clone().into_bytes()),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use sqlx::ConnectOptions;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::server_code;
    use super::*;
    use crate::settings::load_from;

    /// What the server says to whoever believes its certificate.
    const REFUSED: u16 = 1045;

    fn settings(given: &[(&str, &str)]) -> Result<Tls, String> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_from(given, Tls::read).map_err(|faults| faults.to_string())
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    }

    fn packet(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("a short packet");
        [&[length, 0, 0, number], content].concat()
    }

    /// As much of a MySQL server as there is before the password: it greets, takes up TLS with a certificate for
    /// `localhost`, and refuses whoever signs in. Gives its port.
    async fn server(authority: &CertifiedIssuer<'static, KeyPair>) -> u16 {
        const SSL_AND_OUR_TIMES: [u8; 2] = 0x8a00_u16.to_le_bytes();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, authority).expect("signed");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8"),
            )
            .expect("a certificate with its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("localhost", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let greeting = [
            &b"\x0a8.4.0\0\x01\0\0\0abcdefgh\0"[..],
            &SSL_AND_OUR_TIMES,
            &[45, 2, 0, 8, 0, 21],
            &[0; 10],
            b"abcdefghijkl\0caching_sha2_password\0",
        ];
        let greeting = packet(0, &greeting.concat());
        let refusal = [&[0xff], &REFUSED.to_le_bytes()[..], b"#28000Access denied"].concat();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut demand_for_tls = [0; 36];
                stream.write_all(&greeting).await.expect("greeted");
                stream.read_exact(&mut demand_for_tls).await.expect("an answer");
                // Whoever does not believe the certificate goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(&packet(3, &refusal)).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    async fn is_believed(port: u16, host: &str, given: &[(&str, &str)]) -> bool {
        let options = MySqlConnectOptions::new().host(host).port(port).username("u").password("p");
        let outcome = settings(given).expect("settings").demanded(options).connect().await;
        server_code(&outcome.expect_err("nobody is let in")) == Some(REFUSED)
    }

    #[tokio::test]
    async fn a_server_is_believed_by_whoever_has_the_certificate_of_its_authority() {
        let (ours, another) = (authority(), authority());
        let port = server(&ours).await;
        let (ours, another) = (("AUTH_DB_CA", &*ours.pem()), ("AUTH_DB_CA", &*another.pem()));
        for mode in ["verify_ca", "verify_identity"] {
            let mode = ("AUTH_DB_TLS", mode);
            assert!(!is_believed(port, "localhost", &[mode]).await, "{mode:?}");
            assert!(!is_believed(port, "localhost", &[mode, another]).await, "{mode:?}");
            assert!(is_believed(port, "localhost", &[mode, ours]).await, "{mode:?}");
        }
        assert!(is_believed(port, "127.0.0.1", &[("AUTH_DB_TLS", "verify_ca"), ours]).await);
        assert!(!is_believed(port, "127.0.0.1", &[("AUTH_DB_TLS", "verify_identity"), ours]).await);
        assert!(is_believed(port, "localhost", &[("AUTH_DB_TLS", "required")]).await);
    }

    #[test]
    fn an_authority_that_is_broken_or_that_nobody_would_ask_for_is_a_fault() {
        let good = authority().pem();
        for broken in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
            let outcome = settings(&[("AUTH_DB_TLS", "verify_ca"), ("AUTH_DB_CA", broken)]);
            // An empty one is none.
            assert_eq!(outcome.is_ok(), broken.is_empty(), "{broken:?}");
            assert!(outcome.map_or_else(|fault| fault.contains("AUTH_DB_CA: "), |_| true));
        }
        for mode in ["disabled", "preferred", "required"] {
            let fault = settings(&[("AUTH_DB_TLS", mode), ("AUTH_DB_CA", &good)]).expect_err(mode);
            assert!(fault.contains("AUTH_DB_CA: "), "{fault}");
        }
    }
}
