//! The keys of access tokens. identity-svc tells everyone which ones are good; a key without a `kid` is the configured
//! secret itself, an HS256 key with one is derived from that secret, so that secrets neither travel nor lie in tables.

use jsonwebtoken::EncodingKey;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, UnparsedPublicKey,
};
use ring::{error, hmac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde_json::{Value, json};

use crate::identity::TokenKey;
use crate::names::Algorithm;

/// A key that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("the key is of an algorithm that is not known here")]
    UnknownAlgorithm,
    #[error("the key cannot be read")]
    Unreadable,
    #[error("HS256 keys have no key pair")]
    Symmetric,
}

impl From<error::KeyRejected> for KeyFault {
    fn from(_: error::KeyRejected) -> Self {
        KeyFault::Unreadable
    }
}

impl From<error::Unspecified> for KeyFault {
    fn from(_: error::Unspecified) -> Self {
        KeyFault::Unreadable
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::HS256,
            Algorithm::EdDsa => Self::EdDSA,
            Algorithm::Es256 => Self::ES256,
        }
    }
}

/// A key that signs.
pub struct SigningKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
}

impl SigningKey {
    /// The configured secret.
    pub fn hs256(secret: &SecretString) -> Self {
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        SigningKey { kid: None, algorithm: Algorithm::Hs256, key }
    }

    /// The HS256 key with this `kid`.
    pub fn derived(root: &SecretString, kid: &str) -> Self {
        let key = EncodingKey::from_secret(derive(root, kid).as_ref());
        SigningKey { kid: Some(kid.to_owned()), algorithm: Algorithm::Hs256, key }
    }
}

/// A key that verifies.
pub struct VerifyingKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    key: Key,
}

/// What verifies, ready for use: a secret's share of the hashing is done once.
enum Key {
    Secret(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl VerifyingKey {
    /// The configured secret.
    pub fn hs256(secret: &SecretString) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        VerifyingKey { kid: None, algorithm: Algorithm::Hs256, key: Key::Secret(key) }
    }

    /// The HS256 key with this `kid`.
    pub fn derived(root: &SecretString, kid: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, derive(root, kid).as_ref());
        VerifyingKey { kid: Some(kid.to_owned()), algorithm: Algorithm::Hs256, key: Key::Secret(key) }
    }

    /// A public key: 32 bytes for EdDSA (RFC 8032), an uncompressed point for ES256 (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// When the bytes are no key of the algorithm.
    pub fn public(algorithm: Algorithm, kid: &str, bytes: &[u8]) -> Result<Self, KeyFault> {
        let key = match (algorithm, bytes) {
            (Algorithm::EdDsa, _) if bytes.len() == 32 => UnparsedPublicKey::new(&ED25519, bytes.to_vec()),
            (Algorithm::Es256, [4, rest @ ..]) if rest.len() == 64 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes.to_vec())
            }
            (Algorithm::Hs256, _) => return Err(KeyFault::Symmetric),
            _ => return Err(KeyFault::Unreadable),
        };
        Ok(VerifyingKey { kid: Some(kid.to_owned()), algorithm, key: Key::Public(key) })
    }

    /// Whether the signature of the message was made with this key; for a secret in constant time.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Key::Public(key) => key.verify(message, signature).is_ok(),
        }
    }

    /// The key as a JSON Web Key (RFC 7517, RFC 8037); `None` for a secret.
    pub(super) fn to_jwk(&self) -> Option<Value> {
        use base64::Engine;
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let Key::Public(key) = &self.key else { return None };
        let public: &[u8] = key.as_ref();
        let mut jwk = json!({ "use": "sig", "alg": self.algorithm.name(), "kid": self.kid });
        match (self.algorithm, public) {
            (Algorithm::Es256, [4, point @ ..]) => {
                let (x, y) = point.split_at(point.len() / 2);
                jwk["kty"] = "EC".into();
                jwk["crv"] = "P-256".into();
                (jwk["x"], jwk["y"]) = (text(x).into(), text(y).into());
            }
            _ => {
                jwk["kty"] = "OKP".into();
                jwk["crv"] = "Ed25519".into();
                jwk["x"] = text(public).into();
            }
        }
        Some(jwk)
    }
}

/// The keys that identity-svc says are good, made with the configured secrets.
///
/// # Errors
/// When one of them cannot be used here: then this process must not pretend to know all keys.
pub fn key_set(keys: &[TokenKey], secrets: &[SecretString]) -> Result<Vec<VerifyingKey>, KeyFault> {
    let mut set = Vec::new();
    for key in keys {
        match key.algorithm.parse().map_err(|_| KeyFault::UnknownAlgorithm)? {
            Algorithm::Hs256 if key.kid.is_empty() => set.extend(secrets.iter().map(VerifyingKey::hs256)),
            Algorithm::Hs256 => {
                set.extend(secrets.iter().map(|secret| VerifyingKey::derived(secret, &key.kid)));
            }
            algorithm => set.push(VerifyingKey::public(algorithm, &key.kid, &key.public_key)?),
        }
    }
    Ok(set)
}

/// A key pair of an asymmetric algorithm.
pub struct KeyPair {
    pub kid: String,
    pub algorithm: Algorithm,
    /// As [`VerifyingKey::public`] takes it.
    pub public: Vec<u8>,
    /// PKCS #8.
    pub private: SecretSlice<u8>,
}

impl KeyPair {
    /// A new one.
    ///
    /// # Errors
    /// When the machine has no randomness, or the algorithm has no key pairs.
    pub fn generate(kid: &str, algorithm: Algorithm) -> Result<Self, KeyFault> {
        let random = SystemRandom::new();
        let (private, public) = match algorithm {
            Algorithm::EdDsa => {
                let private = Ed25519KeyPair::generate_pkcs8(&random)?;
                let pair = Ed25519KeyPair::from_pkcs8(private.as_ref())?;
                (private.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
            Algorithm::Es256 => {
                let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let private = EcdsaKeyPair::generate_pkcs8(kind, &random)?;
                let pair = EcdsaKeyPair::from_pkcs8(kind, private.as_ref(), &random)?;
                (private.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
            Algorithm::Hs256 => return Err(KeyFault::Symmetric),
        };
        Ok(KeyPair { kid: kid.to_owned(), algorithm, public, private: private.into() })
    }

    /// The half that signs.
    ///
    /// # Errors
    /// When the algorithm has no key pairs.
    pub fn signing_key(&self) -> Result<SigningKey, KeyFault> {
        let private = self.private.expose_secret();
        let key = match self.algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_der(private),
            Algorithm::Es256 => EncodingKey::from_ec_der(private),
            Algorithm::Hs256 => return Err(KeyFault::Symmetric),
        };
        Ok(SigningKey { kid: Some(self.kid.clone()), algorithm: self.algorithm, key })
    }

    /// The half that verifies.
    ///
    /// # Errors
    /// When the public half is no key of its algorithm.
    pub fn verifying_key(&self) -> Result<VerifyingKey, KeyFault> {
        VerifyingKey::public(self.algorithm, &self.kid, &self.public)
    }
}

/// One secret can stand for many keys: HMAC is a key derivation function (NIST SP 800-108r1 section 4.1).
fn derive(root: &SecretString, kid: &str) -> hmac::Tag {
    let root = hmac::Key::new(hmac::HMAC_SHA256, root.expose_secret().as_bytes());
    hmac::sign(&root, format!("persona-platform access token key {kid}").as_bytes())
}
