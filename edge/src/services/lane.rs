//! A channel on which so many calls are on their way at most. Those of people and those of strangers have places of their
//! own: what anybody may ask for (to sign in, the tiers, the events of Stripe) takes none from who has signed in, and no more of it
//! than that is on the connection, and before the service, at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chassis::grpc::InternalChannel;
use contract::Failure;
use http::{Request, Response};
use tonic::body::Body;
use tower::{BoxError, Service};

use crate::front::Limit;
use crate::places::{Places, Slot};

/// Most calls at once, of people and of strangers each: together somewhat fewer than one connection carries.
const PLACES: usize = 500;

/// Whose call it is; in the extensions of the request. One without is not counted: it ends what was admitted before.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// Somebody has signed in.
    Person(Slot),
    /// Counted by the address.
    Stranger(Slot),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Lane(Arc<Known>);

struct Known {
    channel: InternalChannel,
    people: Places,
    strangers: Places,
}

impl Lane {
    pub fn over(channel: InternalChannel) -> Self {
        let (people, strangers) = (Places::new(PLACES), Places::new(PLACES));
        Lane(Arc::new(Known { channel, people, strangers }))
    }

    /// The channel itself, for what no request asks for.
    pub fn channel(&self) -> InternalChannel {
        self.0.channel.clone()
    }
}

impl Service<Request<Body>> for Lane {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let place = match request.extensions().get::<Whose>() {
            None => None,
            Some(Whose::Person(slot)) => Some(self.0.people.take(*slot)),
            Some(Whose::Stranger(slot)) => Some(self.0.strangers.take(*slot)),
        };
        let place = match place.transpose() {
            Ok(place) => place,
            Err(short) => {
                Limit::Calls.bites();
                return Box::pin(std::future::ready(Err(Failure::from(short).to_status().into())));
            }
        };
        let call = self.channel().call(request);
        Box::pin(async move {
            let answer = call.await;
            drop(place);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contract::ErrorCode;
    use futures_util::FutureExt;
    use tonic::Status;

    use super::*;
    use crate::services::tests::nowhere;

    #[tokio::test]
    async fn strangers_take_no_place_of_people_and_what_was_admitted_is_told_to_its_end() {
        let lane = Lane::over(nowhere());
        let call = |whose: Option<Whose>| {
            let mut request = Request::new(Body::empty());
            whose.map(|whose| request.extensions_mut().insert(whose));
            lane.clone().call(request)
        };
        let refused = |call: <Lane as Service<Request<Body>>>::Future| {
            let error = call.now_or_never().expect("at once").expect_err("refused");
            let status = error.downcast_ref::<Status>().expect("a status");
            let failure = Failure::from_status(status.clone(), "a service");
            assert_eq!(
                (failure.code(), failure.wait()),
                (ErrorCode::Overloaded, Some(Duration::from_secs(1)))
            );
        };
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| Whose::Stranger(Slot::of(address)));
        // Until they are polled they have not begun, and have their places.
        let half: Vec<_> = (0..PLACES / 2).map(|_| call(Some(one))).collect();
        refused(call(Some(one)));
        // Of as many other addresses, some may be counted with the first.
        let others = (0..).map(|number| Slot::of(&number)).filter(|slot| *slot != Slot::of("192.0.2.1"));
        let rest: Vec<_> = others.take(PLACES / 2).map(|slot| call(Some(Whose::Stranger(slot)))).collect();
        refused(call(Some(other)));
        let of_people = call(Some(Whose::Person(Slot::of("a user"))));
        let last = call(None);
        assert!(lane.0.people.take(Slot::of("another")).is_ok());
        drop((half, rest, of_people, last));
        assert!(lane.0.strangers.take(Slot::of("192.0.2.1")).is_ok());
    }
}
