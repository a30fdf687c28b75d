//! What mails say, as plain text and as HTML. The templates escape what they are given. Of what people type, a mail
//! carries the address that it goes to and nothing else: whoever registers a stranger's address must not be able to
//! write to that stranger through us.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

use super::tokens::Purpose;

/// The name that signs mails when `MAIL_FROM` has none.
const SENDER: &str = "AI Persona Platform";

/// A mail before it is addressed.
pub struct Letter {
    subject: &'static str,
    paragraphs: Vec<String>,
    button: Option<Button>,
    closing: &'static str,
}

struct Button {
    label: &'static str,
    url: String,
}

#[derive(Template)]
#[template(path = "letter.txt")]
struct Text<'a> {
    heading: &'a str,
    paragraphs: &'a [String],
    button: Option<&'a Button>,
    closing: &'a str,
    sender: &'a str,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct Html<'a> {
    heading: &'a str,
    paragraphs: &'a [String],
    button: Option<&'a Button>,
    closing: &'a str,
    sender: &'a str,
}

/// Why a letter cannot become a mail.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    #[error("the address is none that can be written to")]
    Address(#[from] lettre::address::AddressError),
    #[error(transparent)]
    Template(#[from] askama::Error),
    #[error(transparent)]
    Message(#[from] lettre::error::Error),
}

impl Letter {
    /// A mail with a link; `address` is where the request for it came from, if that is known.
    pub fn with_link(purpose: Purpose, email: &str, url: String, life: Duration, address: &str) -> Letter {
        let expiry = format!("The link works once, and for {}.", in_words(life));
        match purpose {
            Purpose::VerifyEmail => Letter {
                subject: "Confirm your e-mail address",
                paragraphs: vec![format!("Please confirm that {email} is your e-mail address."), expiry],
                button: Some(Button { label: "Confirm the address", url }),
                closing: "If you have no account with us, somebody has mistyped an address, and you need not do anything.",
            },
            Purpose::ResetPassword => Letter {
                subject: "Choose a new password",
                paragraphs: vec![
                    format!("Somebody{} asked for a new password for the account {email}.", from(address)),
                    format!("{expiry} A new password signs the account out everywhere."),
                ],
                button: Some(Button { label: "Choose a new password", url }),
                closing: "If that was not you, you need not do anything: your password stays as it is.",
            },
        }
    }

    /// The notice that the password was changed.
    pub fn password_changed(email: &str, at: DateTime<Utc>, address: &str) -> Letter {
        let at = at.format("%-d %B %Y, %H:%M UTC");
        Letter {
            subject: "Your password was changed",
            paragraphs: vec![format!(
                "The password of the account {email} was changed on {at}{}.",
                from(address)
            )],
            button: None,
            closing: "If that was not you, ask for a new password at once: that signs the account out everywhere.",
        }
    }

    /// The notice that there is an API key more; without its name, which whoever made it has chosen.
    pub fn api_key_created(email: &str, at: DateTime<Utc>, address: &str) -> Letter {
        let at = at.format("%-d %B %Y, %H:%M UTC");
        Letter {
            subject: "An API key was made for your account",
            paragraphs: vec![format!(
                "An API key for the account {email} was made on {at}{}. Until it expires or is ended, programs can act for \
                 the account with it.",
                from(address)
            )],
            button: None,
            closing: "If that was not you, ask for a new password at once: that ends every API key and signs the account \
                      out everywhere.",
        }
    }

    /// The whole mail. The same `id` makes the same `Message-ID`, so that a mail that is sent twice can be known as one.
    ///
    /// # Errors
    /// When nobody can be written to at this address.
    pub fn to(&self, email: &str, from: &Mailbox, id: &str) -> Result<Message, Unwritable> {
        let sender = from.name.as_deref().unwrap_or(SENDER);
        let (heading, paragraphs, closing) = (self.subject, self.paragraphs.as_slice(), self.closing);
        let button = self.button.as_ref();
        let text = Text { heading, paragraphs, button, closing, sender }.render()?;
        let html = Html { heading, paragraphs, button, closing, sender }.render()?;
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mail = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, email.parse()?))
            .subject(self.subject)
            .date_now()
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            // RFC 3834: nobody's absence is answered.
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(text, html))?;
        Ok(mail)
    }
}

fn from(address: &str) -> String {
    if address.is_empty() { String::new() } else { format!(" from {address}") }
}

fn in_words(life: Duration) -> String {
    let plural = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match life.as_secs() {
        seconds if seconds >= 3600 && seconds.is_multiple_of(3600) => plural(seconds / 3600, "hour"),
        seconds if seconds >= 60 => plural(seconds / 60, "minute"),
        seconds => plural(seconds, "second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(letter: &Letter, email: &str) -> String {
        let from = "Personas & Friends <no-reply@example.com>".parse().expect("a sender");
        String::from_utf8(letter.to(email, &from, "1").expect("a mail").formatted()).expect("UTF-8")
    }

    #[test]
    fn an_address_is_text_and_never_markup() {
        let email = "o'brien&<i>@example.com";
        let letter = Letter::with_link(
            Purpose::ResetPassword,
            email,
            "https://a.example/?a=1&b#token=t".to_owned(),
            Duration::from_secs(3600),
            "\"><script>",
        );
        let button = letter.button.as_ref();
        let html = Html {
            heading: letter.subject,
            paragraphs: &letter.paragraphs,
            button,
            closing: letter.closing,
            sender: "A & B",
        };
        let html = html.render().expect("rendered");
        assert!(!html.contains("<i>") && !html.contains("<script>"), "{html}");
        assert!(html.contains("o&#39;brien&#38;&#60;i&#62;@example.com"), "{html}");
        assert!(html.contains("A &#38; B") && html.contains("a=1&#38;b#token=t"), "{html}");
    }

    #[test]
    fn a_mail_has_both_texts_and_says_that_a_machine_wrote_it() {
        let letter = Letter::password_changed("a&b@example.com", DateTime::UNIX_EPOCH, "203.0.113.9");
        let mail = written(&letter, "a&b@example.com");
        assert!(mail.contains("multipart/alternative"), "{mail}");
        assert!(
            mail.contains("The password of the account a&b@example.com was changed on 1 January"),
            "{mail}"
        );
        assert!(mail.contains("a&#38;b@example.com"), "{mail}");
        for header in ["Auto-Submitted: auto-generated", "Message-ID: <1@example.com>", "To: a&b@example.com"]
        {
            assert!(mail.contains(header), "{header}: {mail}");
        }
    }

    #[test]
    fn a_line_end_in_an_address_makes_no_header() {
        let letter = Letter::password_changed("a@example.com", DateTime::UNIX_EPOCH, "");
        let from = "no-reply@example.com".parse().expect("a sender");
        assert!(letter.to("a@example.com\r\nBcc: b@example.com", &from, "1").is_err());
    }

    #[test]
    fn a_life_is_told_in_the_largest_unit_that_fits() {
        let told = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(
            (told(86_400), told(3600), told(5400)),
            ("24 hours".into(), "1 hour".into(), "90 minutes".into())
        );
        assert_eq!((told(60), told(2)), ("1 minute".into(), "2 seconds".into()));
    }
}
