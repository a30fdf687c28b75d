//! The I/O loop of one socket. It waits for all its inputs at once and for nothing else, so that a logout, the
//! token's end and the drain are obeyed whatever the client or core-manager does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::{ErrorCode, Failure};
use futures_util::future::join3;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::end::{Client, End, fault, finish};
use super::envelope;
use super::legs::{Legs, Number};
use super::passage::{Parcel, Passage, Step, Verdict};
use super::session::{Action, Session, Standing, close};
use super::side::{Event, Side};
use super::starts::Starts;
use super::upstream::Heard;
use super::{ClientStream, Place, Sockets};
use crate::claims::{Caller, Freshness};
use crate::front::RequestContext;
use crate::gateway::{CORE_MANAGER, upstream_away};

/// A client that takes longer than this to accept a message does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long core-manager has, after the client has gone, to say whether what was just started runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most legs that were opened with former claims. Who is changed more often than that is told to reconnect.
const MOST_FORMER: usize = 8;

type Turn = Result<(), End>;

struct Connection {
    sockets: Arc<Sockets>,
    context: RequestContext,
    session: Session,
    /// The epoch of live claims in which the caller was let in.
    epoch: u64,
    client: Client,
    /// When the socket ends unless it gets another token.
    deadline: Instant,
    legs: Legs,
    /// The message on its way to core-manager. The next one waits for it, so that messages keep their order.
    passage: Option<Passage>,
    starts: Starts,
    pinged: Option<Instant>,
}

/// Tells the client that it has too many sockets open.
pub async fn refuse(stream: ClientStream) {
    finish(Side::new(stream, SEND_TIMEOUT), End::Close(close::TOO_MANY, "too many connections")).await;
}

/// Serves a socket until it closes. What the future holds while nothing happens is most of what an idle socket costs.
pub fn run(
    sockets: Arc<Sockets>,
    place: Place,
    (caller, epoch): (Caller, u64),
    context: RequestContext,
    stream: ClientStream,
) -> impl Future<Output = ()> {
    let session = Session::new(sockets.authenticator.clone(), caller);
    let connection = Connection {
        deadline: Instant::now() + session.expires_in() + sockets.settings.expiry_grace,
        sockets,
        context,
        session,
        epoch,
        client: Side::new(stream, SEND_TIMEOUT),
        legs: Legs::default(),
        passage: None,
        starts: Starts::default(),
        pinged: None,
    };
    connection.live(place)
}

impl Connection {
    async fn live(mut self, place: Place) {
        let Err(end) = self.serve().await;
        // A socket that is only waiting for the client's close takes nobody's place.
        drop(place);
        // Boxed, so that open sockets have no room for it.
        Box::pin(self.end(end)).await;
    }

    async fn end(self, end: End) {
        let Connection { context, client, legs, passage, starts, .. } = self;
        let given_up = async {
            if let Some(passage) = passage {
                passage.give_up().await;
            }
        };
        join3(finish(client, end), last_answers(legs, starts), given_up).await;
        tracing::debug!(request_id = context.id(), "a socket closed");
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let sockets = self.sockets.clone();
        self.greet()?;
        let mut changes = sockets.authenticator.live().changes_of(self.session.user_id());
        // What changed before the subscription woke nobody.
        self.obey()?;
        let heartbeat = sockets.settings.heartbeat;
        let mut beat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        let mut turn = std::pin::pin!(sockets.turns.acquire());
        loop {
            let listening = self.passage.is_none() && self.legs.are_clear();
            let relaying = self.client.is_clear();
            let lost = self.pinged.map(|at| at + sockets.settings.pong_timeout);
            tokio::select! {
                // In this order: what ends the socket first, and before a client counts as silent it is listened to.
                biased;
                _ = changes.changed() => self.obey()?,
                () = sleep_until(self.deadline) => return Err(End::Close(close::TOKEN_EXPIRED, "token expired")),
                turn = &mut turn => {
                    // Given back it would be the next socket's at once, and all would end together.
                    turn.into_iter().for_each(SemaphorePermit::forget);
                    return Err(End::Close(close::SHUTTING_DOWN, "shutting down"));
                }
                event = self.client.event(listening && relaying) => self.on_client(event)?,
                step = step(&mut self.passage) => self.on_step(step)?,
                (leg, heard) = self.legs.next(relaying) => self.on_upstream(leg, heard)?,
                _ = beat.tick() => self.beat()?,
                () = at(lost), if listening && relaying => {
                    return Err(End::Close(close::HEARTBEAT_LOST, "no answer to a ping"));
                }
            }
        }
    }

