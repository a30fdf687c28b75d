//! The bodies of answers on their way. One that is not there whole with its head holds a connection to core-manager for as
//! long as it takes, and what was read of it in advance; a large one that is there whole holds as much. Of these there are so
//! many. When all places are taken, whoever has a share of them gets no other, and of the user who holds the most the answer
//! that has not moved for the longest gives way, whether it is its client that does not read or core-manager that has
//! nothing to say.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::pool::Answer;
use super::turns::{Turn, Turns};
use super::upstream::millis;
use crate::claims::Rights;
use crate::front::Limit;
use crate::places::{Share, Shares, Slot};

/// An answer that takes no longer was given while the session went on, and arrives whole.
const SHORT: Duration = Duration::from_secs(1);

type Fault = Box<dyn Error + Send + Sync>;

/// The answers that hold a connection. Cheap to clone.
#[derive(Clone)]
pub struct OpenAnswers {
    shares: Shares,
    turns: Turns<Held>,
}

/// An answer that can be taken from whoever passes it on: a client that lets nothing be sent does not ask for more of
/// it, and so would never learn that it has lost it.
#[derive(Clone)]
struct Held {
    answer: Arc<Mutex<Option<Answer>>>,
    /// Equal for all of one user.
    of_user: Slot,
}

/// Said to the connection of the client, which then ends.
#[derive(Debug, thiserror::Error)]
#[error("gave way to the answers of others")]
struct GaveWay;

impl OpenAnswers {
    /// Of so many.
    pub fn new(most: usize) -> Self {
        OpenAnswers { shares: Shares::new(most), turns: Turns::new(most) }
    }

    /// Whether there may be another one for the user. Those of others would give way.
    pub fn has_room(&self, user: Slot) -> bool {
        !self.turns.are_all_taken() || self.shares.has_room(user)
    }

    fn hold(&self, answer: Answer, user: Slot) -> Open {
        let share = self.shares.take(user);
        let held = Held { answer: Arc::new(Mutex::new(Some(answer))), of_user: share.slot() };
        let weight = |held: &Held| self.shares.of(held.of_user);
        let (turn, displaced) = self.turns.enter(held.clone(), None, millis(), weight);
        give_way(displaced);
        Open { held, turn, turns: self.turns.clone(), since: Instant::now(), is_over: false, _share: share }
    }
}

/// Its connection closes, and what was read of it is forgotten.
fn give_way(displaced: Option<Held>) {
    if let Some(held) = displaced {
        Limit::Answers.bites();
        let answer = held.answer().take();
        drop(answer);
    }
}

impl Held {
    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that holds a connection.
struct Open {
    held: Held,
    turn: Turn,
    turns: Turns<Held>,
    since: Instant,
    /// Its last part was handed on.
    is_over: bool,
    _share: Share,
}

impl Open {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut held = self.held.answer();
        let Some(answer) = &mut *held else {
            return Poll::Ready(Some(Err(GaveWay.into())));
        };
        let frame = ready!(answer.poll_piece(context)?);
        self.is_over = answer.is_end_stream();
        drop(held);
        self.turn = self.turns.renew(self.turn, millis());
        Poll::Ready(frame.map(Ok))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.turns.leave(self.turn);
    }
}

/// The body of an answer. One that streams ends with the session.
pub struct Answering {
    rest: Rest,
    rights: Rights,
}

enum Rest {
    Whole(Answer),
    Open(Open),
    Over,
}

impl Answering {
    pub fn new(mut answer: Answer, rights: Rights, open: &OpenAnswers) -> Self {
        let rest = if answer.holds_little() {
            Rest::Whole(answer)
        } else {
            Rest::Open(open.hold(answer, rights.caller().slot()))
        };
        Answering { rest, rights }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Answering { rest, rights } = &mut *self;
        let open = match rest {
            Rest::Whole(answer) => return Pin::new(answer).poll_frame(context).map_err(Into::into),
            Rest::Open(open) => open,
            Rest::Over => return Poll::Ready(None),
        };
        let frame = ready!(open.poll(context));
        let frame = match rights.session_must_go_on() {
            Err(failure) if open.since.elapsed() > SHORT => Some(Err(failure.into())),
            _ => frame,
        };
        if let Some(Err(fault)) = &frame {
            // Its head has gone out, so that neither its status nor its access line can tell.
            tracing::info!(error = %fault, user_id = rights.caller().user_id(), "an answer was broken off");
        }
        if open.is_over {
            *rest = Rest::Over;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.rest {
            Rest::Whole(answer) => answer.is_end_stream(),
            Rest::Open(_) => false,
            Rest::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Rest::Whole(answer) => answer.size_hint(),
            Rest::Open(open) => open.held.answer().as_ref().map_or_else(SizeHint::default, Answer::size_hint),
            Rest::Over => SizeHint::with_exact(0),
        }
    }
}
