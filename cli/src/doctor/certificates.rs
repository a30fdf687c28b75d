//! How long the certificates of the internal plane are good.

use std::collections::BTreeMap;
use std::sync::Arc;

use chassis::settings::Value;
use chrono::{DateTime, TimeDelta, Utc};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};

use crate::deployment::Member;
use crate::report::{Check, names};

const SUBJECT: &str = "certificates";
/// How long before its end a certificate should have been renewed.
const NOTICE: TimeDelta = TimeDelta::days(14);
const REMEDY: &str = "renew it in its file, which running processes take over (docs/operations.md, \"Certificates of the \
                      internal plane\")";

/// Each certificate once, whoever has it.
pub fn checks(members: &[Member], now: DateTime<Utc>) -> Vec<Check> {
    let mut texts: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for member in members {
        for name in ["GRPC_TLS_CERT", "GRPC_TLS_CA"] {
            if let Some(Value::Plain(text)) = member.survey.find(name).map(|setting| &setting.value) {
                texts.entry((name, text)).or_default().push(member.process.name());
            }
        }
    }
    let mut checks = Vec::new();
    let mut ends = Vec::new();
    for ((name, text), who) in &texts {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).flatten();
        for life in certificates.filter_map(|certificate| life(&certificate)) {
            let what = format!("{name} of {}", names(who));
            ends.push(life.end);
            checks.extend(finding(&what, &life, now));
        }
    }
    if let Some(first) = ends.iter().min().filter(|_| checks.is_empty()) {
        checks.push(Check::ok(
            SUBJECT,
            format!("{} are good, the first until {}", ends.len(), first.format("%F")),
        ));
    }
    checks
}

fn finding(what: &str, life: &Life, now: DateTime<Utc>) -> Option<Check> {
    let day = |time: DateTime<Utc>| time.format("%F %R UTC").to_string();
    if life.end <= now {
        return Some(Check::fault(SUBJECT, format!("{what} has expired on {}", day(life.end)), REMEDY));
    }
    if life.begin > now {
        let says = format!("{what} is not good before {}", day(life.begin));
        return Some(Check::fault(SUBJECT, says, "wait, or correct the clock of who issued it"));
    }
    let is_near = life.end - now < NOTICE;
    is_near.then(|| Check::warning(SUBJECT, format!("{what} expires on {}", day(life.end)), REMEDY))
}

/// When a certificate is good.
struct Life {
    begin: DateTime<Utc>,
    end: DateTime<Utc>,
}

/// rustls reads certificates for itself alone, but says in its refusal why one is not good at a time: it looks at that
/// first of all.
fn life(certificate: &CertificateDer<'_>) -> Option<Life> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    let refusal = |seconds| {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        match verifier.verify_server_cert(certificate, &[], &name, &[], time) {
            Err(Error::InvalidCertificate(fault)) => Some(fault),
            _ => None,
        }
    };
    let time = |time: UnixTime| DateTime::from_timestamp(i64::try_from(time.as_secs()).ok()?, 0);
    // The last second of the year 9999, the last that certificates can name (RFC 5280 section 4.1.2.5).
    let CertificateError::ExpiredContext { not_after, .. } = refusal(253_402_300_800)? else { return None };
    let begin = match refusal(0)? {
        CertificateError::NotValidYetContext { not_before, .. } => time(not_before)?,
        _ => DateTime::UNIX_EPOCH,
    };
    Some(Life { begin, end: time(not_after)? })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(is_authority: bool) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["a.example.com".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn the_life_of_a_certificate_is_read_whether_it_is_an_authority_or_not() {
        for is_authority in [false, true] {
            let life = life(&certificate(is_authority)).expect("a life");
            assert_eq!((life.begin, life.end), (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z")));
        }
    }

    #[test]
    fn a_certificate_is_named_before_after_and_shortly_before_its_end() {
        let life = life(&certificate(false)).expect("a life");
        let says = |time: &str| finding("it", &life, at(time)).map(|check| check.says);
        assert_eq!(says("2026-12-01T00:00:00Z"), None);
        assert_eq!(says("2026-12-20T00:00:00Z").as_deref(), Some("it expires on 2027-01-01 00:00 UTC"));
        assert_eq!(says("2027-01-01T00:00:00Z").as_deref(), Some("it has expired on 2027-01-01 00:00 UTC"));
        assert_eq!(
            says("2025-12-31T00:00:00Z").as_deref(),
            Some("it is not good before 2026-01-01 00:00 UTC")
        );
    }
}