    fn greet(&mut self) -> Turn {
        let caller = self.obeying()?;
        let settings = &self.sockets.settings;
        let (heartbeat, longest) = (settings.heartbeat, settings.max_message_bytes);
        self.reply(envelope::connected(caller.session_id(), caller.user_id(), heartbeat, longest))
    }

    /// The caller, as long as the session lives.
    fn obeying(&self) -> Result<Caller, End> {
        self.session.caller().map_err(|_| End::Close(close::SESSION_ENDED, "session ended"))
    }

    /// Lives by the claims that count now: an ended session closes the socket, and changed claims are told and go
    /// with everything that is passed on from here.
    fn obey(&mut self) -> Turn {
        // Whether the session is open after a restore only identity-svc knows, who is asked of each that comes.
        if self.sockets.authenticator.live().epochs() != self.epoch {
            return Err(End::Close(close::TRY_LATER, "the database was restored"));
        }
        match self.session.look() {
            Err(_) => Err(End::Close(close::SESSION_ENDED, "session ended")),
            Ok(Standing::Unchanged) => Ok(()),
            Ok(Standing::Changed(text)) => {
                self.retire_leg()?;
                self.reply(text)
            }
        }
    }

    /// Once in a while: is the client there, is anything known of its rights, and what is no longer needed?
    fn beat(&mut self) -> Turn {
        let starts = &self.starts;
        self.legs.close_forgotten(|leg| starts.run_on(leg));
        if self.sockets.authenticator.live().freshness() == Freshness::Lost {
            return Err(End::Close(close::TRY_LATER, "sessions cannot be checked at the moment"));
        }
        // What the client does not take keeps core-manager from being heard, too.
        if !self.client.is_clear() {
            return Ok(());
        }
        for leg in self.legs.ping(self.sockets.settings.pong_timeout) {
            self.lost(leg, close::TRY_LATER, "core-manager does not answer")?;
        }
        for id in self.starts.overdue() {
            let failure = Failure::new(ErrorCode::Timeout).with_fact("service", CORE_MANAGER);
            let failure = failure.saying("core-manager has not said yet whether it starts this workflow");
            self.reply(envelope::error(Some(&id), &failure))?;
        }
        self.pinged.get_or_insert_with(Instant::now);
        self.say(Message::Ping(Bytes::new()))
    }

    fn on_client(&mut self, event: Event) -> Turn {
        let received = match event {
            Event::Sent => return Ok(()),
            Event::Gone => return Err(End::Gone),
            Event::Unread => return Err(End::Close(close::POLICY, "does not read")),
            Event::Failed(error) => return Err(fault(&error)),
            Event::Received(received) => received,
        };
        self.pinged = None;
        match received {
            Message::Close(_) => Err(End::Left),
            Message::Binary(_) => Err(End::Close(close::BINARY, "binary frames are refused")),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
            Message::Text(text) => {
                let action = self.session.on_text(&text);
                self.act(action)
            }
        }
    }

    fn act(&mut self, action: Action) -> Turn {
        match action {
            Action::Reply(text) => self.reply(text),
            Action::Refreshed(text) => {
                self.deadline =
                    Instant::now() + self.session.expires_in() + self.sockets.settings.expiry_grace;
                self.reply(text)
            }
            Action::Close(code, reason) => Err(End::Close(code, reason)),
            Action::Forward { id, text } => match self.starts.admit_other(&id) {
                Ok(()) => {
                    let caller = self.obeying()?;
                    self.forward(Parcel { id, text, start: None, caller })
                }
                Err(failure) => self.reply(envelope::error(Some(&id), &failure)),
            },
            Action::Check(passing) => {
                let admitted = match passing.start {
                    Some(_) => self.starts.admit(&passing.id),
                    None => self.starts.admit_other(&passing.id),
                };
                if let Err(failure) = admitted {
                    return self.reply(envelope::error(Some(&passing.id), &failure));
                }
                let caller = self.obeying()?;
                let (sockets, context) = (self.sockets.clone(), self.context.clone());
                self.passage = Some(Passage::check(sockets, caller, context, passing));
                Ok(())
            }
        }
    }

    fn on_step(&mut self, step: Step) -> Turn {
        self.passage = None;
        match step {
            Step::Checked(Verdict::Passes(parcel)) => self.forward(parcel),
            Step::Checked(Verdict::Repeated(id, state)) => self.reply(envelope::repeated(&id, state)),
            Step::Checked(Verdict::Refused(id, failure)) => self.reply(envelope::error(Some(&id), &failure)),
            Step::Opened(parcel, Ok(leg)) => {
                // Claims that have changed meanwhile need another leg.
                if leg.version >= self.obeying()?.claims().ver {
                    self.legs.open(leg);
                }
                self.forward(parcel)
            }
            Step::Opened(parcel, Err(failure)) => self.undelivered(parcel, &failure),
        }
    }

