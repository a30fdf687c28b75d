//! Fuzz targets of what passes through several parts of the edge.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Request;
use chassis::settings::load_from;
use contract::token::{Claims, ISSUER};
use contract::{Role, Tier};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::claims::Caller;
use crate::front::{RequestContext, check_path};
use crate::gateway::{Match, Route, RouteTable, to_upstream};
use crate::hot_path;
use crate::settings::Settings;

/// A route that an operator adds.
const FURTHER: &str = "GET+POST /api/v1/echo/{*rest} user";
/// What core-manager serves, written down once more.
const SERVED: [(&str, &str); 5] = [
    ("GET HEAD POST", "/api/v1/templates"),
    ("GET HEAD PUT DELETE", "/api/v1/templates/{id}"),
    ("GET HEAD POST", "/api/v1/personas/instances"),
    ("GET HEAD PUT PATCH DELETE", "/api/v1/personas/instances/{id}"),
    ("GET HEAD POST", "/api/v1/echo/{*rest}"),
];

/// Segment by segment, without any of the shortcuts of the table.
fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let same =
        |(part, segment): (&&str, &&str)| part == segment || part.starts_with('{') && !segment.is_empty();
    match template.last() {
        Some(&"{*rest}") => path.len() >= template.len() && template.iter().zip(&path).all(same),
        _ => path.len() == template.len() && template.iter().zip(&path).all(same),
    }
}

/// One round of percent-decoding, as an upstream may do it.
fn decoded(path: &str) -> Vec<u8> {
    let (mut decoded, mut bytes) = (Vec::new(), path.bytes());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().expect("two digits"), bytes.next().expect("two digits")];
            let digits = std::str::from_utf8(&digits).expect("digits");
            decoded.push(u8::from_str_radix(digits, 16).expect("digits"));
        } else {
            decoded.push(byte);
        }
    }
    decoded
}

/// A path that is admitted has one reading, leads to the one route that it names, and stays as it is.
fn path_has_one_reading(method: &Method, target: &[u8]) {
    let Ok(target) = Uri::try_from(target) else { return };
    let path = target.path();
    if check_path(path).is_err() || !path.starts_with('/') {
        return;
    }
    let plain = decoded(path);
    let segments: Vec<&[u8]> = plain.split(|byte| *byte == b'/').collect();
    assert_eq!(segments.len(), path.split('/').count(), "a slash was encoded");
    assert!(!segments.contains(&b".".as_slice()) && !segments.contains(&b"..".as_slice()), "a dot segment");
    assert!(!plain.windows(2).any(|pair| pair == b"//"), "an empty segment");
    assert!(!plain.iter().any(|byte| byte.is_ascii_control() || b";\\%".contains(byte)), "a second reading");

    let table = RouteTable::new(vec![FURTHER.parse::<Route>().expect("a route")]);
    let named: Vec<_> = SERVED.iter().filter(|(_, template)| matches(template, path)).collect();
    assert!(named.len() <= 1, "two routes");
    match (table.find(method, path), named.first()) {
        (Match::Route(route), Some((methods, template))) => {
            assert_eq!(route.label().template(), *template);
            assert!(methods.split(' ').any(|name| name == method.as_str()), "{method} {path}");
            let forwarded = target.path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone()));
            assert_eq!((forwarded.path(), forwarded.query()), (path, target.query()), "byte for byte");
        }
        (Match::OtherMethods(_), Some((methods, _))) => {
            assert!(!methods.split(' ').any(|name| name == method.as_str()), "{method} {path}");
        }
        (Match::None, None) => {}
        (_, named) => panic!("{method} {path}: {named:?}"),
    }
}

#[test]
fn a_path_that_is_admitted_has_one_reading_and_one_route() {
    fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/path"), |input| {
        let mut words = input.splitn(2, |byte| *byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Ok(method) = Method::from_bytes(method) {
            path_has_one_reading(&method, target);
        }
    });
}

const OURS: [(&str, &str); 6] = [
    ("x-user-id", "u1"),
    ("x-client-id", "web"),
    ("x-user-role", "user"),
    ("x-user-tier", "free"),
    ("x-user-email", "a@example.com"),
    ("x-user-permissions", "personas.create,projects.manage"),
];

