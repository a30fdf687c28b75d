//! Whether somebody listens where Redis and the mail server are said to be. The platform goes on without them, and nobody
//! notices for a while.

use std::time::Duration;

use http::Uri;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::deployment::Member;
use crate::http::root_cause;
use crate::report::Check;

const LIMIT: Duration = Duration::from_secs(3);

/// A server that a setting names.
struct Other {
    subject: &'static str,
    setting: &'static str,
    /// The port of each scheme, and of one with a parameter `tls`.
    ports: &'static [(&'static str, u16)],
    meanwhile: &'static str,
}

const OTHERS: [Other; 2] = [
    Other {
        subject: "redis",
        setting: "RATE_LIMIT_REDIS_URL",
        ports: &[("redis", 6379)],
        meanwhile: "each edge counts requests by itself",
    },
    Other {
        subject: "mail server",
        setting: "MAIL_SMTP_URL",
        ports: &[("smtp", 25), ("smtps", 465), ("smtp?tls", 587)],
        meanwhile: "mails wait",
    },
];

pub async fn checks(members: &[Member]) -> Vec<Check> {
    let mut checks = Vec::new();
    for other in OTHERS {
        let url = members.iter().find_map(|member| member.survey.secret(other.setting));
        let is_faulty = members.iter().any(|member| member.survey.is_faulty(other.setting));
        // The password in it goes nowhere.
        if let Some(place) =
            url.filter(|_| !is_faulty).and_then(|url| place(url.expose_secret(), other.ports))
        {
            checks.push(look(&other, &place).await);
        }
    }
    checks
}

async fn look(other: &Other, place: &str) -> Check {
    let fault = match timeout(LIMIT, TcpStream::connect(place)).await {
        Ok(Ok(_)) => return Check::ok(other.subject, format!("listens at {place}")),
        Ok(Err(error)) => root_cause(&error),
        Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
    };
    let says = format!("{place} does not listen: {fault}; {} meanwhile", other.meanwhile);
    Check::warning(other.subject, says, format!("start it, or correct {}", other.setting))
}

/// `host:port` of a URL.
fn place(url: &str, ports: &[(&str, u16)]) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    let scheme = url.scheme_str()?;
    let has_tls = url.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("tls=")));
    let port = |name: &str| ports.iter().find(|(known, _)| *known == name).map(|(_, port)| *port);
    let with_tls = port(&format!("{scheme}?tls")).filter(|_| has_tls);
    let port = with_tls.or_else(|| port(scheme));
    Some(format!("{}:{}", url.host()?, url.port_u16().or(port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_without_its_password() {
        let place = |url: &str| place(url, OTHERS[1].ports);
        assert_eq!(place("smtps://user:secret@mail.example.com").as_deref(), Some("mail.example.com:465"));
        assert_eq!(
            place("smtp://mail.example.com:587?tls=required").as_deref(),
            Some("mail.example.com:587")
        );
        assert_eq!(place("smtp://mail.example.com").as_deref(), Some("mail.example.com:25"));
        for tls in ["required", "opportunistic"] {
            let url = format!("smtp://u:p@mail.example.com?tls={tls}");
            assert_eq!(place(&url).as_deref(), Some("mail.example.com:587"), "{tls}");
        }
        assert_eq!(place("smtps://mail.example.com?tls=required").as_deref(), Some("mail.example.com:465"));
        assert_eq!(place("redis://x"), None);
    }
}
