//! What a request says of its own bounds and of whom it is for must have one reading (RFC 9112 sections 3.2 and 6.1),
//! whatever hyper would make of it.

use contract::{ErrorCode, Failure, Outcome};
use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};

use super::limits::Limit;

/// Refuses what the next reader could take differently. HTTP/2 has frames of its own, and says the host in the URI.
///
/// # Errors
/// REQ001, which names the header.
pub fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Outcome<()> {
    if version < Version::HTTP_2 {
        check_coding(headers)?;
    }
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = headers.get_all(HOST).into_iter();
    let host = match (hosts.next().map(HeaderValue::as_bytes), hosts.next(), authority) {
        (Some(host), None, None) => host,
        // One that differs would be another one for the next reader (RFC 9113 section 8.3.1).
        (Some(host), None, Some(authority)) if host.eq_ignore_ascii_case(authority) => host,
        (None, None, Some(authority)) if version != Version::HTTP_11 => authority,
        (None, None, None) if version != Version::HTTP_11 => return Ok(()),
        _ => return Err(not_one_host()),
    };
    if host.iter().all(|byte| is_host_byte(*byte)) { Ok(()) } else { Err(not_one_host()) }
}

fn not_one_host() -> Failure {
    Failure::field("Host", "must stand once and be a host name with or without a port")
}

/// A length beside it is one that hyper has left out, and it closes the connection (RFC 9112 section 6.3).
fn check_coding(headers: &HeaderMap) -> Outcome<()> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).into_iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Failure::field("Transfer-Encoding", "must be chunked and nothing else"));
    }
    Ok(())
}

/// Most headers of a request, which hyper itself allows in HTTP/1.
const MAX_HEADERS: usize = 100;
/// What a header weighs beside its name and value (RFC 9113 section 10.5.1).
const WEIGHT: usize = 32;

/// Refuses too many or too large headers of HTTP/2, within what its library lets through, so that they are answered as
/// those of HTTP/1 are.
///
/// # Errors
/// REQ003 with 431.
pub fn check_size(version: Version, uri: &Uri, headers: &HeaderMap, limit: usize) -> Outcome<()> {
    if version < Version::HTTP_2 {
        return Ok(());
    }
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let weigh = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + WEIGHT;
    if headers.len() <= MAX_HEADERS && path + headers.iter().map(weigh).sum::<usize>() <= limit {
        return Ok(());
    }
    Limit::HeaderSize.bites();
    Err(Failure::new(ErrorCode::Unacceptable)
        .with_http(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        .saying("The headers are too large"))
}

/// Of names, addresses and ports (RFC 3986 section 3.2.2), without the subdelimiters that no host has.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_good(version: Version, uri: &'static str, headers: &[(&'static str, &'static str)]) -> bool {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut all = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            all.append(name, value);
        });
        check(version, &Uri::from_static(uri), &all).is_ok()
    }

    #[test]
    fn one_host_and_one_way_to_find_the_end_of_the_body() {
        const HOST: (&str, &str) = ("host", "example.com:8081");
        for good in [
            &[HOST][..],
            &[("host", "[::1]:80")],
            &[HOST, ("content-length", "3")],
            &[HOST, ("transfer-encoding", "Chunked")],
        ] {
            assert!(is_good(Version::HTTP_11, "/", good), "{good:?}");
        }
        for bad in [
            &[][..],
            &[HOST, HOST],
            &[("host", "a b")],
            &[("host", "a/b@c")],
            &[HOST, ("transfer-encoding", "gzip, chunked")],
            &[HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(!is_good(Version::HTTP_11, "/", bad), "{bad:?}");
        }
        assert!(is_good(Version::HTTP_10, "/", &[]) && is_good(Version::HTTP_2, "/", &[]));
    }

    #[test]
    fn a_host_beside_the_one_in_the_uri_is_the_same() {
        const URI: &str = "http://example.com:8081/";
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert!(is_good(version, URI, &[("host", "Example.com:8081")]), "{version:?}");
            assert!(!is_good(version, URI, &[("host", "other.com")]), "{version:?}");
        }
        assert!(is_good(Version::HTTP_2, URI, &[]) && !is_good(Version::HTTP_11, URI, &[]));
        assert!(!is_good(Version::HTTP_2, "http://somebody@example.com/", &[]));
    }
}