static CALLER: LazyLock<Caller> = LazyLock::new(|| {
    Caller::new(Claims {
        iss: ISSUER.to_owned(),
        aud: "persona-platform".to_owned(),
        sub: "u1".to_owned(),
        jti: "j1".to_owned(),
        iat: 0,
        nbf: 0,
        exp: i64::MAX,
        sid: "s1".to_owned(),
        ver: 1,
        user_id: "u1".to_owned(),
        email: "a@example.com".to_owned(),
        client_id: "web".to_owned(),
        role: Role::User,
        tier: Tier::Free,
        permissions: vec!["personas.create".to_owned(), "projects.manage".to_owned()],
        scope: None,
        key_exp: None,
    })
});

static CONTEXT: LazyLock<RequestContext> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let request = Request::get("/").header("host", "api.example.com").body(Body::empty());
    runtime.block_on(hot_path::context(request.expect("a request"))).expect("a context")
});

/// Headers as lines, of which those that no server would take are left out.
fn headers(input: &[u8]) -> HeaderMap {
    let lines = input.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, value);
    }
    headers
}

/// As servers make variables of header names.
fn folded(name: &HeaderName) -> String {
    name.as_str().to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Whatever a client sends, core-manager finds ours once each, and nothing else that it could take for one of them.
fn ours_alone_say_who_it_is(input: &[u8]) {
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers(input);
    let sent = request.headers().clone();
    to_upstream(&mut request, &CALLER, &CONTEXT, false).expect("headers");
    let passed = request.headers();
    for (name, value) in OURS {
        let found: Vec<_> = passed.iter().filter(|(other, _)| folded(other) == name).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0.as_str(), found[0].1.as_bytes()), (name, value.as_bytes()));
    }
    let mut ours: Vec<_> = OURS.iter().map(|(name, _)| *name).collect();
    ours.extend(["x-request-id", "traceparent", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]);
    for (name, value) in passed {
        let folded = folded(name);
        if ours.contains(&folded.as_str()) {
            assert!(ours.contains(&name.as_str()), "{name}");
            assert_eq!(passed.get_all(name).iter().count(), 1, "{name}");
            continue;
        }
        assert!(!folded.starts_with("x-user-") && !folded.starts_with("x-forwarded-"), "{name}");
        assert!(
            !["connection", "te", "upgrade", "transfer-encoding", "authorization"].contains(&folded.as_str())
        );
        assert!(sent.get_all(name).iter().any(|other| other == value), "{name} is nobody's");
        let named =
            sent.get_all("connection").iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        for other in named {
            assert!(
                !other.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()),
                "{name} was for one connection"
            );
        }
    }
}

#[test]
fn whatever_headers_a_client_sends_ours_alone_say_who_it_is() {
    fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/headers"), ours_alone_say_who_it_is);
}

/// Marks what must never be shown.
const CANARY: &str = "Canary7";
const SECRETS: [&str; 6] = [
    "GATEWAY_SIGNING_KEY",
    "INTERNAL_GRPC_TOKEN",
    "GRPC_TLS_KEY",
    "JWT_SECRET_KEY",
    "JWT_PREVIOUS_SECRET_KEYS",
    "RATE_LIMIT_REDIS_URL",
];

/// Variables as lines. A file that they name does not exist, or a target would read whatever is there.
fn variables(input: &str) -> HashMap<String, String> {
    let lines = input.lines().filter_map(|line| line.split_once('='));
    let variable = |(name, value): (&str, &str)| {
        let value = match name {
            _ if name.ends_with("_FILE") => format!("/nonexistent/{value}"),
            _ if SECRETS.contains(&name) => format!("{value}{CANARY}"),
            _ => value.to_owned(),
        };
        (name.to_owned(), value)
    };
    lines.map(variable).collect()
}

#[test]
fn any_environment_is_settings_or_faults_that_name_variables_and_show_no_secret() {
    let documented = chassis::settings::table(Settings::read);
    fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/settings"), move |input| {
        let Ok(input) = std::str::from_utf8(input) else { return };
        // The search finds the mark out, and puts it where it is no secret.
        if input.contains(CANARY) {
            return;
        }
        let Err(faults) = load_from(variables(input), Settings::read).map(drop) else { return };
        let faults = faults.to_string();
        assert!(!faults.contains(CANARY), "{faults}");
        let named =
            documented.split('`').filter(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        assert!(named.filter(|name| !name.is_empty()).any(|name| faults.contains(name)), "{faults}");
    });
}
