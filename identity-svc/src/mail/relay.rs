//! Sends what is in the outbox. Every replica does; a mail server that is away holds up mails and nothing else.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chassis::drain::Drain;
use chassis::mysql::{in_time, transaction};
use contract::Outcome;
use lettre::transport::smtp::Error as SmtpError;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use prometheus::{Gauge, IntGauge};
use sqlx::MySqlPool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::letter::Letter;
use super::outbox::{self, Queued};
use super::patience::Patience;
use super::{Kind, MAILS, Mail, Settings, tokens};

/// How often the outbox is read when nothing calls for it earlier: another replica may have left something.
const POLL: Duration = Duration::from_millis(500);
/// Mails that are sent at once...
const SLOTS: usize = 8;
/// ...of which so many may have been tried before: those that fail again and again leave room for others.
const AGAIN_SLOTS: usize = SLOTS / 2;
/// The longest that sending one mail may take.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// The longest that the database may take for what comes before and after.
const DATABASE_LIMIT: Duration = Duration::from_secs(10);
/// The longest that the server may take to show that it is there.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// A mail that the server does not want now comes again after this, doubled each time...
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// ...up to this.
const LONGEST_DELAY: Duration = Duration::from_secs(600);
/// How long a notice, which has no link that expires, is tried.
const NOTICE_LIFE: Duration = Duration::from_secs(86_400);

/// What came of one try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Sent,
    /// There is nothing to send any more, or nobody to send it to.
    Needless,
    /// It will never be taken.
    Failed,
    /// It could not be sent in its time.
    GivenUp,
    /// The server does not want it now.
    Delayed,
    /// Nothing can be sent at the moment.
    Away,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Fate::Sent => "sent",
            Fate::Needless => "needless",
            Fate::Failed => "failed",
            Fate::GivenUp => "given_up",
            Fate::Delayed => "delayed",
            Fate::Away => "away",
        }
    }
}

/// Sends mails. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    pool: MySqlPool,
    settings: Arc<Settings>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    mail: Mail,
}

impl Relay {
    /// `None` when mail is off. Called inside the runtime.
    ///
    /// # Errors
    /// When the certificates of the system cannot be read.
    pub fn new(pool: MySqlPool, mail: &Mail) -> Result<Option<Relay>, SmtpError> {
        let Some(settings) = mail.settings.clone() else { return Ok(None) };
        let transport = settings.smtp.transport()?;
        Ok(Some(Relay { pool, settings, transport, mail: mail.clone() }))
    }

    /// Sends until the process ends; what is on its way then is finished. Each mail is settled when it is done, and
    /// another takes its place: one that takes long holds up none but itself. Each has a task, so that it goes on while the
    /// outbox is read: as a mere future it would keep its connection to the database for as long as that takes, and all
    /// together those that the reading waits for.
    pub async fn run(self, drain: Drain) {
        let mut sending = JoinSet::new();
        let again = Arc::new(Semaphore::new(AGAIN_SLOTS));
        let mut patience = Patience::default();
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !drain.is_ending() {
            tokio::select! {
                Some(sent) = sending.join_next() => match sent {
                    Ok(outcome) => note(&mut patience, outcome),
                    Err(error) => tracing::error!(%error, "a mail was not sent; it is tried again"),
                },
                _ = poll.tick(), if !patience.is_pausing() => match self.measure().await {
                    Ok(0) => continue,
                    Ok(_) => {}
                    Err(failure) => note(&mut patience, Err(failure)),
                },
                // Nothing is gained by hurrying while the server is away.
                () = self.mail.hurry.notified(), if !patience.is_pausing() => {}
                () = patience.pause(), if patience.is_pausing() => {}
                () = drain.ending() => continue,
            }
            // A server that was away is tried with one mail.
            let slots = if patience.is_lost() { 1 } else { SLOTS };
            let free = if patience.is_pausing() { 0 } else { slots.saturating_sub(sending.len()) };
            if free == 0 {
                continue;
            }
            match outbox::take(&self.pool, free, free.min(again.available_permits())).await {
                Ok(mails) => {
                    for mail in mails {
                        let slot = (mail.refusals > 0).then(|| again.clone().try_acquire_owned());
                        let relay = self.clone();
                        sending.spawn(async move {
                            let _slot = slot;
                            relay.deliver(&mail).await
                        });
                    }
                }
                Err(failure) => note(&mut patience, Err(failure)),
            }
        }
        while sending.join_next().await.is_some() {}
    }

    /// Sends one mail and settles it.
    async fn deliver(&self, mail: &Queued) -> Outcome<Fate> {
        let fate = self.attempt(mail).await?;
        MAILS.with_label_values(&[mail.kind.name(), fate.name()]).inc();
        let settled = async {
            match fate {
                Fate::Sent => outbox::sent(&self.pool, mail).await,
                Fate::Needless | Fate::Failed | Fate::GivenUp => outbox::drop_mail(&self.pool, mail).await,
                Fate::Delayed => outbox::delay(&self.pool, mail, delay(mail.refusals)).await,
                Fate::Away => outbox::put_back(&self.pool, mail).await,
            }
        };
        in_time(DATABASE_LIMIT, settled).await?;
        Ok(fate)
    }

