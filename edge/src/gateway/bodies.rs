//! The body of a request on its way: it is broken off when the caller may no longer send it, or is slow where others wait.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::{Failure, Outcome};
use http_body::{Frame, SizeHint};

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
}

impl Uploading {
    pub fn new(body: Body, upload: Upload, rights: Rights, stragglers: Stragglers) -> Self {
        Uploading { body, upload, rights, stragglers, place: None, pace: Pace::default() }
    }

    fn wait(&mut self, waker: &Waker) -> Outcome<()> {
        let now = millis();
        self.upload.0.awaits_client.store(true, Ordering::Relaxed);
        self.pace.waits(now);
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(self.stragglers.admit(self.rights.caller().user_id())?),
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
        let frame = Pin::new(&mut self.body).poll_frame(context).map_err(Into::into);
        // Also at its end, which core-manager must not hear of either.
        let goes_on = match &frame {
            Poll::Pending => self.wait(context.waker()),
            Poll::Ready(Some(Ok(part))) => self.go_on(part.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(None) => self.go_on(0),
            Poll::Ready(Some(Err(_))) => Ok(()),
        };
        match goes_on {
            Ok(()) => frame,
            Err(failure) => Poll::Ready(Some(Err(self.upload.break_off(failure).into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
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
