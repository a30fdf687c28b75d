//! Verifies that a request comes from the edge. Needs the crates `ring` and `base64`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What a signature must cover, always in this order.
const COMPONENTS: [&str; 10] = [
    "@method",
    "@path",
    "@query",
    "x-user-id",
    "x-client-id",
    "x-user-role",
    "x-user-tier",
    "x-user-email",
    "x-user-permissions",
    "x-request-id",
];
/// Seconds that a signature is good for, and by which our clock may be behind.
const WINDOW: u64 = 60;

/// The request as it came: method, path with query as on the wire, and all headers.
pub struct Seen<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub headers: &'a [(String, String)],
}

/// Gives the nonce of a good signature, for those who refuse one that came before. `keys` are pairs of id and secret;
/// `now` is in seconds since 1970.
pub fn verify(seen: &Seen, keys: &[(&str, &str)], now: u64) -> Result<String, &'static str> {
    let input = seen.header("x-identity-signature-input")?.strip_prefix("edge=").ok_or("another label")?;
    let mut params = input.split(';');
    let components = COMPONENTS.map(|name| format!("\"{name}\"")).join(" ");
    if params.next() != Some(&format!("({components})")) {
        return Err("other components are signed");
    }
    let mut param = |name: &str| -> Option<&str> { params.next()?.strip_prefix(name)?.strip_prefix('=') };
    let created: u64 = param("created").and_then(|time| time.parse().ok()).ok_or("no time")?;
    let nonce = param("nonce").ok_or("no nonce")?.trim_matches('"');
    let id = param("keyid").ok_or("no key")?.trim_matches('"');
    if (param("alg"), param("tag"), params.next())
        != (Some("\"hmac-sha256\""), Some("\"persona-identity\""), None)
    {
        return Err("another algorithm or purpose");
    }
    if created + WINDOW < now || created > now + WINDOW {
        return Err("too old, or of the future");
    }
    let (_, secret) = keys.iter().find(|(known, _)| *known == id).ok_or("an unknown key")?;
    let signature = seen.header("x-identity-signature")?;
    let signature = signature.strip_prefix("edge=:").and_then(|rest| rest.strip_suffix(':'));
    let signature = signature.and_then(|text| STANDARD.decode(text).ok()).ok_or("no signature")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let base = seen.base(input)?;
    hmac::verify(&key, base.as_bytes(), &signature).map_err(|_| "a wrong signature")?;
    Ok(nonce.to_owned())
}

impl Seen<'_> {
    /// The one value of a header.
    fn header(&self, name: &str) -> Result<&str, &'static str> {
        let mut values = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(value.trim()),
            _ => Err("a header is missing, or there twice"),
        }
    }

    fn base(&self, input: &str) -> Result<String, &'static str> {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        let mut base = String::new();
        for name in COMPONENTS {
            let value = match name {
                "@method" => self.method.to_owned(),
                "@path" => path.to_owned(),
                "@query" => format!("?{query}"),
                _ => self.header(name)?.to_owned(),
            };
            base += &format!("\"{name}\": {value}\n");
        }
        Ok(base + "\"@signature-params\": " + input)
    }
}