    async fn attempt(&self, mail: &Queued) -> Outcome<Fate> {
        let (id, kind) = (mail.id, mail.kind.name());
        if mail.age > self.life(mail.kind) {
            tracing::warn!(mail = id, kind, "a mail could not be sent in its time");
            return Ok(Fate::GivenUp);
        }
        let Some(letter) = self.write(mail).await? else { return Ok(Fate::Needless) };
        // The number of a row alone may come again in another database.
        let message_id = format!("{id}.{}", mail.queued_at.timestamp_micros());
        match letter.to(&mail.email, &self.settings.from, &message_id) {
            Ok(message) => Ok(self.send(mail, message).await),
            Err(error) => {
                tracing::warn!(mail = id, kind, %error, "a mail cannot be written");
                Ok(Fate::Failed)
            }
        }
    }

    fn life(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Link(purpose) => self.settings.life(purpose),
            Kind::PasswordChanged | Kind::ApiKeyCreated => NOTICE_LIFE,
        }
    }

    /// The letter of a mail, with a token of its own if it has a link; `None` when it is not needed any more.
    async fn write(&self, mail: &Queued) -> Outcome<Option<Letter>> {
        let address = &mail.device.ip_address;
        let purpose = match mail.kind {
            Kind::Link(purpose) => purpose,
            Kind::PasswordChanged => {
                return Ok(Some(Letter::password_changed(&mail.email, mail.queued_at, address)));
            }
            Kind::ApiKeyCreated => {
                return Ok(Some(Letter::api_key_created(&mail.email, mail.queued_at, address)));
            }
        };
        let life = self.settings.life(purpose);
        let token = transaction(&self.pool, "mail_token", mail, move |tx, mail| {
            Box::pin(async move { tokens::make(tx, purpose, &mail.email, mail.id, life).await })
        })
        .await?;
        let letter = |token: String| {
            let url = self.settings.page(purpose, &token);
            Letter::with_link(purpose, &mail.email, url, life, address)
        };
        Ok(token.map(letter))
    }

    async fn send(&self, mail: &Queued, message: Message) -> Fate {
        let sending = tokio::time::timeout(SEND_LIMIT, self.transport.send(message)).await;
        let (fate, code) = match sending {
            Ok(Ok(_)) => return Fate::Sent,
            Ok(Err(error)) => (fate_of(&error, &mail.email), error.status().map(|code| code.to_string())),
            Err(_) => (Fate::Away, None),
        };
        // A server that is there all the same, and would not even take this recipient's mail or say why, is away for
        // this mail alone.
        let fate = if fate == Fate::Away && self.is_there().await { Fate::Delayed } else { fate };
        // Without the server's words, which often repeat the address.
        tracing::warn!(
            mail = mail.id,
            kind = mail.kind.name(),
            refusals = mail.refusals,
            code,
            "a mail was not taken: {}",
            fate.name()
        );
        fate
    }

    /// Whether the server talks to us, apart from any mail.
    async fn is_there(&self) -> bool {
        matches!(tokio::time::timeout(PROBE_LIMIT, self.transport.test_connection()).await, Ok(Ok(true)))
    }

    /// Shows how many mails wait, and for how long the oldest has. Gives how many are due.
    async fn measure(&self) -> Outcome<i64> {
        let waiting = in_time(DATABASE_LIMIT, outbox::waiting(&self.pool)).await?;
        WAITING.set(waiting.count);
        OLDEST.set(waiting.oldest.unwrap_or(0).max(0) as f64 / 1e6);
        Ok(waiting.due)
    }
}

/// What a mail that is done says of the server.
fn note(patience: &mut Patience, outcome: Outcome<Fate>) {
    match outcome {
        Ok(Fate::Away) => patience.failed(),
        Ok(Fate::Sent | Fate::Failed | Fate::Delayed) => patience.succeeded(),
        // Nobody knows yet whether a server that was away is back.
        Ok(Fate::Needless | Fate::GivenUp) => {}
        Err(failure) => {
            tracing::warn!(cause = ?failure.cause(), "mails wait: {failure}");
            patience.failed();
        }
    }
}

/// How long a mail waits that was refused this often before.
fn delay(refusals: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << refusals.min(16)).min(LONGEST_DELAY)
}

/// What an error means for the mail. Only what is said of the recipient (RFC 5321 section 4.2.3) is final: other
/// refusals, such as of our password, end when somebody has set them right.
fn fate_of(error: &SmtpError, email: &str) -> Fate {
    let code = error.status().map(u16::from);
    match code {
        Some(550 | 551 | 553) => Fate::Failed,
        // The service is not available, or does not admit us: so it is with all other mails.
        Some(421 | 454 | 530 | 534 | 535 | 538) => Fate::Away,
        Some(_) => Fate::Delayed,
        // The server cannot write to addresses outside ASCII.
        None if error.is_client() && !email.is_ascii() => Fate::Failed,
        None => Fate::Away,
    }
}

static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!("identity_mail_outbox", "Mails that wait to be sent")
        .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static OLDEST: LazyLock<Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "identity_mail_outbox_oldest_seconds",
        "Age of the oldest mail that waits to be sent"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
