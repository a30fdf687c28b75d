//! A path is matched, authorised and forwarded in one form. What two readers could read in two ways is refused, so
//! that core-manager never serves another path than the one that was authorised (CVE-2019-9901, CVE-2021-29492).

use contract::{Failure, Outcome};

/// Refuses a path that can be read in more than one way: empty or dot segments, backslashes, parameters after `;`,
/// control characters, broken percent-encoding, and encoded forms of characters that need none or that divide.
///
/// # Errors
/// REQ001, which names the path as the fault.
pub fn check(path: &str) -> Outcome<()> {
    if is_plain(path.as_bytes()) {
        return Ok(());
    }
    fault_of(path).map_or(Ok(()), |fault| Err(Failure::field("path", fault)))
}

/// Most paths have nothing in them that could be a fault. This is one quick look; the rules are below.
fn is_plain(path: &[u8]) -> bool {
    /// Which bytes are unreserved. To look each up is a fraction of comparing it.
    static UNRESERVED: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            let known = byte as u8;
            table[byte] = known.is_ascii_alphanumeric() || matches!(known, b'-' | b'_' | b'~');
            byte += 1;
        }
        table
    };
    let mut after_slash = false;
    path.first() == Some(&b'/')
        && path.iter().all(|byte| {
            let is_slash = *byte == b'/';
            let is_good = if is_slash { !after_slash } else { UNRESERVED[usize::from(*byte)] };
            after_slash = is_slash;
            is_good
        })
}

fn fault_of(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        // `OPTIONS *` and the authority form have no path of ours.
        return (path != "*" && !path.is_empty()).then_some("must begin with a slash");
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // One slash at the end names no second segment; it only fails to match a route.
        if segment.is_empty() && segments.peek().is_some() {
            return Some("must not have an empty segment");
        }
        if matches!(segment, "." | "..") {
            return Some("must not have a dot segment");
        }
        if let Some(fault) = segment_fault(segment.as_bytes()) {
            return Some(fault);
        }
    }
    None
}

fn segment_fault(segment: &[u8]) -> Option<&'static str> {
    let mut bytes = segment.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' | b';' => return Some("must not have a backslash or a semicolon"),
            0..=0x20 | 0x7f.. => return Some("must be visible ASCII"),
            b'%' => {
                let hex = |digit: Option<u8>| digit.and_then(|d| char::from(d).to_digit(16));
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Some("has a broken percent-encoding");
                };
                if needs_no_encoding((high * 16 + low) as u8) {
                    return Some("has an ambiguous percent-encoding");
                }
            }
            _ => {}
        }
    }
    None
}

/// Unreserved characters (RFC 3986 section 2.3) have a plain form; separators, controls and a second percent sign
/// are what attacks are made of.
fn needs_no_encoding(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | b'%' | b';')
        || byte.is_ascii_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "/",
            "/health",
            "/api/v1/templates/",
            "/api/v1/personas/instances/a-b_c.d~1",
            "/x/%C3%A9%20",
            "*",
        ] {
            assert!(check(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn whatever_can_be_read_in_two_ways_is_refused() {
        let tricks = [
            "//",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/%2E/b",
            "/a/.%2e/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a%00",
            "/a\u{0}",
            "/a%252fb",
            "/%61pi",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a b",
            "/é",
            "a/b",
            "/a/%7f",
            "/a%0d%0aX:1",
        ];
        for path in tricks {
            assert!(check(path).is_err(), "{path:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_path_that_passes_is_its_own_normal_form(path in "/[a-z0-9%./;\\\\_~-]{0,24}") {
            proptest::prop_assert!(!is_plain(path.as_bytes()) || fault_of(&path).is_none());
            if check(&path).is_ok() {
                let segments: Vec<&str> = path[1..].split('/').collect();
                let (last, inner) = segments.split_last().expect("one at least");
                proptest::prop_assert!(inner.iter().all(|s| !s.is_empty() && *s != "." && *s != ".."));
                proptest::prop_assert!(*last != "." && *last != "..");
                proptest::prop_assert!(!path.to_lowercase().contains("%2f") && !path.contains('\\'));
            }
        }
    }
}
