//! TLS of the internal plane. A process has one certificate, as a server and as a client. What comes from files is
//! taken over when they change; connections that are open go on with what they began with, until an authority that they
//! may owe their trust to is believed no more.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use http::uri::Scheme;
use prometheus::{IntCounterVec, IntGauge};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::settings::Env;

const CERTIFICATE: &str = "GRPC_TLS_CERT";
const KEY: &str = "GRPC_TLS_KEY";
const AUTHORITY: &str = "GRPC_TLS_CA";
/// The protocol of gRPC, which both sides name in the handshake.
const ALPN: &[u8] = b"h2";

/// Who a process is, and whose certificates it believes. Cheap to clone; all clones change together.
#[derive(Clone, Default)]
pub struct Tls(Option<Arc<Live>>);

struct Live {
    files: Files,
    interval: Duration,
    first: Pems,
    current: ArcSwap<Configs>,
    is_watched: AtomicBool,
}

/// Where the texts come from that have a file.
struct Files {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    authority: Option<PathBuf>,
}

/// What the configurations are made of.
#[derive(Clone, Default)]
struct Pems {
    certificate: Option<String>,
    key: Option<SecretString>,
    authority: Option<String>,
}

/// What connections begin with.
#[derive(Default)]
struct Configs {
    server: Option<Arc<ServerConfig>>,
    client: Option<Arc<ClientConfig>>,
    /// Cancelled when an authority is believed no more that was when a connection began.
    trust: CancellationToken,
}

impl Tls {
    /// Reads the certificates and tries them.
    pub fn read(env: &mut Env) -> Self {
        let certificate = env.optional(
            CERTIFICATE,
            "PEM certificate chain of the process for internal gRPC, for its names as server and client; mostly \
             `GRPC_TLS_CERT_FILE`",
        );
        let key = env.optional::<String>(KEY, "Its private key, PEM").map(Into::into);
        env.conceal(KEY);
        let authority = env.optional(
            AUTHORITY,
            "PEM certificates of the authority that signs those of the other processes; with it, a service admits no \
             caller without one (mutual TLS)",
        );
        let interval = Duration::from_secs(env.number(
            "GRPC_TLS_RELOAD_SECONDS",
            "10",
            1..=86_400,
            "Seconds after which the files of the three are looked at again; new ones are taken over, broken ones are not",
        ));
        let files = Files {
            certificate: env.file_of(CERTIFICATE),
            key: env.file_of(KEY),
            authority: env.file_of(AUTHORITY),
        };
        let first = Pems { certificate, key, authority };
        if first.is_empty() {
            return Tls::default();
        }
        match Configs::of(&first) {
            Ok(configs) => {
                let current = ArcSwap::from_pointee(configs);
                let is_watched = AtomicBool::new(false);
                Tls(Some(Arc::new(Live { files, interval, first, current, is_watched })))
            }
            Err(fault) => {
                env.fault(format!("{CERTIFICATE}, {KEY} or {AUTHORITY}: {fault}"));
                Tls::default()
            }
        }
    }

    /// What a service listens with from now on, and how long it holds; without a certificate of its own it speaks plain
    /// HTTP/2.
    pub fn server(&self) -> Option<(Arc<ServerConfig>, CancellationToken)> {
        let current = self.0.as_ref()?.current.load();
        Some((current.server.clone()?, current.trust.clone()))
    }

    /// What `https` URLs are called with from now on, and how long it holds; needs an authority to believe.
    pub fn client(&self) -> Option<(Arc<ClientConfig>, CancellationToken)> {
        let current = self.0.as_ref()?.current.load();
        Some((current.client.clone()?, current.trust.clone()))
    }

    /// Cancelled when an authority that is believed now is believed no more.
    pub fn trust(&self) -> CancellationToken {
        self.0.as_ref().map(|live| live.current.load().trust.clone()).unwrap_or_default()
    }

    /// How long a connection lasts after the end of its trust: until the others have read their files, too, and the
    /// calls that had begun are over.
    pub fn farewell(&self) -> Duration {
        self.0.as_ref().map(|live| live.interval).unwrap_or_default() + super::CALL_TIMEOUT
    }

    /// Whether replicas can be called: `https` needs an authority to believe.
    pub fn can_call(&self, replicas: &[Uri]) -> bool {
        self.client().is_some() || !replicas.iter().any(|uri| uri.scheme() == Some(&Scheme::HTTPS))
    }

    /// Takes over what changes in the files from now on; to ask again changes nothing.
    pub fn keep_current(&self) {
        let Some(live) = self.0.as_ref().filter(|live| live.files.are_any()) else { return };
        if !live.is_watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_current(live.clone()));
        }
    }
}

