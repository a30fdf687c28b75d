//! An HTTP client over hyper, plain or with TLS by rustls.

use std::error::Error;
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
    /// In words: nobody answers there, or not in time.
    pub async fn begin(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, String> {
        match tokio::time::timeout(limit, self.0.request(request)).await {
            Ok(answer) => answer.map_err(|error| root_cause(&error)),
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Http::begin`], and when the answer breaks off.
    pub async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, String> {
        let whole = async {
            let (parts, body) = self.begin(request, limit).await?.into_parts();
            let body = body.collect().await.map_err(|error| root_cause(&error))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(limit, whole)
            .await
            .unwrap_or_else(|_| Err(format!("no whole answer within {} s", limit.as_secs())))
    }

    /// As [`Http::send`], a GET without anything.
    ///
    /// # Errors
    /// As [`Http::send`], and when it is no URL.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Answer, String> {
        let request = Request::get(url).body(Full::default()).map_err(|error| error.to_string())?;
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
