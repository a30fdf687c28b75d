//! E-mail addresses, in the one form in which they are stored and compared.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// The longest address, in bytes, as the column holds it.
const MAX_BYTES: usize = 255;
/// The longest part before the `@` (RFC 5321 section 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;

/// A canonical address: trimmed, lower-case, NFC. Two accounts never differ in case or composition alone, and what is
/// stored is what is used downstream, never what was typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Email(String);

/// A text that is no address that we could write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an e-mail address")]
pub struct NotAnEmail;

impl Email {
    /// Reads what somebody typed.
    ///
    /// # Errors
    /// When it cannot be an address.
    pub fn parse(typed: &str) -> Result<Email, NotAnEmail> {
        // Lower-casing can decompose and normalising can change case again: both until nothing moves.
        let once: String = typed.trim().nfc().collect::<String>().to_lowercase().nfc().collect();
        let email: String = once.to_lowercase().nfc().collect();
        if is_address(&email) { Ok(Email(email)) } else { Err(NotAnEmail) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_address(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    let visible = |c: char| {
        !c.is_whitespace()
            && !c.is_control()
            && !is_invisible(c)
            && !matches!(c, '@' | ',' | ';' | '<' | '>' | '"' | '\\')
    };
    let local_is_good = (1..=MAX_LOCAL_BYTES).contains(&local.len())
        && local.chars().all(visible)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    email.len() <= MAX_BYTES && local_is_good && domain.contains('.') && domain.split('.').all(label_is_good)
}

/// Characters that show nothing, or turn what is shown around: with them two addresses that look alike would be two
/// accounts.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        let canonical = Email::parse("jose@example.com").expect("an address");
        for typed in [" Jose@Example.COM ", "JOSE@example.com"] {
            assert_eq!(Email::parse(typed), Ok(canonical.clone()));
        }
        assert_eq!(
            Email::parse("jose\u{301}@x.org"),
            Email::parse("JOS\u{c9}@x.org"),
            "composed and decomposed"
        );
        assert_ne!(Email::parse("jos\u{e9}@x.org"), Email::parse("jose@x.org"), "an accent is a difference");
    }

    #[test]
    fn what_nobody_could_write_to_is_refused() {
        for typed in [
            "",
            "a",
            "@x.org",
            "a@",
            "a@x",
            "a b@x.org",
            "a@x..org",
            ".a@x.org",
            "a@-x.org",
            "a@b@x.org",
            "a\u{0}@x.org",
            "a\u{200b}@x.org",
            "\u{202e}moc@x.org",
        ] {
            assert_eq!(Email::parse(typed), Err(NotAnEmail), "{typed:?}");
        }
        assert!(Email::parse(&format!("a@{}.org", "x".repeat(255))).is_err());
    }

    /// Of what is taken for an address, every spelling is the same one, and nothing in it is unseen.
    fn is_one_address(typed: &str) {
        let Ok(email) = Email::parse(typed) else { return };
        let text = email.as_str();
        assert_eq!(Email::parse(text), Ok(email.clone()), "the canonical form is its own");
        let decomposed: String = text.nfd().collect();
        for spelling in [decomposed, text.to_ascii_uppercase(), format!(" {text}\t"), text.to_lowercase()] {
            assert_eq!(Email::parse(&spelling), Ok(email.clone()), "{spelling:?}");
        }
        assert_eq!(text.to_lowercase(), text);
        assert_eq!(text.matches('@').count(), 1);
        let unseen = |c: char| c.is_control() || c.is_whitespace() || is_invisible(c);
        assert!(!text.contains(unseen), "{text:?}");
        assert!(text.len() <= MAX_BYTES);
    }

    #[test]
    fn every_spelling_of_whatever_is_taken_for_an_address_is_one() {
        fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/email"), |input| {
            if let Ok(typed) = std::str::from_utf8(input) {
                is_one_address(typed);
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_is_its_own(typed in "\\PC{0,20}@\\PC{1,10}\\.[a-z]{2}") {
            if let Ok(email) = Email::parse(&typed) {
                proptest::prop_assert_eq!(Email::parse(email.as_str()), Ok(email.clone()));
                proptest::prop_assert!(email.as_str().len() <= MAX_BYTES);
            }
        }
    }
}
