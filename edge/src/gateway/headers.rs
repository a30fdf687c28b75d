//! What core-manager is told of a request, and what it may tell the client. It trusts `X-User-*`, so nothing that a
//! client sends may reach it under a name that it could read as one of ours.

use std::fmt::Write;

use axum::extract::Request;
use contract::token::Claims;
use contract::{Failure, Outcome};
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::claims::{Caller, IdentityHeaders};
use crate::front::{REQUEST_ID, RequestContext, TRACEPARENT};

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-client-id");
const USER_ROLE: HeaderName = HeaderName::from_static("x-user-role");
const USER_TIER: HeaderName = HeaderName::from_static("x-user-tier");
const USER_EMAIL: HeaderName = HeaderName::from_static("x-user-email");
const USER_PERMISSIONS: HeaderName = HeaderName::from_static("x-user-permissions");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether a header concerns one connection alone (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
    )
}

/// Names, folded, that would let a client speak in our place or make core-manager see another request.
const DROPPED: [&str; 15] = [
    "x-request-id",
    "x-user-id",
    "x-client-id",
    "x-user-role",
    "x-user-tier",
    "x-user-email",
    "x-user-permissions",
    "x-identity-signature",
    "x-identity-signature-input",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// The six headers that say who the caller is.
///
/// # Errors
/// SRV001 when a claim cannot stand in a header, which registration rules out.
pub fn identity_headers(caller: &Caller) -> Outcome<&IdentityHeaders> {
    caller.headers(headers_of)
}

fn headers_of(claims: &Claims) -> Outcome<IdentityHeaders> {
    if claims.permissions.iter().any(|name| name.contains(',')) {
        return Err(Failure::internal("a permission's name has a comma"));
    }
    Ok([
        (USER_ID, plain(&claims.user_id)?),
        (CLIENT_ID, plain(&claims.client_id)?),
        (USER_ROLE, HeaderValue::from_static(claims.role.name())),
        (USER_TIER, HeaderValue::from_static(claims.tier.name())),
        (USER_EMAIL, encoded(&claims.email)?),
        (USER_PERMISSIONS, plain(&claims.permissions.join(","))?),
    ])
}

fn plain(text: &str) -> Outcome<HeaderValue> {
    HeaderValue::from_str(text).map_err(Failure::internal)
}

/// An e-mail may have letters that a header may not: those, and `%` itself, travel percent-encoded as UTF-8, so that
/// decoding always gives back the stored form.
fn encoded(text: &str) -> Outcome<HeaderValue> {
    let mut header = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            header.push(char::from(byte));
        } else {
            write!(header, "%{byte:02X}").map_err(Failure::internal)?;
        }
    }
    plain(&header)
}

/// Makes the headers of a request those that core-manager gets: first everything goes that must not pass, then ours
/// are added, so that nothing a client sends can take one of ours away (CVE-2024-45410).
///
/// # Errors
/// SRV001, see [`identity_headers`].
pub fn to_upstream(
    request: &mut Request,
    caller: &Caller,
    context: &RequestContext,
    pass_authorization: bool,
) -> Outcome<()> {
    // HTTP/2 says the host in the URI.
    let authority = request.uri().authority().map(|authority| plain(authority.as_str())).transpose()?;
    let headers = request.headers_mut();
    // It stays until core-manager's own takes its place.
    let host = headers.get(HOST).cloned().or(authority);
    scrub(headers);
    if !pass_authorization {
        headers.remove(AUTHORIZATION);
    }
    for (name, value) in identity_headers(caller)? {
        headers.insert(name, value.clone());
    }
    headers.insert(REQUEST_ID, context.id_header());
    headers.insert(TRACEPARENT, context.traceparent());
    headers.insert(FORWARDED_FOR, context.client().header());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(context.scheme()));
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
    Ok(())
}

/// Makes the headers of core-manager's answer those that the client gets.
pub fn from_upstream(headers: &mut HeaderMap) {
    scrub(headers);
}

/// Removes what concerns one connection alone, what `Connection` names with it, and what could be forged.
fn scrub(headers: &mut HeaderMap) {
    let named = headers
        .get_all(CONNECTION)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let mut doomed: Vec<HeaderName> = named.collect();
    let may_not_pass = |name: &&HeaderName| is_hop_by_hop(name.as_str()) || is_forgeable(name.as_str());
    doomed.extend(headers.keys().filter(may_not_pass).cloned());
    for name in doomed {
        headers.remove(name);
    }
}

/// Servers fold what is no letter and no digit to `-` or `_` when they make variables of header names (CVE-2025-64484), so names
/// are compared folded. Whatever claims to be forwarded is dropped too; the edge says it anew.
fn is_forgeable(name: &str) -> bool {
    // HeaderName is lower-case already, and all that are looked for begin so.
    if !name.starts_with(['x', 'f']) {
        return false;
    }
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let is = |known: &str| known.len() == name.len() && name.bytes().map(fold).eq(known.bytes());
    let begins = |prefix: &str| {
        name.len() >= prefix.len() && name.bytes().map(fold).zip(prefix.bytes()).all(|(a, b)| a == b)
    };
    begins("x-user-") || begins("x-forwarded-") || is("forwarded") || DROPPED.iter().any(|known| is(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_our_names_is_forgeable() {
        let spellings = [
            "x-user-id",
            "x_user_id",
            "x.user.role",
            "x-user_tier",
            "x-client.id",
            "x_forwarded_for",
            "forwarded",
            "x-original-url",
            "x_http_method_override",
            "x-user-anything",
            "x-request_id",
            "x~user!role",
            "x+forwarded'for",
        ];
        for name in spellings {
            assert!(is_forgeable(name), "{name}");
        }
        for name in ["accept", "x-userid", "user-agent", "content-type"] {
            assert!(!is_forgeable(name), "{name}");
        }
    }

    #[test]
    fn what_connection_names_goes_and_with_it_the_connection_headers() {
        let mut headers = HeaderMap::new();
        let named = HeaderValue::from_bytes("x-secret, é, X-User-ID, close".as_bytes());
        headers.insert(CONNECTION, named.expect("a value"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        scrub(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn an_email_outside_ascii_travels_percent_encoded() {
        assert_eq!(encoded("a+b@example.com").expect("a header"), "a+b@example.com");
        assert_eq!(encoded("é%@x.org").expect("a header"), "%C3%A9%25@x.org");
    }
}
