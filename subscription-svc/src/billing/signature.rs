//! Whether a webhook was sent by Stripe: `Stripe-Signature: t=<seconds>,v1=<hex>,…` holds HMAC-SHA256 signatures over
//! `<seconds>.<body>`. <https://docs.stripe.com/webhooks#verify-manually>

use chrono::{DateTime, Utc};
use contract::{Failure, Outcome};
use ring::hmac::{self, HMAC_SHA256};
use secrecy::{ExposeSecret, SecretString};

/// How far the time of a signature may be from ours, in seconds.
const TOLERANCE: i64 = 300;
/// Stripe sends one signature for each secret that is valid; more than these are not looked at.
const MAX_SIGNATURES: usize = 8;

/// The secrets of the endpoint; several while one is being replaced.
pub struct Secrets(Vec<hmac::Key>);

impl Secrets {
    pub fn new(secrets: &[SecretString]) -> Self {
        let keys = secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty());
        Secrets(keys.map(|secret| hmac::Key::new(HMAC_SHA256, secret.as_bytes())).collect())
    }

    /// Checks the signature of a body at `now`.
    ///
    /// # Errors
    /// REQ001.
    pub fn verify(&self, signature: &str, body: &[u8], now: DateTime<Utc>) -> Outcome<()> {
        let refused = |fault| Failure::field("Stripe-Signature", fault);
        let given = Signature::parse(signature).ok_or_else(|| refused("is missing or malformed"))?;
        if now.timestamp().abs_diff(given.seconds) > TOLERANCE.unsigned_abs() {
            return Err(refused("is too old, or from the future"));
        }
        let signed = [given.time.as_bytes(), b".", body].concat();
        let is_one = |tag: &Vec<u8>| self.0.iter().any(|key| hmac::verify(key, &signed, tag).is_ok());
        if given.tags.iter().any(is_one) { Ok(()) } else { Err(refused("is wrong")) }
    }
}

struct Signature<'a> {
    /// As it was signed.
    time: &'a str,
    seconds: i64,
    tags: Vec<Vec<u8>>,
}

impl<'a> Signature<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let pairs = || header.split(',').filter_map(|pair| pair.trim().split_once('='));
        let time = pairs().find(|(name, _)| *name == "t")?.1;
        let tags = pairs().filter(|(name, _)| *name == "v1").filter_map(|(_, tag)| hex::decode(tag).ok());
        Some(Signature { time, seconds: time.parse().ok()?, tags: tags.take(MAX_SIGNATURES).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";
    const FORMER: &str = "whsec_fedcba9876543210fedcba9876543210";
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;
    const AT: i64 = 1_800_000_000;
    /// `printf '%s' '1800000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_0123…`
    const TAG: &str = "da2d5ff64aee1072edde03c3f70c3b61b91ef782c4e6376372723d66c3130b16";

    fn secrets(all: &[&str]) -> Secrets {
        Secrets::new(&all.iter().map(|&secret| secret.to_owned().into()).collect::<Vec<SecretString>>())
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    #[test]
    fn a_signature_is_good_for_five_minutes_on_either_side() {
        let header = format!("t={AT},v1={TAG},v0=ignored");
        for (seconds, good) in
            [(AT - 301, false), (AT - 300, true), (AT, true), (AT + 300, true), (AT + 301, false)]
        {
            assert_eq!(secrets(&[SECRET]).verify(&header, BODY, at(seconds)).is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn any_signature_by_any_secret_is_enough() {
        let wrong = "0".repeat(64);
        for header in [
            format!("t={AT},v1={TAG}"),
            format!("t={AT},v1={wrong},v1={TAG}"),
            format!("v1={TAG}, t={AT}"),
            format!("t={AT},v1=no-hex,v1={TAG}"),
        ] {
            assert!(secrets(&[SECRET]).verify(&header, BODY, at(AT)).is_ok(), "{header}");
            assert!(secrets(&[FORMER, SECRET]).verify(&header, BODY, at(AT)).is_ok(), "{header}");
            assert!(secrets(&[FORMER]).verify(&header, BODY, at(AT)).is_err(), "{header}");
        }
    }

    #[test]
    fn what_is_not_signed_by_stripe_is_refused() {
        let good = format!("t={AT},v1={TAG}");
        let refused = |secrets: &Secrets, header: &str, body: &[u8]| {
            let failure = secrets.verify(header, body, at(AT)).expect_err(header);
            assert_eq!(failure.code().name(), "REQ001");
        };
        let ours = secrets(&[SECRET]);
        refused(&ours, &good, b"{\"id\":\"evt_2\"}");
        let empty =
            hmac::sign(&hmac::Key::new(HMAC_SHA256, b""), &[AT.to_string().as_bytes(), b".", BODY].concat());
        let empty = format!("t={AT},v1={}", hex::encode(empty));
        for header in [
            "",
            "t=",
            &format!("t={AT}"),
            &format!("v1={TAG}"),
            &format!("t={AT},v1="),
            &format!("t={AT},v1={}", &TAG[..62]),
            &format!("t={AT},v0={TAG}"),
            &format!("t={},v1={TAG}", AT + 1),
            &format!("t= {AT},v1={TAG}"),
            &empty,
        ] {
            refused(&ours, header, BODY);
        }
        refused(&secrets(&[""]), &empty, BODY);
        refused(&secrets(&[]), &good, BODY);
    }

    fn tag(time: &str, body: &[u8]) -> String {
        let key = hmac::Key::new(HMAC_SHA256, SECRET.as_bytes());
        hex::encode(hmac::sign(&key, &[time.as_bytes(), b".", body].concat()))
    }

    /// A reader of its own: the first `t`, and whether the right signature is among the `v1`.
    fn is_signed(header: &str, body: &[u8]) -> bool {
        let pairs: Vec<_> = header.split(',').filter_map(|pair| pair.trim().split_once('=')).collect();
        let Some((_, time)) = pairs.iter().find(|(name, _)| *name == "t") else { return false };
        let Ok(seconds) = time.parse::<i128>() else { return false };
        let right = tag(time, body);
        (seconds - i128::from(AT)).abs() <= 300
            && pairs.iter().any(|(name, tag)| *name == "v1" && tag.eq_ignore_ascii_case(&right))
    }

    #[test]
    fn whatever_the_header_only_the_right_signature_of_these_minutes_passes() {
        fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/signature"), |input| {
            let mut parts = input.splitn(2, |byte| *byte == b'\n');
            let (header, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let Ok(header) = std::str::from_utf8(header) else { return };
            // Nobody guesses a signature: `*` stands for the right one at the time that the header says.
            let time = header.split_once("t=").map_or("", |(_, rest)| rest.split(',').next().unwrap_or(rest));
            let header = header.replace('*', &tag(time, body));
            let passes = secrets(&[FORMER, SECRET]).verify(&header, body, at(AT)).is_ok();
            if passes {
                assert!(is_signed(&header, body), "{header}");
                let other = [body, b" "].concat();
                assert!(secrets(&[SECRET]).verify(&header, &other, at(AT)).is_err(), "another body");
                assert!(secrets(&[FORMER]).verify(&header, body, at(AT)).is_err(), "another secret");
            }
        });
    }
}
