use serde_json::Value;

use crate::client::Client;
use crate::gate::Gate;
use crate::process::Process;
use crate::sandbox::{local, until};

/// Where the pages are that links lead to.
pub const VERIFY_PAGE: &str = "https://app.example.com/verify-email#token=";
pub const RESET_PAGE: &str = "https://app.example.com/reset-password#token=";

/// The mail server of a sandbox, which delivers nothing.
pub struct Mail {
    catcher: Client,
    /// The door between identity-svc and the mail server.
    pub door: Gate,
    _process: Process,
}

impl Mail {
    pub(crate) fn start() -> Mail {
        let (smtp, web) = (local(), local());
        let settings = [("MAIL_CATCHER_SMTP_LISTEN", smtp.clone()), ("MAIL_CATCHER_LISTEN", web.clone())];
        let process = Process::start("mail-catcher", &settings);
        Mail { catcher: Client::new(format!("http://{web}")), door: Gate::to(smtp), _process: process }
    }

    /// What identity-svc is told.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MAIL_SMTP_URL", format!("smtp://{}", self.door.address())),
            ("MAIL_FROM", "Personas <no-reply@example.com>".to_owned()),
            ("MAIL_VERIFY_LINK", format!("{VERIFY_PAGE}{{token}}")),
            ("MAIL_RESET_LINK", format!("{RESET_PAGE}{{token}}")),
        ]
    }

    /// The mails to an address, the newest first.
    pub async fn to(&self, email: &str) -> Vec<Value> {
        let path = format!("/messages?to={email}");
        let reply = self.catcher.try_send(http::Method::GET, &path, None, &[], None).await;
        // It may not listen yet.
        reply.map_or_else(Vec::new, |reply| reply.body["messages"].as_array().expect("a list").clone())
    }

    /// The newest mail to an address once there are this many.
    pub async fn nth(&self, email: &str, count: usize) -> Value {
        until("the mail arrives", async || self.to(email).await.len() >= count).await;
        let mails = self.to(email).await;
        assert_eq!(mails.len(), count, "{mails:?}");
        mails[0].clone()
    }
}

/// The token in the link of a mail, which both of its texts have.
pub fn token_in(mail: &Value, page: &str) -> String {
    let find = |text: &str| {
        let (_, rest) = text.split_once(page).unwrap_or_else(|| panic!("no {page} in {text}"));
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        rest.chars().take_while(|c| is_token(*c)).collect::<String>()
    };
    let token = find(mail["text"].as_str().expect("a text"));
    assert_eq!(token.len(), 43, "256 bits: {mail}");
    assert_eq!(token, find(mail["html"].as_str().expect("HTML")));
    token
}
