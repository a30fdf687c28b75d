//! An HTTP client over hyper, plain or with TLS by rustls.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Silence {
    says: String,
    /// Whether it may be otherwise by itself: nobody listens there, or the connection broke off.
    pub may_pass: bool,
}

impl Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

impl Silence {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut causes = std::iter::successors(Some(error), |error| (*error).source());
        Silence { says: root_cause(error), may_pass: causes.any(is_of_the_connection) }
    }

    fn too_long(what: &str, limit: Duration) -> Self {
        Silence { says: format!("no {what} within {} s", limit.as_secs()), may_pass: false }
    }
}

fn is_of_the_connection(error: &(dyn Error + 'static)) -> bool {
    use ErrorKind as K;
    let is_one = |kind| {
        let broken =
            matches!(kind, K::BrokenPipe | K::ConnectionAborted | K::ConnectionReset | K::UnexpectedEof);
        broken
            || matches!(kind, K::ConnectionRefused | K::HostUnreachable | K::NetworkUnreachable | K::TimedOut)
    };
    let was_cut = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
    was_cut || error.downcast_ref::<io::Error>().is_some_and(|error| is_one(error.kind()))
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Http {
    /// Believes the authorities of the web, or those of a file alone.
    ///
    /// # Errors
    /// When the file has no certificates.
    pub fn new(authority: Option<&Path>) -> Result<Self, String> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match authority {
            None => builder.with_webpki_roots(),
            Some(path) => builder.with_tls_config(believing(path)?),
        };
        let mut plain = HttpConnector::new();
        plain.set_connect_timeout(Some(CONNECT_LIMIT));
        plain.enforce_http(false);
        plain.set_nodelay(true);
        let connector = builder.https_or_http().enable_http1().wrap_connector(plain);
        Ok(Http(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// Sends a request and gives the answer once it has begun.
    ///
    /// # Errors
    /// Nobody answers there, or not in time.
    pub async fn begin(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Silence> {
        match tokio::time::timeout(limit, self.0.request(request)).await {
            Ok(answer) => answer.map_err(|error| Silence::of(&error)),
            Err(_) => Err(Silence::too_long("answer", limit)),
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Http::begin`], and when the answer breaks off.
    pub async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, Silence> {
        let whole = async {
            let (parts, body) = self.begin(request, limit).await?.into_parts();
            let body = body.collect().await.map_err(|error| Silence::of(&error))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        let whole = tokio::time::timeout(limit, whole).await;
        whole.unwrap_or_else(|_| Err(Silence::too_long("whole answer", limit)))
    }

    /// As [`Http::send`], a GET without anything.
    ///
    /// # Errors
    /// As [`Http::send`], and when it is no URL.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Answer, Silence> {
        let request = Request::get(url).body(Full::default());
        let request = request.map_err(|error| Silence { says: error.to_string(), may_pass: false })?;
        self.send(request, limit).await
    }
}

fn believing(path: &Path) -> Result<ClientConfig, String> {
    let fault = |what: &dyn ToString| format!("{}: {}", path.display(), what.to_string());
    let text = std::fs::read(path).map_err(|error| fault(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| fault(&"is not PEM"))?;
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        return Err(fault(&"has no certificate"));
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| fault(&error))?.with_root_certificates(roots).with_no_client_auth())
}

/// What an error comes from in the end: libraries say "client error" first.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Serves over TLS with a certificate of an authority; gives its URL and the PEM of the authority.
    async fn server() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell")
                    .await;
            }
        });
        (url, authority)
    }

    #[tokio::test]
    async fn an_edge_behind_tls_is_believed_for_the_authority_that_is_named_and_for_no_other() {
        let (url, authority) = server().await;
        let path = std::env::temp_dir().join(format!("persona-authority-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, authority).expect("written");
        let limit = Duration::from_secs(10);
        let believing = Http::new(Some(&path)).expect("a client");
        let answer = believing.get(&url, limit).await;
        let refused = Http::new(None).expect("a client").get(&url, limit).await.map(drop);
        std::fs::write(&path, "no certificate").expect("written");
        let empty = Http::new(Some(&path)).map(drop);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(answer.expect("an answer").body.as_ref(), b"well");
        let refused = refused.expect_err("a refusal");
        assert!(refused.to_string().contains("UnknownIssuer") && !refused.may_pass, "{refused}");
        assert!(empty.is_err_and(|fault| fault.contains("has no certificate")));
    }

    #[tokio::test]
    async fn a_place_where_nobody_listens_and_an_answer_that_is_cut_short_may_pass_by_themselves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (http, limit) = (Http::new(None).expect("a client"), Duration::from_secs(10));
        let cut = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
        });
        let fault = http.get(&url, limit).await.map(drop).expect_err("cut");
        cut.await.expect("joined");
        assert!(fault.may_pass, "{fault}");
        // The listener has gone with its task.
        let fault = http.get(&url, limit).await.map(drop).expect_err("nobody");
        assert!(fault.may_pass && fault.to_string().contains("refused"), "{fault}");
        let fault = http.get("http://no.such.name.invalid", limit).await.map(drop).expect_err("no name");
        assert!(!fault.may_pass, "{fault}");
    }
}