async fn keep_current(live: Arc<Live>) {
    let mut used = live.first.clone();
    let mut complaint = None;
    loop {
        let outcome = match live.files.read(&live.first).await {
            Ok(read) if read == used => Ok(None),
            Ok(read) => Configs::of(&read).map(|configs| Some((read, configs))),
            Err(fault) => Err(fault),
        };
        IS_CURRENT.set(i64::from(outcome.is_ok()));
        match outcome {
            Ok(None) => complaint = None,
            Ok(Some((read, configs))) => {
                live.take_over(configs, read.believes_all_of(&used));
                (used, complaint) = (read, None);
                RELOADS.with_label_values(&["taken_over"]).inc();
                tracing::info!("new certificates of the internal plane are in use");
            }
            // The same fault is said once, however often it is met.
            Err(fault) if complaint.as_ref() == Some(&fault) => {}
            Err(fault) => {
                RELOADS.with_label_values(&["refused"]).inc();
                tracing::error!(fault, "new certificates cannot be used; the former ones stay in use");
                complaint = Some(fault);
            }
        }
        tokio::time::sleep(live.interval).await;
    }
}

impl Live {
    /// What connections begin with from now on. `keeps_trust`: whether those that are open may stay.
    fn take_over(&self, configs: Configs, keeps_trust: bool) {
        let former = self.current.load().trust.clone();
        if keeps_trust {
            self.current.store(Arc::new(Configs { trust: former, ..configs }));
        } else {
            self.current.store(Arc::new(configs));
            former.cancel();
        }
    }
}

impl Files {
    fn are_any(&self) -> bool {
        self.certificate.is_some() || self.key.is_some() || self.authority.is_some()
    }

    /// What stands in the files now; what has none stays as it was first.
    async fn read(&self, first: &Pems) -> Result<Pems, String> {
        Ok(Pems {
            certificate: read(&self.certificate).await?.or_else(|| first.certificate.clone()),
            key: read(&self.key).await?.map(Into::into).or_else(|| first.key.clone()),
            authority: read(&self.authority).await?.or_else(|| first.authority.clone()),
        })
    }
}

async fn read(file: &Option<PathBuf>) -> Result<Option<String>, String> {
    let Some(path) = file else { return Ok(None) };
    let text = tokio::fs::read_to_string(path).await;
    // As the settings are read: without the end of the last line.
    text.map(|text| Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        .map_err(|fault| format!("{}: {fault}", path.display()))
}

impl PartialEq for Pems {
    fn eq(&self, other: &Pems) -> bool {
        let key = |pems: &Pems| pems.key.as_ref().map(|key| key.expose_secret().to_owned());
        self.certificate == other.certificate && self.authority == other.authority && key(self) == key(other)
    }
}

impl Pems {
    fn is_empty(&self) -> bool {
        self.certificate.is_none() && self.key.is_none() && self.authority.is_none()
    }

    /// Whether every authority that was believed still is.
    fn believes_all_of(&self, former: &Pems) -> bool {
        let all = |pems: &Pems| pems.authority.as_deref().and_then(|text| certificates(text).ok());
        let now = all(self).unwrap_or_default();
        all(former).unwrap_or_default().iter().all(|authority| now.contains(authority))
    }

    fn own(&self) -> Result<Option<Own>, String> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Ok(Some(Own::of(certificate, key)?)),
            (None, None) => Ok(None),
            _ => Err("both a certificate and its key are needed, or none".to_owned()),
        }
    }

    fn roots(&self) -> Result<Option<Arc<RootCertStore>>, String> {
        let Some(text) = &self.authority else { return Ok(None) };
        Ok(Some(Arc::new(roots(text)?)))
    }
}

/// The authorities whose certificates a text in PEM has, at least one.
pub fn roots(text: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots.add(certificate).map_err(|fault| fault.to_string())?;
    }
    Ok(roots)
}

/// The certificate of the process, with its key.
struct Own {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Own {
    fn of(certificate: &str, key: &SecretString) -> Result<Self, String> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes());
        Ok(Own { chain, key: key.map_err(|_| "the key is not one in PEM".to_owned())? })
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.map_err(|_| "the PEM of a certificate is broken".to_owned())?;
    if all.is_empty() { Err("there is no certificate where one is needed".to_owned()) } else { Ok(all) }
}

impl Configs {
    fn of(pems: &Pems) -> Result<Self, String> {
        let (own, roots) = (pems.own()?, pems.roots()?);
        let client = match &roots {
            Some(roots) => Some(Arc::new(client(roots, own.as_ref())?)),
            None => None,
        };
        let server = own.map(|own| server(roots, own)).transpose()?;
        Ok(Configs { server: server.map(Arc::new), client, trust: CancellationToken::new() })
    }
}

fn server(roots: Option<Arc<RootCertStore>>, own: Own) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let said = |fault: &dyn ToString| fault.to_string();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|fault| said(&fault))?;
    let builder = match roots {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|fault| said(&fault))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(own.chain, own.key).map_err(|fault| said(&fault))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn client(roots: &Arc<RootCertStore>, own: Option<&Own>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let said = |fault: &dyn ToString| fault.to_string();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|fault| said(&fault))?
        .with_webpki_verifier(verifier.map_err(|fault| said(&fault))?);
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .map_err(|fault| said(&fault))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

static RELOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "grpc_tls_reloads_total",
        "Changed files of certificates, by what came of them: taken_over, refused",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static IS_CURRENT: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "grpc_tls_is_current",
        "1 while the certificates in use are those of the files, 0 while the files cannot be used"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