    /// Passes a message on, on a leg that says who its sender is by now; it is opened first if there is none.
    fn forward(&mut self, mut parcel: Parcel) -> Turn {
        let live = self.obeying()?;
        if live.claims().ver > parcel.caller.claims().ver {
            parcel.caller = live;
        }
        let needed = parcel.caller.claims().ver;
        if self.legs.current().is_some_and(|(leg, _)| leg.version < needed) {
            self.retire_leg()?;
        }
        let Some((leg, number)) = self.legs.current() else {
            self.passage = Some(Passage::open(&self.sockets, self.context.clone(), parcel));
            return Ok(());
        };
        let text = std::mem::take(&mut parcel.text);
        if let Err(failure) = leg.say(text) {
            return self.undelivered(parcel, &failure);
        }
        if let Some(start) = parcel.start {
            let news = self.starts.expect(parcel.id, number, self.sockets.gateway.reservation_life());
            self.sockets.tasks.spawn(start.follow(news));
        }
        Ok(())
    }

    /// What is passed on from now on takes another leg.
    fn retire_leg(&mut self) -> Turn {
        let starts = &self.starts;
        if self.legs.retire() > MOST_FORMER && self.legs.close_idle(|leg| starts.run_on(leg)) > MOST_FORMER {
            return Err(End::Close(close::CORE_MANAGER_RESTARTED, "too many changes; reconnect"));
        }
        Ok(())
    }

    fn undelivered(&mut self, parcel: Parcel, failure: &Failure) -> Turn {
        tracing::warn!(request_id = self.context.id(), cause = ?failure.cause(), "{failure}");
        if let Some(mut start) = parcel.start {
            self.sockets.tasks.spawn(async move { start.withdraw().await });
        }
        self.reply(envelope::error(Some(&parcel.id), failure))
    }

    fn on_upstream(&mut self, leg: Number, heard: Heard) -> Turn {
        let text = match heard {
            Heard::Sent => return Ok(()),
            Heard::Gone => {
                return self.lost(leg, close::CORE_MANAGER_RESTARTED, "core-manager closed the connection");
            }
            Heard::Unread => return self.lost(leg, close::TRY_LATER, "core-manager does not read"),
            Heard::Unfit(error) => {
                tracing::warn!(request_id = self.context.id(), %error, "core-manager sent what cannot be passed on");
                return self.lost(leg, close::INTERNAL, "core-manager sent what cannot be passed on");
            }
            Heard::Text(text) => text,
        };
        if !self.starts.hear(leg, &text) {
            tracing::warn!(request_id = self.context.id(), "core-manager sent what is no envelope; dropped");
            return Ok(());
        }
        self.reply(text)
    }

    /// The end of a former leg concerns what was started there alone.
    fn lost(&mut self, leg: Number, code: u16, reason: &'static str) -> Turn {
        if self.legs.is_current(leg) {
            return Err(End::Close(code, reason));
        }
        self.legs.close(leg);
        for id in self.starts.lose(leg) {
            let failure = upstream_away().saying("Nothing more can be heard of this workflow");
            self.reply(envelope::error(Some(&id), &failure))?;
        }
        Ok(())
    }

    fn reply(&mut self, text: String) -> Turn {
        self.say(Message::Text(text.into()))
    }

    fn say(&mut self, message: Message) -> Turn {
        self.client.say(message).map_err(|error| match error {
            Error::WriteBufferFull(_) => End::Close(close::POLICY, "does not read"),
            _ => End::Gone,
        })
    }
}

async fn step(passage: &mut Option<Passage>) -> Step {
    match passage {
        Some(passage) => passage.step().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Hears whether what was just started runs, so that it counts although the client has gone.
async fn last_answers(mut legs: Legs, mut starts: Starts) {
    let answers = async {
        while starts.are_awaited() {
            match legs.next(true).await {
                (leg, Heard::Text(text)) => drop(starts.hear(leg, &text)),
                (_, Heard::Sent) => {}
                (leg, Heard::Gone | Heard::Unread | Heard::Unfit(_)) => {
                    legs.close(leg);
                    starts.lose(leg);
                }
            }
        }
    };
    // Without an answer what was taken for them expires.
    let _ = timeout(ANSWER_TIMEOUT, answers).await;
}
