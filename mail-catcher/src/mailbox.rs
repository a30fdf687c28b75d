//! What was caught, the newest first.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail_parser::{Address, MessageParser};
use serde::Serialize;

/// Mails that are kept; older ones go.
const MOST: usize = 500;

/// A mail as clients see it.
#[derive(Clone, Debug, Serialize)]
pub struct Mail {
    pub id: u64,
    /// Of the envelope.
    pub to: Vec<String>,
    pub from: String,
    /// RFC 3339.
    pub date: String,
    pub message_id: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// The mails of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    mails: VecDeque<Mail>,
    caught: u64,
    put_off: HashSet<String>,
}

impl Mailbox {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a mail; `false` when it cannot be read.
    pub fn keep(&self, to: Vec<String>, bytes: &[u8]) -> bool {
        let Some(parsed) = MessageParser::default().parse(bytes) else { return false };
        let text = |body: Option<std::borrow::Cow<'_, str>>| body.unwrap_or_default().into_owned();
        let mut content = self.content();
        content.caught += 1;
        let mail = Mail {
            id: content.caught,
            to,
            from: parsed
                .from()
                .and_then(Address::first)
                .and_then(|from| from.address())
                .unwrap_or_default()
                .to_owned(),
            date: parsed.date().map(mail_parser::DateTime::to_rfc3339).unwrap_or_default(),
            message_id: parsed.message_id().unwrap_or_default().to_owned(),
            subject: parsed.subject().unwrap_or_default().to_owned(),
            text: text(parsed.body_text(0)),
            html: text(parsed.body_html(0)),
        };
        content.mails.push_front(mail);
        content.mails.truncate(MOST);
        true
    }

    /// Those to an address, or all.
    pub fn mails(&self, to: Option<&str>) -> Vec<Mail> {
        let content = self.content();
        let wanted = |mail: &&Mail| to.is_none_or(|to| mail.to.iter().any(|other| other == to));
        content.mails.iter().filter(wanted).cloned().collect()
    }

    pub fn mail(&self, id: u64) -> Option<Mail> {
        self.content().mails.iter().find(|mail| mail.id == id).cloned()
    }

    pub fn clear(&self) {
        self.content().mails.clear();
    }

    /// Whether this is the first mail to an address that is put off once.
    pub fn put_off(&self, address: &str) -> bool {
        self.content().put_off.insert(address.to_owned())
    }
}
