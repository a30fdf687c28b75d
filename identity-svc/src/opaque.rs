//! Opaque tokens: 256 bits of randomness, of which no more than a hash is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{Failure, Outcome};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

const BYTES: usize = 32;

/// A token as it leaves the process, once.
pub struct OpaqueToken {
    pub text: String,
    /// What is kept of it.
    pub hash: Vec<u8>,
}

impl OpaqueToken {
    /// # Errors
    /// SRV001 when the system has no randomness.
    pub fn generate() -> Outcome<Self> {
        let mut bytes = [0; BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::internal("no randomness"))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let hash = hash(&text);
        Ok(OpaqueToken { text, hash })
    }
}

/// What is kept of a token: its SHA-256.
pub fn hash(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}
