//! The access token: its claims, and signing and verifying it (RFC 9068, RFC 8725). ring does the cryptography.

mod keys;
mod ring_provider;
mod scope;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use secrecy::SecretString;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::{Role, Tier};

pub use crate::names::Algorithm;
pub use keys::{KeyFault, KeyPair, SigningKey, VerifyingKey, key_set};
pub use scope::Scope;

/// `iss` of every token.
pub const ISSUER: &str = "ai-persona-system";
/// `typ` of an access token (RFC 9068 section 2.1).
pub const TOKEN_TYPE: &str = "at+jwt";
/// Seconds by which the clocks of two machines may differ.
pub const LEEWAY_SECONDS: i64 = 5;
/// The longest life of a token that is accepted, in seconds, whatever it says itself.
pub const MAX_LIFETIME_SECONDS: i64 = 24 * 3600;
/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8192;

/// What an access token says. Every claim but the last is required, and all are of this JSON type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    /// The account, like `user_id`.
    pub sub: String,
    pub jti: String,
    /// Seconds since 1970, like `nbf` and `exp`.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    /// The session.
    pub sid: String,
    /// The version of the account's claims; live claims with a higher one replace those of the token.
    pub ver: i64,
    pub user_id: String,
    pub email: String,
    pub client_id: String,
    pub role: Role,
    pub tier: Tier,
    pub permissions: Vec<String>,
    /// That of the API key which the token stands for; absent in tokens of people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// When that key ends, in seconds since 1970: beyond it nothing goes on that was begun with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_exp: Option<i64>,
}

/// The account, session and token that nobody has.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

impl Claims {
    /// Claims of nobody, long over. A token of them is good for nothing, but who finds it expired and not invalid has the
    /// key and the audience.
    pub fn of_nobody(audience: &str) -> Self {
        Claims {
            iss: ISSUER.to_owned(),
            aud: audience.to_owned(),
            sub: NOBODY.to_owned(),
            jti: NOBODY.to_owned(),
            iat: 1,
            nbf: 1,
            exp: 2,
            sid: NOBODY.to_owned(),
            ver: 0,
            user_id: NOBODY.to_owned(),
            email: "nobody@invalid".to_owned(),
            client_id: "nobody".to_owned(),
            role: Role::User,
            tier: Tier::Free,
            permissions: Vec::new(),
            scope: None,
            key_exp: None,
        }
    }

    /// The claims after their account's have been laid over them: a key holds no more than it was made for.
    pub fn narrowed(self) -> Self {
        let Some(scope) = &self.scope else { return self };
        let (role, permissions) = scope.narrow(self.role, self.permissions);
        Claims { role, permissions, ..self }
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It was good once: AUTH002.
    #[error("the token has expired")]
    Expired,
    /// It is not one of ours: AUTH003.
    #[error("the token is not valid")]
    Invalid,
}

/// Signs access tokens. Only identity-svc holds one.
pub struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    pub fn new(key: SigningKey) -> Self {
        ring_provider::install();
        let mut header = Header::new(key.algorithm.into());
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = key.kid;
        Signer { key: key.key, header }
    }

    /// Signs with HS256 and a secret that has no `kid`.
    pub fn hs256(secret: &SecretString) -> Self {
        Signer::new(SigningKey::hs256(secret))
    }

    /// The signed token.
    ///
    /// # Errors
    /// When the claims cannot be written as JSON, or the key is not one of its algorithm.
    pub fn sign(&self, claims: &Claims) -> jsonwebtoken::errors::Result<String> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
    }
}

/// Verifies access tokens against a set of keys. The edge does it for each token that it has not seen; a general library
/// reads the token three times and takes four times as long.
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    audience: String,
}

