//! Mails. An act that causes one writes it into the outbox in its own transaction, so that there is no act without its
//! mail and no mail without its act; replicas send what is in the outbox. What a mail says, and the token in its link,
//! is made at the moment of sending: no token lies anywhere but in the mail.

mod letter;
mod outbox;
mod patience;
mod relay;
mod settings;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::sync::{Arc, LazyLock};

use contract::identity::Device;
use contract::{ErrorCode, Failure, Outcome};
use http::StatusCode;
use prometheus::IntCounterVec;
use sqlx::MySqlConnection;
use tokio::sync::Notify;

pub use outbox::withdraw;
pub use relay::Relay;
pub use settings::Settings;
use tokens::Purpose;

/// What a mail is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A link with a token.
    Link(Purpose),
    /// Tells that the password is another one now.
    PasswordChanged,
    /// Tells that there is an API key more.
    ApiKeyCreated,
}

impl Kind {
    /// The name under which the table and metrics know it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Link(purpose) => purpose.name(),
            Kind::PasswordChanged => "password_changed",
            Kind::ApiKeyCreated => "api_key_created",
        }
    }

    fn parse(name: &str) -> Option<Kind> {
        let all = [
            Kind::Link(Purpose::VerifyEmail),
            Kind::Link(Purpose::ResetPassword),
            Kind::PasswordChanged,
            Kind::ApiKeyCreated,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// Where mails are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Mail {
    settings: Option<Arc<Settings>>,
    hurry: Arc<Notify>,
}

impl Mail {
    /// Without settings, mail is off and nothing is ever queued.
    pub fn new(settings: Option<Settings>) -> Self {
        Mail { settings: settings.map(Arc::new), hurry: Arc::default() }
    }

    pub fn is_on(&self) -> bool {
        self.settings.is_some()
    }

    /// # Errors
    /// GW001 when no mail server is configured.
    pub fn must_be_on(&self) -> Outcome<()> {
        if self.is_on() {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Unavailable)
            .with_http(StatusCode::SERVICE_UNAVAILABLE)
            .with_fact("service", "mail")
            .saying("Mail is not configured"))
    }

    /// Queues a mail in the caller's transaction. Nothing happens when mail is off.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn queue(
        &self,
        tx: &mut MySqlConnection,
        kind: Kind,
        email: &str,
        device: &Device,
    ) -> Outcome<()> {
        if !self.is_on() {
            return Ok(());
        }
        outbox::append(tx, kind, email, device).await?;
        MAILS.with_label_values(&[kind.name(), "queued"]).inc();
        Ok(())
    }

    /// Has this replica look into the outbox at once.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }
}

static MAILS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_mails_total",
        "Mails by kind and by what became of them",
        &["kind", "outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
