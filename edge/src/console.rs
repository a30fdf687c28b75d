//! `/console`: pages for developers and administrators. They are files in this program and use the public routes as any
//! other client does; here is nothing that only they could do.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{ErrorCode, Failure};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use ring::digest::{SHA256, digest};

use crate::answer::Answer;
use crate::routes::Edge;

/// Where the console is.
pub const PLACE: &str = "/console";

const INDEX: &str = "index.html";

/// Each file by its name, from the folder `edge/console`.
macro_rules! files {
    ($($name:literal)*) => { &[$(($name, include_bytes!(concat!("../console/", $name)))),*] };
}

const FILES: &[(&str, &[u8])] = files![
    "index.html"
    "style.css"
    "theme.js"
    "icon.svg"
    "app.js"
    "dom.js"
    "forms.js"
    "api.js"
    "session.js"
    "socket.js"
    "sign-in.js"
    "account.js"
    "keys.js"
    "projects.js"
    "personas.js"
    "workflows.js"
    "plan.js"
    "users.js"
    "bulk.js"
    "audit.js"
    "edges.js"
    "user.js"
    "transfer.js"
    "subscriptions.js"
    "platform.js"
];

/// Scripts and styles are files of ours alone, nobody frames the pages, and no text can become markup. `connect-src
/// 'self'` covers the WebSocket of the same origin (CSP level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// A file as it is sent.
struct Asset {
    bytes: &'static [u8],
    media_type: HeaderValue,
    /// Of the content, so that every replica of one version says the same.
    tag: HeaderValue,
}

pub fn routes() -> Router<Edge> {
    let index = || get(async |headers: HeaderMap| serve(INDEX, &headers));
    Router::new().route("/console", index()).route("/console/", index()).route("/console/{asset}", get(asset))
}

async fn asset(uri: Uri, headers: HeaderMap) -> Answer<Response> {
    serve(uri.path().rsplit('/').next().unwrap_or_default(), &headers)
}

/// Browsers ask each time whether a file has changed: what is kept never outlives a new version.
fn serve(name: &str, asked: &HeaderMap) -> Answer<Response> {
    let asset = ASSETS.get(name).ok_or_else(|| Failure::new(ErrorCode::NoSuchRoute))?;
    let mut response = if has(asked, &asset.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Body::from(asset.bytes).into_response();
        response.headers_mut().insert(CONTENT_TYPE, asset.media_type.clone());
        response
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, asset.tag.clone());
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Of every answer; `nosniff` comes with all answers of the edge.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-cache"),
    (CONTENT_SECURITY_POLICY, POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether the client has this version (RFC 9110 section 13.1.2).
fn has(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let lines = asked.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/").as_bytes() == tag.as_bytes())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

static ASSETS: LazyLock<HashMap<&'static str, Asset>> = LazyLock::new(|| {
    let asset = |&(name, bytes): &(&'static str, &'static [u8])| {
        let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest(&SHA256, bytes).as_ref()[..12]));
        let tag = HeaderValue::try_from(tag).unwrap_or_else(|e| unreachable!("base64 is plain: {e}"));
        (name, Asset { bytes, media_type: HeaderValue::from_static(media_type(name)), tag })
    };
    FILES.iter().map(asset).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_console_is_served_and_all_together_are_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .collect();
        let mut served: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        served.sort();
        assert_eq!(names, served);
        let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 120 * 1024, "{bytes} bytes");
    }

    #[test]
    fn no_file_makes_markup_of_text_or_names_another_server() {
        for (name, bytes) in FILES {
            let text = std::str::from_utf8(bytes).expect("text");
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\""]
            {
                assert!(!text.contains(word), "{name} has {word}");
            }
            for scheme in ["http://", "https://", "src=\"//"] {
                assert!(!text.contains(scheme), "{name} names another server");
            }
        }
    }

    #[test]
    fn the_log_can_be_searched_for_everything_that_it_keeps() {
        let (_, bytes) = FILES.iter().find(|(name, _)| *name == "audit.js").expect("the page");
        let text = std::str::from_utf8(bytes).expect("text");
        for action in contract::AuditAction::ALL {
            assert!(text.contains(&format!("\"{action}\"")), "{action}");
        }
    }

    #[test]
    fn a_known_version_is_found_in_any_list() {
        let tag = HeaderValue::from_static("\"a\"");
        for (asked, known) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(asked))]);
            assert_eq!(has(&headers, &tag), known, "{asked}");
        }
        assert!(!has(&HeaderMap::new(), &tag));
    }
}