/// The protected header. Whatever else it says (`jku`, `jwk`, `x5u`, `x5c`) is ignored: keys are those of the set alone
/// (RFC 8725 section 3.10).
#[derive(Deserialize)]
struct TokenHeader<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    typ: Cow<'a, str>,
    kid: Option<Cow<'a, str>>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11). None is.
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// Accepts these keys, each with its one algorithm, and this audience alone (RFC 8725 section 3.1).
    pub fn new(keys: Vec<VerifyingKey>, audience: &str) -> Self {
        Verifier { keys, audience: audience.to_owned() }
    }

    /// Accepts HS256 with this secret and this audience alone.
    pub fn hs256(secret: &SecretString, audience: &str) -> Self {
        Verifier::new(vec![VerifyingKey::hs256(secret)], audience)
    }

    /// Whether there is no key, so that nothing can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The public keys as a JSON Web Key Set (RFC 7517). Secrets have no place in it.
    pub fn public_keys(&self) -> serde_json::Value {
        let keys: Vec<_> = self.keys.iter().filter_map(VerifyingKey::to_jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    /// The claims of a token that is genuine and good at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenFault::Expired`] only for a token that is genuine in every other respect.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenFault> {
        let claims = self.genuine(token).ok_or(TokenFault::Invalid)?;
        let lifetime = claims.exp.checked_sub(claims.iat);
        // Nothing was signed before 1970; other readers do not even have numbers for that.
        let passed = 0..=now + LEEWAY_SECONDS;
        let timely = passed.contains(&claims.nbf)
            && passed.contains(&claims.iat)
            && lifetime.is_some_and(|seconds| (0..=MAX_LIFETIME_SECONDS).contains(&seconds));
        let ours = claims.iss == ISSUER && claims.aud == self.audience && claims.sub == claims.user_id;
        if !timely || !ours {
            return Err(TokenFault::Invalid);
        }
        if claims.exp <= now { Err(TokenFault::Expired) } else { Ok(claims) }
    }

    /// The claims of a token that was signed with one of the keys, by the algorithm of that key.
    fn genuine(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        // All three are read before any cryptography: other characters, padding and spare bits are refused here.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: TokenHeader<'_> = object(&header)?;
        let is_access_token = header.typ.eq_ignore_ascii_case(TOKEN_TYPE) && header.crit.is_none();
        let is_named = |key: &&VerifyingKey| {
            key.kid.as_deref() == header.kid.as_deref() && key.algorithm.name() == header.alg
        };
        let is_genuine = is_access_token
            && self.keys.iter().filter(is_named).any(|key| key.verifies(message.as_bytes(), &signature));
        is_genuine.then(|| object(&payload))?
    }
}

