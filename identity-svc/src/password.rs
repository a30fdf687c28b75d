//! What may be a password (NIST SP 800-63B-4 section 3.1.1): length and a blocklist, no composition rules.

use std::collections::HashSet;
use std::sync::LazyLock;

use contract::{ErrorCode, Failure, Outcome};
use secrecy::SecretString;
use unicode_normalization::UnicodeNormalization;

use crate::email::Email;

/// Most characters of a password.
const MAX_CHARACTERS: usize = 128;
/// Most bytes that are looked at: 128 characters of four bytes each.
const MAX_BYTES: usize = 4 * MAX_CHARACTERS;

/// Most digits and signs at the end of a common password that do not make it another one.
const MAX_TAIL: usize = 4;

/// The passwords that everybody tries first, lower-case, one a line; from where, `common_passwords.LICENSE` says.
static COMMON: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("common_passwords.txt").lines().filter(|line| !line.is_empty()).collect());

/// Words that an attacker of this product tries first.
const PRODUCT: [&str; 3] = ["persona", "aipersona", "personaplatform"];

/// The form in which a password is hashed, when it is set and when it is verified alike: NFC, since keyboards differ
/// in how they compose; nothing is trimmed, folded or cut. `None` for what is too long to be one of ours.
pub fn normalise(typed: &str) -> Option<SecretString> {
    (typed.len() <= MAX_BYTES).then(|| typed.nfc().collect::<String>().into())
}

/// Checks a new password for an account.
///
/// # Errors
/// USER003, whose details say what is wrong with the field.
pub fn check(typed: &str, field: &'static str, min_length: usize, email: &Email) -> Outcome<SecretString> {
    let fault = fault_of(typed, min_length, email);
    match (fault, normalise(typed)) {
        (None, Some(password)) => Ok(password),
        (fault, _) => Err(Failure::new(ErrorCode::PasswordRejected).with_field(
            field,
            fault.unwrap_or_else(|| format!("must have at most {MAX_CHARACTERS} characters")),
        )),
    }
}

fn fault_of(typed: &str, min_length: usize, email: &Email) -> Option<String> {
    if typed.len() > MAX_BYTES {
        return Some(format!("must have at most {MAX_CHARACTERS} characters"));
    }
    let normal: String = typed.nfc().collect();
    let length = normal.chars().count();
    if !(min_length..=MAX_CHARACTERS).contains(&length) {
        return Some(format!("must have {min_length} to {MAX_CHARACTERS} characters"));
    }
    let lower = normal.to_lowercase();
    let local = email.as_str().split('@').next().unwrap_or_default();
    if lower == email.as_str() || lower == local {
        return Some("must not be the account's e-mail address".to_owned());
    }
    let letters = lower.trim_end_matches(|c: char| c.is_ascii_digit() || c.is_ascii_punctuation());
    let common = is_common(&lower) || PRODUCT.contains(&letters) || is_one_character(&lower);
    common.then(|| "is one of the passwords that everybody tries first".to_owned())
}

/// Whether a lower-case password is a common one, or one with a few digits or signs at its end.
fn is_common(lower: &str) -> bool {
    let is_tail = |end: &str| end.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_punctuation());
    (0..=MAX_TAIL.min(lower.len()))
        .filter_map(|tail| lower.split_at_checked(lower.len() - tail))
        .take_while(|(_, end)| is_tail(end))
        .any(|(start, _)| COMMON.contains(start))
}

fn is_one_character(text: &str) -> bool {
    let first = text.chars().next();
    text.chars().all(|c| Some(c) == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(typed: &str) -> bool {
        let email = Email::parse("somebody@example.com").expect("an address");
        check(typed, "password", 8, &email).is_err()
    }

    #[test]
    fn length_counts_characters_and_nothing_else_is_asked_for() {
        for good in ["eightchr", "with some spaces", "пароль-пароль", "🦀🦀🦀🦀🦀🦀🦀🦁", &"ab".repeat(64)]
        {
            assert!(!refused(good), "{good}");
        }
        for bad in ["", "seven77", &"ab".repeat(65), &"x".repeat(10_000)] {
            assert!(refused(bad), "{bad}");
        }
    }

    #[test]
    fn common_passwords_and_the_accounts_own_address_are_refused() {
        for bad in [
            "password",
            "PASSWORD123",
            "12345678",
            "persona2026!",
            "somebody",
            "Somebody@Example.com",
            "aaaaaaaaaa",
        ] {
            assert!(refused(bad), "{bad}");
        }
    }

    #[test]
    fn the_thousands_that_guessing_begins_with_are_refused_and_so_are_their_usual_disguises() {
        // ASVS 6.2.4: at least the 3000 most common of those that are long enough.
        assert!(COMMON.iter().filter(|word| word.chars().count() >= 8).count() >= 3000);
        for bad in [
            "sunshine1",
            "football1",
            "liverpool1",
            "elephant",
            "patricia",
            "qwertyuiop",
            "Elephant7!",
            "SUNSHINE2026",
        ] {
            assert!(refused(bad), "{bad}");
        }
        for good in ["elephant-in-the-room", "elephant20260731", "sunshine over hills", "пароль-пароль1"]
        {
            assert!(!refused(good), "{good}");
        }
    }

    #[test]
    fn two_ways_to_compose_a_letter_are_one_password() {
        use secrecy::ExposeSecret;
        let normal = |text| normalise(text).map(|p| p.expose_secret().to_owned());
        assert_eq!(normal("cafe\u{301}-longer"), normal("caf\u{e9}-longer"));
        assert_ne!(normal(" caf\u{e9}"), normal("caf\u{e9}"));
    }
}
