//! What jsonwebtoken needs to know to sign with ring, the one cryptographic backend of the platform.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result, new_error};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};

/// Makes jsonwebtoken use ring, once in the life of a process.
pub fn install() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    // An error means that a provider is there already, which only this function installs.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let bad_key = |_| new_error(ErrorKind::InvalidKeyFormat);
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(hs256(key.as_bytes()))),
        Algorithm::EdDSA => {
            Ok(Box::new(Ed25519(Ed25519KeyPair::from_pkcs8(key.as_bytes()).map_err(bad_key)?)))
        }
        Algorithm::ES256 => {
            let random = SystemRandom::new();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_bytes(), &random)
                .map_err(bad_key)?;
            Ok(Box::new(P256(pair, random)))
        }
        _ => Err(unsupported()),
    }
}

/// Tokens are verified by [`super::Verifier`]; the library does it only for tests that compare the two.
#[cfg(not(test))]
fn verifier(_: &Algorithm, _: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    Err(unsupported())
}

#[cfg(test)]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(hs256(key.try_get_as_bytes()?))),
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Error {
    new_error(ErrorKind::InvalidAlgorithm)
}

struct Hs256(hmac::Key);

fn hs256(secret: &[u8]) -> Hs256 {
    Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

impl signature::Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
impl signature::Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| signature::Error::new())
    }
}

#[cfg(test)]
impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

struct Ed25519(Ed25519KeyPair);

impl signature::Signer<Vec<u8>> for Ed25519 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for Ed25519 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct P256(EcdsaKeyPair, SystemRandom);

impl signature::Signer<Vec<u8>> for P256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let signed = self.0.sign(&self.1, message).map_err(|_| signature::Error::new())?;
        Ok(signed.as_ref().to_vec())
    }
}

impl JwtSigner for P256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}
