//! The access token: its claims, and signing and verifying it (RFC 9068, RFC 8725). ring does the cryptography.

mod keys;
mod ring_provider;

use jsonwebtoken::{EncodingKey, Header, Validation};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{Role, Tier};

pub use crate::names::Algorithm;
pub use keys::{KeyFault, KeyPair, SigningKey, VerifyingKey, key_set};

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

/// What an access token says. Every claim is required and of this JSON type.
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

/// Verifies access tokens against a set of keys.
pub struct Verifier {
    keys: Vec<(VerifyingKey, Validation)>,
}

impl Verifier {
    /// Accepts these keys, each with its one algorithm, and this audience alone (RFC 8725 section 3.1).
    pub fn new(keys: Vec<VerifyingKey>, audience: &str) -> Self {
        ring_provider::install();
        let validation = |key: &VerifyingKey| {
            let mut validation = Validation::new(key.algorithm.into());
            validation.set_audience(&[audience]);
            validation.set_issuer(&[ISSUER]);
            validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
            // Times are compared below, with the caller's clock.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation
        };
        let keys = keys.into_iter().map(|key| (validation(&key), key)).map(|(v, key)| (key, v)).collect();
        Verifier { keys }
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
        let keys: Vec<_> = self.keys.iter().filter_map(|(key, _)| key.to_jwk()).collect();
        serde_json::json!({ "keys": keys })
    }

    /// The claims of a token that is genuine and good at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenFault::Expired`] only for a token that is genuine in every other respect.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES || !token.bytes().all(is_token_byte) {
            return Err(TokenFault::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Invalid)?;
        let named = self.keys.iter().filter(|(key, _)| key.kid == header.kid);
        let claims: Claims = named
            .map(|(key, validation)| jsonwebtoken::decode(token, &key.key, validation))
            .find_map(Result::ok)
            .ok_or(TokenFault::Invalid)?
            .claims;
        let typed = header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TOKEN_TYPE));
        let lifetime = claims.exp.checked_sub(claims.iat);
        let timely = claims.nbf <= now + LEEWAY_SECONDS
            && claims.iat <= now + LEEWAY_SECONDS
            && lifetime.is_some_and(|seconds| (0..=MAX_LIFETIME_SECONDS).contains(&seconds));
        if !typed || !timely || claims.sub != claims.user_id {
            return Err(TokenFault::Invalid);
        }
        if claims.exp <= now { Err(TokenFault::Expired) } else { Ok(claims) }
    }
}

/// base64url without padding, and dots (RFC 7515 section 3.1).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm as Jwa;

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