/// Reads a JSON object. serde alone would also take the items of an array for the fields of a structure.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jsonwebtoken::Algorithm as Jwa;
    use secrecy::ExposeSecret;
    use serde_json::value::RawValue;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn secret(text: &str) -> SecretString {
        format!("{text}-0123456789abcdef0123456789abcdef").into()
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: "persona-platform".to_owned(),
            sub: "u1".to_owned(),
            jti: "j1".to_owned(),
            iat: NOW,
            nbf: NOW,
            exp: NOW + 900,
            sid: "s1".to_owned(),
            ver: 1,
            user_id: "u1".to_owned(),
            email: "a@example.com".to_owned(),
            client_id: "web".to_owned(),
            role: Role::User,
            tier: Tier::Free,
            permissions: vec![],
            scope: None,
            key_exp: None,
        }
    }

    fn signed(change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = claims();
        change(&mut claims);
        Signer::hs256(&secret("a")).sign(&claims).expect("signed")
    }

    fn verified(token: &str, now: i64) -> Result<Claims, TokenFault> {
        Verifier::hs256(&secret("a"), "persona-platform").verify(token, now)
    }

    #[test]
    fn a_token_says_what_was_signed_until_it_expires() {
        let token = signed(|_| {});
        assert_eq!(verified(&token, NOW + 899), Ok(claims()));
        assert_eq!(verified(&token, NOW + 900), Err(TokenFault::Expired));
    }

    #[test]
    fn a_token_of_another_key_audience_issuer_or_subject_is_invalid_even_when_expired() {
        let foreign = Signer::hs256(&secret("b")).sign(&claims()).expect("signed");
        let changed = [
            foreign,
            signed(|c| c.aud = "other".to_owned()),
            signed(|c| c.iss = "other".to_owned()),
            signed(|c| c.sub = "u2".to_owned()),
            signed(|c| c.exp = NOW + MAX_LIFETIME_SECONDS + 1),
            signed(|c| c.nbf = NOW + 5000),
            signed(|c| c.iat = i64::MIN),
            signed(|c| c.nbf = -1),
        ];
        for token in changed {
            assert_eq!(verified(&token, NOW), Err(TokenFault::Invalid), "{token}");
        }
    }

    #[test]
    fn another_type_or_algorithm_is_invalid() {
        ring_provider::install();
        let key = SigningKey::hs256(&secret("a")).key;
        let plain = jsonwebtoken::encode(&Header::new(Jwa::HS256), &claims(), &key).expect("signed");
        assert_eq!(verified(&plain, NOW), Err(TokenFault::Invalid), "typ JWT is not an access token");
        // {"alg":"none","typ":"at+jwt"} without a signature
        let payload = signed(|_| {}).split('.').nth(1).expect("payload").to_owned();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{payload}.");
        assert_eq!(verified(&unsigned, NOW), Err(TokenFault::Invalid));
    }

    #[test]
    fn a_key_verifies_its_own_tokens_and_no_others() {
        let pairs: Vec<_> =
            [("one", Algorithm::EdDsa), ("two", Algorithm::EdDsa), ("three", Algorithm::Es256)]
                .into_iter()
                .map(|(kid, algorithm)| KeyPair::generate(kid, algorithm).expect("a key pair"))
                .collect();
        let token =
            |pair: &KeyPair| Signer::new(pair.signing_key().expect("a key")).sign(&claims()).expect("signed");
        let all = pairs.iter().map(|pair| pair.verifying_key().expect("a key")).collect();
        let all = Verifier::new(all, "persona-platform");
        for pair in &pairs {
            assert_eq!(all.verify(&token(pair), NOW), Ok(claims()), "{:?}", pair.algorithm);
        }
        let one = Verifier::new(vec![pairs[0].verifying_key().expect("a key")], "persona-platform");
        assert_eq!(one.verify(&token(&pairs[1]), NOW), Err(TokenFault::Invalid));
        assert_eq!(all.verify(&signed(|_| {}), NOW), Err(TokenFault::Invalid), "a secret nobody configured");
        let jwks = all.public_keys();
        assert_eq!((&jwks["keys"][0]["kty"], &jwks["keys"][2]["crv"]), (&"OKP".into(), &"P-256".into()));
    }

    /// A token of these very texts, signed as it should be.
    fn spelled(header: &str, payload: &str) -> String {
        let message = [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)].join(".");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret("a").expose_secret().as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
        format!("{message}.{signature}")
    }

    #[test]
    fn a_header_that_asks_for_more_than_is_understood_is_refused() {
        let payload = serde_json::to_string(&claims()).expect("claims");
        let good = r#"{"alg":"HS256","typ":"at+jwt"}"#;
        assert_eq!(verified(&spelled(good, &payload), NOW), Ok(claims()));
        for bad in [
            r#"{"alg":"HS256","typ":"at+jwt","crit":["exp"]}"#,
            r#"{"alg":"HS256","typ":"at+jwt","crit":[]}"#,
            r#"{"alg":"HS256","alg":"HS256","typ":"at+jwt"}"#,
            r#"{"alg":"none","typ":"at+jwt"}"#,
            r#"{"alg":"HS384","typ":"at+jwt"}"#,
            r#"{"alg":"hs256","typ":"at+jwt"}"#,
            r#"{"alg":["HS256"],"typ":"at+jwt"}"#,
            r#"{"alg":"HS256","typ":"at+jwt","kid":"one"}"#,
            r#"{"alg":"HS256","typ":"at+jwt","kid":1}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"typ":"at+jwt"}"#,
            r#"{"alg":"HS256","typ":"at+jwt"} x"#,
            r#"["HS256","at+jwt",null,null]"#,
            "[]",
            "",
        ] {
            assert_eq!(verified(&spelled(bad, &payload), NOW), Err(TokenFault::Invalid), "{bad}");
        }
        let ignored =
            r#"{"alg":"HS256","typ":"AT+JWT","kid":null,"jku":"https://evil.example","jwk":{"kty":"oct"}}"#;
        assert_eq!(verified(&spelled(ignored, &payload), NOW), Ok(claims()));
    }

    #[test]
    fn every_claim_is_required_once_and_of_its_type() {
        let header = r#"{"alg":"HS256","typ":"at+jwt"}"#;
        let payload = serde_json::to_value(claims()).expect("claims");
        for name in payload.as_object().expect("an object").keys() {
            let text = payload.to_string();
            let twice = text.replacen('{', &format!("{{\"{name}\":{},", payload[name]), 1);
            assert_eq!(verified(&spelled(header, &twice), NOW), Err(TokenFault::Invalid), "{name} twice");
            let wrong = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
                let mut changed = payload.clone();
                change(changed.as_object_mut().expect("an object"));
                verified(&spelled(header, &changed.to_string()), NOW)
            };
            let gone = wrong(&|claims| drop(claims.remove(name)));
            let null = wrong(&|claims| claims[name] = serde_json::Value::Null);
            let other = wrong(&|claims| {
                claims[name] = if claims[name].is_string() { 1.into() } else { "1".into() };
            });
            let fraction = wrong(&|claims| claims[name] = 1_800_000_000.5.into());
            for outcome in [gone, null, other, fraction] {
                assert_eq!(outcome, Err(TokenFault::Invalid), "{name}");
            }
        }
    }

    #[test]
    fn a_public_key_is_never_taken_for_a_secret() {
        let pair = KeyPair::generate("one", Algorithm::EdDsa).expect("a key pair");
        let verifier = Verifier::new(vec![pair.verifying_key().expect("a key")], "persona-platform");
        let mut header = Header::new(Jwa::HS256);
        (header.typ, header.kid) = (Some(TOKEN_TYPE.to_owned()), Some("one".to_owned()));
        let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&pair.public));
        assert_eq!(verifier.verify(&forged.expect("signed"), NOW), Err(TokenFault::Invalid));
    }

    #[test]
    fn a_derived_secret_is_another_for_each_kid_and_root() {
        let token = |root: &str, kid: &str| {
            Signer::new(SigningKey::derived(&secret(root), kid)).sign(&claims()).expect("signed")
        };
        let keys = vec![VerifyingKey::derived(&secret("a"), "k1")];
        let verifier = Verifier::new(keys, "persona-platform");
        assert_eq!(verifier.verify(&token("a", "k1"), NOW), Ok(claims()));
        for (root, kid) in [("a", "k2"), ("b", "k1")] {
            assert_eq!(verifier.verify(&token(root, kid), NOW), Err(TokenFault::Invalid));
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_any_cryptography() {
        for token in ["", ".", "a.b", "a b.c.d", "é.é.é", &"a".repeat(MAX_TOKEN_BYTES + 1)] {
            assert_eq!(verified(token, NOW), Err(TokenFault::Invalid));
        }
    }

    /// A JSON object whose values are read by whoever needs them: what is ignored may be a number beyond any range.
    type Object = BTreeMap<String, Box<RawValue>>;

    /// What the signer's library makes of a token under the same rules, clocks apart.
    fn told_by_the_library(token: &str) -> Option<Object> {
        ring_provider::install();
        let mut rules = jsonwebtoken::Validation::new(Jwa::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(&["persona-platform"]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        (rules.validate_exp, rules.validate_nbf) = (false, false);
        let key = jsonwebtoken::DecodingKey::from_secret(secret("a").expose_secret().as_bytes());
        jsonwebtoken::decode(token, &key, &rules).ok().map(|decoded| decoded.claims)
    }

    /// The same token with a header of no more than what counts. The library refuses a parameter that it knows and we
    /// ignore when it stands twice or has another type; RFC 7515 section 4 allows both.
    fn without_ignored(token: &str) -> String {
        let parts: Vec<_> =
            token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64")).collect();
        let mut header: Object = serde_json::from_slice(&parts[0]).expect("a header");
        let before = header.len();
        header.retain(|name, _| matches!(name.as_str(), "alg" | "typ" | "kid" | "crit"));
        if header.len() == before {
            return token.to_owned();
        }
        spelled(
            &serde_json::to_string(&header).expect("a header"),
            std::str::from_utf8(&parts[1]).expect("a payload of text"),
        )
    }

    /// A token that is accepted is one of the signer's, says everything, and is refused once a bit of it has changed.
    fn is_beyond_doubt(token: &str) {
        let Ok(claims) = verified(token, NOW) else { return };
        let told =
            told_by_the_library(&without_ignored(token)).expect("the signer's library accepts it, too");
        assert!(told.len() >= 15, "no claim is missing");
        let own = serde_json::to_value(&claims).expect("claims");
        for (name, claim) in own.as_object().expect("an object") {
            let told: serde_json::Value = serde_json::from_str(told[name].get()).expect(name);
            assert_eq!(told, *claim, "{name}");
        }
        for place in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[place] ^= 1 << (place % 7);
            let changed = String::from_utf8(changed).expect("still ASCII");
            assert_eq!(verified(&changed, NOW), Err(TokenFault::Invalid), "bit of byte {place}");
        }
    }

    #[test]
    fn whatever_is_accepted_is_a_token_of_the_signer_bit_by_bit() {
        fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/token"), |input| {
            let Ok(input) = std::str::from_utf8(input) else { return };
            is_beyond_doubt(input);
            // Few inputs are signed; so the two texts before and after a line end are.
            if let Some((header, payload)) = input.split_once('\n') {
                is_beyond_doubt(&spelled(header, payload));
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn no_changed_character_goes_unnoticed(place in 0usize..400, letter in "[A-Za-z0-9_-]") {
            let mut token = signed(|_| {});
            let place = place % token.len();
            if token.as_bytes()[place] != b'.' && !token[place..].starts_with(letter.as_str()) {
                token.replace_range(place..=place, &letter);
                // The last character of the signature has spare bits, which strict base64 refuses.
                proptest::prop_assert_eq!(verified(&token, NOW), Err(TokenFault::Invalid));
            }
        }
    }
}
