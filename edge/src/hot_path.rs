//! The parts of the hot path that `cargo bench -p edge` measures one by one. Nothing else may use them from outside.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::sync::oneshot;

use crate::front::{Client, Front, Origins, pass};
use crate::rate::{Limits, RateLimiter};

pub use crate::claims::Caller;
pub use crate::front::{RequestContext, check_path};
pub use crate::gateway::{Match, RouteTable, from_upstream, to_upstream};
pub use crate::ws::Envelope;

/// The context that the front gives to a request.
///
/// # Errors
/// When it refuses the request.
pub async fn context(request: Request) -> Result<RequestContext, oneshot::error::RecvError> {
    let rate = RateLimiter::new(Limits::off(), None);
    let front = Front { origins: Origins::new(Vec::new()), trusted_hops: 0, header_limit: 32 * 1024, rate };
    let client = Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (tell, told) = oneshot::channel();
    let serve = |_: Request, context: RequestContext| {
        // Only a measurement that has broken off listens no longer.
        let _ = tell.send(context);
        std::future::ready(Response::new(Body::empty()))
    };
    pass(&front, &client, request, serve).await;
    told.await
}
