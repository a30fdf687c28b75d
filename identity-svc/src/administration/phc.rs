//! Which password hashes of other systems are taken over.

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;

/// What the column holds, in bytes.
const MAX_BYTES: usize = 255;
/// The dearest hash that is taken over. Whoever may import decides what each later sign-in costs this service, so that
/// one import could stall it, or end it where its memory is bounded: 64 MiB, a quarter of what `deploy/` gives the process,
/// and as much work as four passes over that.
const MAX_MEMORY_KIB: u32 = 65_536;
const MAX_WORK_KIB: u64 = 262_144;
const MAX_LANES: u32 = 16;
const MIN_SALT: usize = 8;
const MIN_OUTPUT: usize = 16;
/// 1.0 and 1.3; without a version, programs differ in which they mean.
const VERSIONS: [u32; 2] = [16, 19];

/// Checks that a text is an Argon2 hash that can be verified at a bearable cost. A cheap one is good: it is made
/// stronger when its owner next signs in.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("must have at most {MAX_BYTES} bytes"));
    }
    if !text.starts_with("$argon2") {
        return Err("must be an Argon2 PHC string ($argon2id$v=19$m=…,t=…,p=…$salt$hash); no other kind is \
                    taken over"
            .to_owned());
    }
    let broken = || "is not a well-formed Argon2 PHC string".to_owned();
    let hash = PasswordHash::new(text).map_err(|_| broken())?;
    if !matches!(hash.algorithm.as_str(), "argon2id" | "argon2i" | "argon2d") {
        return Err(broken());
    }
    if !hash.version.is_some_and(|version| VERSIONS.contains(&version)) {
        return Err("must have v=19 or v=16".to_owned());
    }
    if hash.params.iter().any(|(name, _)| !matches!(name.as_str(), "m" | "t" | "p")) {
        return Err("must have no other parameters than m, t and p".to_owned());
    }
    // Bytes as they are when decoded: four characters of base64 are three of them.
    let output = hash.hash.as_ref().map_or(0, |output| output.as_bytes().len());
    let salt = hash.salt.as_ref().map_or(0, |salt| salt.as_ref().len());
    if salt < MIN_SALT || output < MIN_OUTPUT {
        return Err(format!(
            "must have a salt of {MIN_SALT} bytes or more and a hash of {MIN_OUTPUT} bytes or more"
        ));
    }
    let params = Params::try_from(&hash).map_err(|_| broken())?;
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MAX_MEMORY_KIB || work > MAX_WORK_KIB || params.p_cost() > MAX_LANES {
        return Err(format!(
            "costs too much to verify: m may be {MAX_MEMORY_KIB} at most, m times t {MAX_WORK_KIB}, p {MAX_LANES}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "c29tZXNhbHRzb21lc2FsdA";
    const HASH: &str = "iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";

    fn with(head: &str) -> String {
        format!("{head}${SALT}${HASH}")
    }

    #[test]
    fn what_common_libraries_make_is_taken_over() {
        for head in [
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$argon2id$v=19$m=65536,t=3,p=4",
            "$argon2id$v=19$m=65536,t=4,p=1",
            "$argon2i$v=19$m=4096,t=3,p=1",
            "$argon2d$v=16$m=4096,t=3,p=1",
        ] {
            assert_eq!(check(&with(head)), Ok(()), "{head}");
        }
    }

    #[test]
    fn a_hash_that_would_stall_the_service_is_refused() {
        for head in [
            "$argon2id$v=19$m=4294967295,t=1,p=1",
            "$argon2id$v=19$m=65537,t=1,p=1",
            "$argon2id$v=19$m=65536,t=4294967295,p=1",
            "$argon2id$v=19$m=65536,t=5,p=1",
            "$argon2id$v=19$m=65536,t=1,p=64",
        ] {
            let fault = check(&with(head)).expect_err(head);
            assert!(fault.contains("costs too much") || fault.contains("well-formed"), "{head}: {fault}");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_refused() {
        for text in [
            String::new(),
            "secret".to_owned(),
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW".to_owned(),
            "$scrypt$ln=15,r=8,p=1$c2FsdHNhbHQ$aGFzaA".to_owned(),
            "$pbkdf2-sha256$i=600000$c2FsdHNhbHQ$aGFzaA".to_owned(),
            with("$argon2id$m=19456,t=2,p=1"),
            with("$argon2id$v=18$m=19456,t=2,p=1"),
            with("$argon2x$v=19$m=19456,t=2,p=1"),
            with("$argon2id$v=19$m=19456,t=2,p=1,keyid=aaaa"),
            with("$argon2id$v=19$m=1,t=2,p=1"),
            with("$argon2id$v=19$m=19456,t=0,p=1"),
            format!("$argon2id$v=19$m=19456,t=2,p=1${SALT}"),
            format!("$argon2id$v=19$m=19456,t=2,p=1$YWJj${HASH}"),
            format!("{}{}", with("$argon2id$v=19$m=19456,t=2,p=1"), "A".repeat(300)),
        ] {
            assert!(check(&text).is_err(), "{text}");
        }
    }
}
