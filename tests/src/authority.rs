use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Signs the certificates of a sandbox.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }
}

impl Authority {
    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.certificate.clone()
    }

    /// A certificate for a name, and its key, PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// The files with the certificate that the processes of a sandbox have.
pub struct Certificates(TempDir);

impl Default for Certificates {
    fn default() -> Self {
        Certificates(tempfile::tempdir().expect("a folder"))
    }
}

impl Certificates {
    /// What the processes are told.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        let path = |name| self.path(name).to_str().expect("UTF-8").to_owned();
        [
            ("GRPC_TLS_CA_FILE", path("ca.pem")),
            ("GRPC_TLS_CERT_FILE", path("cert.pem")),
            ("GRPC_TLS_KEY_FILE", path("key.pem")),
            ("GRPC_TLS_RELOAD_SECONDS", "1".to_owned()),
        ]
    }

    /// Gives the processes a certificate of `by`, and lets them believe those that `believed` have signed.
    pub fn renew(&self, by: &Authority, believed: &[&Authority]) {
        let (certificate, key) = by.issue("127.0.0.1");
        let authorities: String = believed.iter().map(|authority| authority.certificate()).collect();
        self.write("ca.pem", &authorities);
        self.write("key.pem", &key);
        self.write("cert.pem", &certificate);
    }

    /// Puts a text into one of the files: `ca.pem`, `cert.pem`, `key.pem`.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
