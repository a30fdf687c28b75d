//! The access token: its claims, and signing and verifying it (RFC 9068, RFC 8725). ring does the cryptography.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{Role, Tier};

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
    /// Signs with HS256.
    pub fn hs256(secret: &SecretString) -> Self {
        use_ring();
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TOKEN_TYPE.to_owned());
        Signer { key: EncodingKey::from_secret(secret.expose_secret().as_bytes()), header }
    }

    /// The signed token.
    ///
    /// # Errors
    /// When the claims cannot be written as JSON.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
    }
}

/// Verifies access tokens. Cheap to share behind an `Arc`.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl Verifier {
    /// Accepts HS256 with this secret and this audience alone.
    pub fn hs256(secret: &SecretString, audience: &str) -> Self {
        use_ring();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Times are compared below, with the caller's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Verifier { key: DecodingKey::from_secret(secret.expose_secret().as_bytes()), validation }
    }

    /// The claims of a token that is genuine and good at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenFault::Expired`] only for a token that is genuine in every other respect.
    pub fn verify(&self, token: &str, now: i64) -> std::result::Result<Claims, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES || !token.bytes().all(is_token_byte) {
            return Err(TokenFault::Invalid);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|_| TokenFault::Invalid)?;
        let typed = data.header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TOKEN_TYPE));
        let claims = data.claims;
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

/// Makes jsonwebtoken use ring, once in the life of a process.
fn use_ring() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |algorithm, key| match algorithm {
            Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))),
            _ => Err(unsupported()),
        },
        verifier_factory: |algorithm, key| match algorithm {
            Algorithm::HS256 => {
                Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))))
            }
            _ => Err(unsupported()),
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    // An error means that a provider is there already, which only this function installs.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

fn unsupported() -> Error {
    jsonwebtoken::errors::new_error(ErrorKind::InvalidAlgorithm)
}

struct Hs256(hmac::Key);

impl signature::Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl signature::Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        hmac::verify(&self.0, message, tag).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
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

    fn verified(token: &str, now: i64) -> std::result::Result<Claims, TokenFault> {
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
        use_ring();
        let key = EncodingKey::from_secret(secret("a").expose_secret().as_bytes());
        let plain = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &key).expect("signed");
        assert_eq!(verified(&plain, NOW), Err(TokenFault::Invalid), "typ JWT is not an access token");
        // {"alg":"none","typ":"at+jwt"} without a signature
        let payload = signed(|_| {}).split('.').nth(1).expect("payload").to_owned();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{payload}.");
        assert_eq!(verified(&unsigned, NOW), Err(TokenFault::Invalid));
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
