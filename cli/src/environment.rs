//! What the environment says of where the edge is and who asks it.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use secrecy::SecretString;

use crate::output::Fault;

/// Where the edge is when nobody says.
const HERE: &str = "http://localhost:8081";

/// The URL of the edge, without the last slash.
///
/// # Errors
/// When `PERSONA_EDGE` is no URL that a token may go to.
pub fn edge() -> Result<String, Fault> {
    let edge = variable("PERSONA_EDGE").unwrap_or_else(|| HERE.to_owned());
    let is_clear_allowed = variable("PERSONA_ALLOW_HTTP").is_some_and(|value| value == "true");
    place(&edge, is_clear_allowed).map_err(Fault::Usage)
}

/// The file with the authority to believe, if it is not those of the web.
pub fn authority() -> Option<PathBuf> {
    variable("PERSONA_CA_FILE").map(PathBuf::from)
}

/// The token of the environment, if there is one.
///
/// # Errors
/// When its file cannot be read.
pub fn token() -> Result<Option<SecretString>, Fault> {
    if let Some(token) = variable("PERSONA_TOKEN") {
        return Ok(Some(token.into()));
    }
    let Some(path) = variable("PERSONA_TOKEN_FILE") else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Fault::Usage(format!("PERSONA_TOKEN_FILE: {path}: {error}")))?;
    Ok(Some(text.trim().to_owned().into()))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A token in clear is for this machine alone unless it is allowed.
fn place(text: &str, is_clear_allowed: bool) -> Result<String, String> {
    let url = text.parse::<Uri>().ok().filter(|url| {
        let is_web = url.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme));
        // A password in it would be printed, and sent to nobody.
        is_web && url.query().is_none() && !text.contains('@')
    });
    let host = url.as_ref().and_then(Uri::host);
    let (Some(url), Some(host)) = (&url, host) else {
        return Err(format!("PERSONA_EDGE must be a URL such as {HERE}, without a password"));
    };
    if url.scheme_str() == Some("https") || is_here(host) || is_clear_allowed {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(format!(
        "PERSONA_EDGE: the token would go to {host} in clear: use https://, or say PERSONA_ALLOW_HTTP=true in a \
         network that nobody else listens in, as within a cluster"
    ))
}

fn is_here(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_clear_to_this_machine_alone_unless_it_is_allowed() {
        for good in
            ["http://localhost:8081/", "http://127.0.0.9", "http://[::1]:8081", "https://edge.example.com"]
        {
            assert_eq!(place(good, false).as_deref(), Ok(good.trim_end_matches('/')));
        }
        for open in ["http://edge:8081", "http://10.0.0.1", "http://localhost.example.com"] {
            assert!(place(open, false).is_err_and(|fault| fault.contains("PERSONA_ALLOW_HTTP")), "{open}");
            assert!(place(open, true).is_ok(), "{open}");
        }
        for bad in ["edge:8081", "ftp://edge", "https://", "https://u:canary@edge", "https://edge/?a=canary"]
        {
            let fault = place(bad, true).expect_err(bad);
            assert!(fault.contains("must be a URL such as") && !fault.contains("canary"), "{fault}");
        }
    }
}
