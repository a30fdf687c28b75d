//! Private keys as they lie in the table: AES-256-GCM under a key derived from the configured secret, bound to their
//! `kid`, so that a copy of the database alone cannot sign.

use contract::{Failure, Outcome};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

fn key(secret: &SecretString) -> Outcome<LessSafeKey> {
    let root = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let derived = hmac::sign(&root, b"persona-platform signing key encryption");
    let key =
        UnboundKey::new(&AES_256_GCM, derived.as_ref()).map_err(|e| Failure::internal(e.to_string()))?;
    Ok(LessSafeKey::new(key))
}

/// The nonce, then the ciphertext with its tag.
pub fn seal(secret: &SecretString, kid: &str, private: &SecretSlice<u8>) -> Outcome<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Failure::internal("no randomness"))?;
    let mut text = private.expose_secret().to_vec();
    key(secret)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(kid.as_bytes()), &mut text)
        .map_err(|e| Failure::internal(e.to_string()))?;
    Ok([&nonce[..], &text].concat())
}

/// Opens what [`seal`] made with any of the secrets.
pub fn open(secrets: &[SecretString], kid: &str, sealed: &[u8]) -> Outcome<SecretSlice<u8>> {
    let unreadable = || {
        Failure::internal(format!(
            "the signing key {kid} was sealed with another secret than JWT_SECRET_KEY: put that one among \
             JWT_PREVIOUS_SECRET_KEYS; if it is lost, `identity-svc keys rotate --at-once` has a new key sign"
        ))
    };
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(unreadable)?;
    for secret in secrets {
        let (nonce, aad) = (Nonce::assume_unique_for_key(*nonce), Aad::from(kid.as_bytes()));
        let mut text = text.to_vec();
        if let Ok(private) = key(secret)?.open_in_place(nonce, aad, &mut text) {
            return Ok(private.to_vec().into());
        }
    }
    Err(unreadable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_with_its_secret_and_kid_alone() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let sealed = seal(&secret("one"), "k1", &b"private".to_vec().into()).expect("sealed");
        let opened = open(&[secret("two"), secret("one")], "k1", &sealed).expect("opened");
        assert_eq!(opened.expose_secret(), b"private");
        assert!(open(&[secret("one")], "k2", &sealed).is_err());
        assert!(open(&[secret("two")], "k1", &sealed).is_err());
        assert!(open(&[secret("one")], "k1", &sealed[..10]).is_err());
    }
}
