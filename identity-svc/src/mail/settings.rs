use std::str::FromStr;
use std::time::Duration;

use chassis::settings::Env;
use lettre::message::Mailbox;
use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};

use super::tokens::Purpose;

/// The longest that one step of a conversation with the mail server may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How mails are sent, and what their links are.
#[derive(Clone)]
pub struct Settings {
    pub(super) smtp: Smtp,
    pub(super) from: Mailbox,
    verify: Link,
    reset: Link,
}

/// The page that a mail leads to, and how long its token is good.
#[derive(Clone)]
struct Link {
    page: Page,
    life: Duration,
}

impl Settings {
    /// `None` when no mail server is configured.
    pub fn read(env: &mut Env) -> Option<Settings> {
        let smtp = env.optional::<Smtp>(
            "MAIL_SMTP_URL",
            "Mail server: `smtps://user:password@host`, `smtp://user:password@host?tls=required` (STARTTLS), or \
             `smtp://host:25` without a password; without it no mail is sent",
        );
        env.conceal("MAIL_SMTP_URL");
        let from = env.optional::<Mailbox>(
            "MAIL_FROM",
            "Sender of mails, such as `AI Persona Platform <no-reply@example.com>`; its name signs them",
        );
        let verify = env.optional::<Page>(
            "MAIL_VERIFY_LINK",
            "Page that takes the token of a verification, such as `https://app.example.com/verify-email#token={token}`",
        );
        let reset = env.optional::<Page>(
            "MAIL_RESET_LINK",
            "Page that asks for a new password, such as `https://app.example.com/reset-password#token={token}`",
        );
        let verify_life = env.number(
            "EMAIL_VERIFY_TTL_SECONDS",
            "86400",
            1..=2_592_000,
            "Seconds in which the link of a verification is good, and in which its mail is tried to be sent",
        );
        let reset_life = env.number(
            "PASSWORD_RESET_TTL_SECONDS",
            "3600",
            1..=86_400,
            "Seconds in which the link to a new password is good, and in which its mail is tried to be sent",
        );
        let smtp = smtp?;
        let (Some(from), Some(verify), Some(reset)) = (from, verify, reset) else {
            env.fault("MAIL_SMTP_URL needs MAIL_FROM, MAIL_VERIFY_LINK and MAIL_RESET_LINK with it");
            return None;
        };
        let link = |page, life| Link { page, life: Duration::from_secs(life) };
        Some(Settings { smtp, from, verify: link(verify, verify_life), reset: link(reset, reset_life) })
    }

    fn link(&self, purpose: Purpose) -> &Link {
        match purpose {
            Purpose::VerifyEmail => &self.verify,
            Purpose::ResetPassword => &self.reset,
        }
    }

    /// Where a token is taken.
    pub(super) fn page(&self, purpose: Purpose, token: &str) -> String {
        self.link(purpose).page.0.replace(TOKEN, token)
    }

    /// How long a token is good.
    pub(super) fn life(&self, purpose: Purpose) -> Duration {
        self.link(purpose).life
    }
}

/// The mail server with its credentials.
#[derive(Clone)]
pub struct Smtp(SecretString);

impl Smtp {
    /// # Errors
    /// When the certificates of the system cannot be read.
    pub fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, lettre::transport::smtp::Error> {
        Ok(builder(self.0.expose_secret())?.timeout(Some(STEP_LIMIT)).build())
    }
}

fn builder(url: &str) -> Result<AsyncSmtpTransportBuilder, lettre::transport::smtp::Error> {
    AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
}

impl FromStr for Smtp {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let query = url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
        // Of the query, and not of the password.
        let encrypted = url.starts_with("smtps://") || query.split('&').any(|pair| pair == "tls=required");
        if url.contains('@') && !encrypted {
            return Err("would send its password in clear: begin with smtps:// or end with ?tls=required");
        }
        // The fault of the library would repeat parts of the URL, and so of the password.
        builder(url).map_err(|_| "must be smtps://user:password@host or smtp://host")?;
        Ok(Smtp(url.to_owned().into()))
    }
}

const TOKEN: &str = "{token}";

/// The URL of a page with a place for the token.
#[derive(Clone)]
struct Page(String);

impl FromStr for Page {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let usable = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
            && url.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>'))
            && url.matches(TOKEN).count() == 1;
        if usable { Ok(Page(url.to_owned())) } else { Err("must be a URL with {token} in it once") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_whose_password_would_travel_in_clear_is_refused() {
        for good in [
            "smtps://user:pass@mail.example.com",
            "smtp://user:pass@mail.example.com:587?tls=required",
            "smtp://127.0.0.1:1025",
        ] {
            assert!(good.parse::<Smtp>().is_ok(), "{good}");
        }
        for bad in [
            "smtp://user:tls=required@mail.example.com",
            "smtp://user:pass@mail.example.com#?tls=required",
            "smtp://user:pass@mail.example.com",
            "smtp://user:pass@host?tls=opportunistic",
            "mail.example.com",
        ] {
            assert!(bad.parse::<Smtp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fault_of_the_settings_never_repeats_the_password() {
        let given =
            [("MAIL_SMTP_URL", "smpts://user:hunter2@host"), ("MAIL_VERIFY_LINK", "https://a/verify")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let faults =
            chassis::settings::load_from(given, Settings::read).map(drop).expect_err("refused").to_string();
        assert!(faults.contains("MAIL_SMTP_URL") && faults.contains("MAIL_VERIFY_LINK"), "{faults}");
        assert!(!faults.contains("hunter2"), "{faults}");
    }

    #[test]
    fn a_mail_server_needs_a_sender_and_links_with_it() {
        let given = [("MAIL_SMTP_URL".to_owned(), "smtp://127.0.0.1:1025".to_owned())];
        assert!(chassis::settings::load_from(given, Settings::read).is_err());
        assert!(chassis::settings::load_from([], Settings::read).expect("mail is off").is_none());
    }
}
