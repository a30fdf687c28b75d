//! Certificates for the internal plane on a developer's machine: an authority of our own, and one for each process. Run
//! again it keeps the authority and renews the others, which running processes take over.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::Outcome;
use crate::workspace::{private_folder, root, target, write_private};

#[derive(clap::Args)]
pub struct Options {
    /// Where they are written, by default target/certs
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Further names or addresses under which the processes are reached; may be given several times
    #[arg(long = "host")]
    hosts: Vec<String>,
}

/// The processes of the internal plane.
const PROCESSES: [&str; 3] = ["edge", "identity-svc", "subscription-svc"];
/// Under which each is reached on this machine, beside its own name.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `cargo xtask certs`
pub fn run(options: &Options) -> Outcome {
    let folder = options.folder.as_ref().map_or_else(folder, |folder| root().join(folder));
    issue(&folder, &options.hosts)?;
    println!("Certificates for development are in {}. For each process:", folder.display());
    for process in PROCESSES {
        println!("\n# {process}");
        settings(&folder, process).iter().for_each(|(name, value)| println!("{name}={value}"));
    }
    println!("\n# edge and subscription-svc\nIDENTITY_URL=https://127.0.0.1:50051");
    println!("# edge\nSUBSCRIPTION_URL=https://127.0.0.1:50052");
    println!("\n`cargo xtask up --tls` does all of this by itself.");
    Ok(())
}

/// Where they are unless somebody wants them elsewhere.
pub fn folder() -> PathBuf {
    target("certs")
}

/// Writes the authority, if it is not there yet, and a new certificate for each process.
pub fn issue(folder: &Path, hosts: &[String]) -> Outcome {
    private_folder(folder)?;
    let authority = authority(folder)?;
    for process in PROCESSES {
        let key = KeyPair::generate()?;
        let certificate = params_of(process, hosts)?.signed_by(&key, &authority)?;
        // One after the other: a process that looks in between keeps what it has.
        write_private(&folder.join(format!("{process}.key")), &key.serialize_pem())?;
        write_private(&folder.join(format!("{process}.pem")), &certificate.pem())?;
    }
    Ok(())
}

/// What tells a process of its certificate.
pub fn settings(folder: &Path, process: &str) -> [(&'static str, String); 3] {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        ("GRPC_TLS_CA_FILE", path("ca.pem")),
        ("GRPC_TLS_CERT_FILE", path(&format!("{process}.pem"))),
        ("GRPC_TLS_KEY_FILE", path(&format!("{process}.key"))),
    ]
}

/// The authority: its key stands for it, and the rest is always the same.
fn authority(folder: &Path) -> Outcome<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "AI Persona Platform, development");
    valid_for(&mut params, 3650 * DAY);
    let (kept, shown) = (folder.join("ca.key"), folder.join("ca.pem"));
    let key = if kept.exists() && shown.exists() {
        KeyPair::from_pem(&std::fs::read_to_string(&kept)?)?
    } else {
        let key = KeyPair::generate()?;
        write_private(&kept, &key.serialize_pem())?;
        write_private(&shown, &params.self_signed(&key)?.pem())?;
        key
    };
    Ok(Issuer::new(params, key))
}

fn params_of(process: &str, hosts: &[String]) -> Outcome<CertificateParams> {
    let local = LOCAL.iter().copied().map(str::to_owned);
    let names: Vec<String> =
        std::iter::once(process.to_owned()).chain(local).chain(hosts.iter().cloned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, process);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, 365 * DAY);
    Ok(params)
}

/// From an hour ago, as clocks differ.
fn valid_for(params: &mut CertificateParams, time: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60 * 60)).into();
    params.not_after = (now + time).into();
}
