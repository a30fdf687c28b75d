//! Proof for core-manager that a request is the edge's: an HTTP message signature (RFC 9421) over what is trusted of it.
//! `docs/identity-signature.md` says how it is verified.

use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{Failure, Outcome};
use http::{HeaderName, HeaderValue, Request};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

/// Not `Signature` and `Signature-Input`, as RFC 9421 names them: those are the client's, for whom they concern.
const SIGNATURE: HeaderName = HeaderName::from_static("x-identity-signature");
const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("x-identity-signature-input");

/// What is signed of the request line, and the headers after it, in this order.
const DERIVED: [&str; 3] = ["@method", "@path", "@query"];
const HEADERS: [&str; 7] = [
    "x-user-id",
    "x-client-id",
    "x-user-role",
    "x-user-tier",
    "x-user-email",
    "x-user-permissions",
    "x-request-id",
];

/// By which name core-manager finds the key.
#[derive(Clone, Debug)]
pub struct KeyId(String);

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(KeyId(text.to_owned()))
        } else {
            Err("must be 1 to 64 letters, digits, dots, hyphens or underscores")
        }
    }
}

/// Signs requests to core-manager. Cheap to clone.
#[derive(Clone)]
pub struct Signer(Arc<Key>);

struct Key {
    id: KeyId,
    key: hmac::Key,
    /// What is signed, as the headers say it.
    components: String,
}

impl Signer {
    pub fn new(id: KeyId, secret: &SecretString) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let names: Vec<String> = DERIVED.iter().chain(&HEADERS).map(|name| format!("\"{name}\"")).collect();
        Signer(Arc::new(Key { id, key, components: format!("({})", names.join(" ")) }))
    }

    /// Signs a request whose headers are otherwise those that core-manager gets.
    ///
    /// # Errors
    /// SRV001 when a header that is to be signed is not there.
    pub fn sign<B>(&self, request: &mut Request<B>) -> Outcome<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Failure::internal)?;
        let (created, nonce) = (since.as_secs(), Uuid::new_v4().simple());
        let params = format!(
            r#"{};created={created};nonce="{nonce}";keyid="{}";alg="hmac-sha256";tag="persona-identity""#,
            self.0.components, self.0.id.0
        );
        let base = base(request, &params)?;
        let signature = STANDARD.encode(hmac::sign(&self.0.key, base.as_bytes()));
        let headers = request.headers_mut();
        headers.insert(SIGNATURE_INPUT, value(format!("edge={params}"))?);
        headers.insert(SIGNATURE, value(format!("edge=:{signature}:"))?);
        Ok(())
    }
}

/// What is signed (RFC 9421 section 2.5): a line for each component.
fn base<B>(request: &Request<B>, params: &str) -> Outcome<String> {
    let mut base = String::with_capacity(1024);
    let (uri, headers) = (request.uri(), request.headers());
    let query = uri.query().unwrap_or_default();
    let mut line = |name: &str, value: [&str; 2]| {
        writeln!(base, "\"{name}\": {}{}", value[0], value[1]).map_err(Failure::internal)
    };
    let derived = [[request.method().as_str(), ""], [uri.path(), ""], ["?", query]];
    for (name, value) in DERIVED.iter().zip(derived) {
        line(name, value)?;
    }
    for name in HEADERS {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let value =
            value.ok_or_else(|| Failure::internal(format!("{name} is missing where it is signed")))?;
        line(name, [value.trim(), ""])?;
    }
    write!(base, "\"@signature-params\": {params}").map_err(Failure::internal)?;
    Ok(base)
}

fn value(text: String) -> Outcome<HeaderValue> {
    HeaderValue::try_from(text).map_err(Failure::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Request<()> {
        let mut request = Request::get("/api/v1/x?b=c").body(()).expect("a request");
        let headers = request.headers_mut();
        for name in HEADERS {
            headers.insert(name, HeaderValue::from_static("a"));
        }
        headers.insert("x-user-permissions", HeaderValue::from_static(""));
        let id = "2026-11".parse().expect("an id");
        let signer = Signer::new(id, &"0123456789abcdef0123456789abcdef".to_owned().into());
        signer.sign(&mut request).expect("signed");
        request
    }

    #[test]
    fn a_signature_covers_what_is_trusted_as_rfc_9421_writes_it() {
        let request = signed();
        let headers = request.headers();
        let input = headers[SIGNATURE_INPUT].to_str().expect("text");
        let params = input.strip_prefix("edge=").expect("our label");
        let base = base(&request, params).expect("a base");
        let expected = "\"@method\": GET\n\"@path\": /api/v1/x\n\"@query\": ?b=c\n\"x-user-id\": a\n\
                        \"x-client-id\": a\n\"x-user-role\": a\n\"x-user-tier\": a\n\"x-user-email\": a\n\
                        \"x-user-permissions\": \n\"x-request-id\": a\n\"@signature-params\": (\"@method\" \"@path\" ";
        assert!(base.starts_with(expected), "{base}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
        let signature = headers[SIGNATURE].to_str().expect("text");
        let signature =
            signature.strip_prefix("edge=:").and_then(|rest| rest.strip_suffix(':')).expect("ours");
        let signature = STANDARD.decode(signature).expect("Base64");
        assert!(hmac::verify(&key, base.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn no_two_signatures_are_alike() {
        assert_ne!(signed().headers()[SIGNATURE], signed().headers()[SIGNATURE]);
    }

    #[test]
    fn what_is_missing_is_not_signed_for() {
        let signer = Signer::new("1".parse().expect("an id"), &"k".repeat(32).into());
        assert!(signer.sign(&mut Request::new(())).is_err());
        for bad in ["", "a b", "a\"", "é"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }
}
