//! The body of a request on its way: it is broken off when the caller may no longer send it, or is slow where others wait.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::{Failure, Outcome};
use http_body::{Body as _, Frame, SizeHint};

use super::stragglers::{Pace, Place, Stragglers};
use super::upstream::millis;
use crate::claims::Rights;

type Fault = Box<dyn Error + Send + Sync>;

/// How the body of a request comes along. Cheap to clone.
#[derive(Clone, Default)]
pub struct Upload(Arc<Progress>);

#[derive(Default)]
struct Progress {
    /// When something was last taken of it.
    moved: AtomicU64,
    /// It waits for the client and not for core-manager.
    awaits_client: AtomicBool,
    /// Why we broke it off; looked at only when it has failed.
    broken_off: Mutex<Option<Failure>>,
}

/// Said to the connection to core-manager, which then ends.
#[derive(Debug, thiserror::Error)]
#[error("broken off by the gateway")]
struct BrokenOff;

impl Upload {
    /// Why we broke it off, if we did.
    pub fn broken_off(&self) -> Option<Failure> {
        self.0.broken_off.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether its next part has not come.
    pub fn awaits_client(&self) -> bool {
        self.0.awaits_client.load(Ordering::Relaxed)
    }

    fn break_off(&self, failure: Failure) -> BrokenOff {
        *self.0.broken_off.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        BrokenOff
    }
}

/// The body of a request, whose progress is noted.
pub struct Uploading {
    body: Body,
    upload: Upload,
    rights: Rights,
    stragglers: Stragglers,
    /// Once it had to be waited for.
    place: Option<Place>,
    pace: Pace,
    /// Of one that was waited for the last part waits until identity-svc says that the rights stand, where this edge does
    /// not know.
    last: Option<Last>,
    must_confirm: bool,
}

struct Last {
    part: Option<Frame<Bytes>>,
    confirmed: Pin<Box<dyn Future<Output = Outcome<()>> + Send>>,
}

impl Uploading {
    pub fn new(body: Body, upload: Upload, rights: Rights, stragglers: Stragglers) -> Self {
        Uploading {
            body,
            upload,
            rights,
            stragglers,
            place: None,
            pace: Pace::default(),
            last: None,
            must_confirm: false,
        }
    }

    /// Whether nothing follows. With a known length nobody asks for the end.
    fn is_over(&self) -> bool {
        self.body.is_end_stream() || self.body.size_hint().exact() == Some(0)
    }

    fn is_in_doubt(&self) -> bool {
        self.must_confirm && !self.rights.are_known()
    }

    fn hold(
        mut self: Pin<&mut Self>,
        part: Option<Frame<Bytes>>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let confirmed = Box::pin(self.rights.clone().confirm());
        self.last = Some(Last { part, confirmed });
        self.poll_frame(context)
    }

    fn wait(&mut self, waker: &Waker) -> Outcome<()> {
        let now = millis();
        self.must_confirm = true;
        self.upload.0.awaits_client.store(true, Ordering::Relaxed);
        self.pace.waits(now);
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(self.stragglers.admit(self.rights.caller().slot())?),
        };
        place.waits(now, waker)
    }

    /// So many bytes have come, or the end of all.
    fn go_on(&mut self, bytes: usize) -> Outcome<()> {
        let now = millis();
        self.upload.0.awaits_client.store(false, Ordering::Relaxed);
        self.upload.0.moved.store(now, Ordering::Relaxed);
        if let Some(place) = &mut self.place {
            place.goes_on();
        }
        self.rights.must_stand()?;
        self.pace.comes(now, bytes)
    }
}

impl http_body::Body for Uploading {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(last) = &mut self.last {
            let confirmed = ready!(last.confirmed.as_mut().poll(context));
            let part = self.last.take().and_then(|last| last.part);
            self.must_confirm = false;
            return Poll::Ready(match confirmed {
                Ok(()) => part.map(Ok),
                Err(failure) => Some(Err(self.upload.break_off(failure).into())),
            });
        }
        let frame = Pin::new(&mut self.body).poll_frame(context).map_err(Into::into);
        // Also at its end, which core-manager must not hear of either.
        let goes_on = match &frame {
            Poll::Pending => self.wait(context.waker()),
            Poll::Ready(Some(Ok(part))) => self.go_on(part.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(None) => self.go_on(0),
            Poll::Ready(Some(Err(_))) => Ok(()),
        };
        if let Err(failure) = goes_on {
            return Poll::Ready(Some(Err(self.upload.break_off(failure).into())));
        }
        match frame {
            Poll::Ready(Some(Ok(part))) if self.is_over() && self.is_in_doubt() => {
                self.hold(Some(part), context)
            }
            Poll::Ready(None) if self.is_in_doubt() => self.hold(None, context),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Waits for an answer until nothing was taken of the request, or no answer came after all of it, for `limit`.
pub async fn within<T>(
    limit: Duration,
    upload: Option<&Upload>,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ()> {
    let Some(Upload(progress)) = upload else {
        return tokio::time::timeout(limit, answer).await.map_err(|_| ());
    };
    let moved = &progress.moved;
    moved.fetch_max(millis(), Ordering::Relaxed);
    loop {
        let seen = moved.load(Ordering::Relaxed);
        let left = limit.saturating_sub(Duration::from_millis(millis().saturating_sub(seen)));
        if let Ok(answer) = tokio::time::timeout(left, answer.as_mut()).await {
            return Ok(answer);
        }
        if moved.load(Ordering::Relaxed) == seen {
            return Err(());
        }
    }
}
