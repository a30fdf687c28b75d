//! How API keys are spelled: a prefix by which scanners of repositories know them, 256 bits of randomness, and a
//! checksum, so that what is no key costs nobody a look into the database.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

/// What every key begins with, and no access token does.
const PREFIX: &str = "persona_";
/// Characters of the randomness, and of the checksum after it.
const RANDOM: usize = 43;
const CHECKSUM: usize = 4;
/// Characters by which an owner tells keys apart; what they leave open is 226 bits.
const START: usize = PREFIX.len() + 5;

/// The key with these 256 bits in base64url.
pub fn spell(random: &str) -> String {
    format!("{PREFIX}{random}{}", checksum(random))
}

/// Whether a credential is meant to be a key.
pub fn is_meant(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// Whether a text can be a key.
pub fn is_well_formed(key: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let Some(rest) = key.strip_prefix(PREFIX).filter(|rest| rest.bytes().all(is_plain)) else { return false };
    rest.len() == RANDOM + CHECKSUM && checksum(&rest[..RANDOM]) == rest[RANDOM..]
}

/// What lists show of a key.
pub fn start(key: &str) -> &str {
    key.get(..START).unwrap_or_default()
}

fn checksum(random: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, random.as_bytes()).as_ref()[..3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_prefix_and_its_checksum() {
        let key = spell(&"a".repeat(RANDOM));
        assert!(is_meant(&key) && is_well_formed(&key), "{key}");
        assert_eq!(start(&key), "persona_aaaaa");
        for place in PREFIX.len()..key.len() {
            let mut changed = key.clone().into_bytes();
            changed[place] = if changed[place] == b'b' { b'c' } else { b'b' };
            assert!(!is_well_formed(&String::from_utf8(changed).expect("ASCII")), "byte {place}");
        }
        for other in ["", "persona_", "persona_é", &key[1..], &format!("{key}a"), &key[..key.len() - 1]] {
            assert!(!is_well_formed(other), "{other}");
        }
        assert!(!is_meant("eyJhbGciOiJIUzI1NiJ9.e30.x"));
    }
}
