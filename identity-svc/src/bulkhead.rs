//! What anybody can ask for without having signed in stands here before it may wait for a connection to the database: a
//! flood of it is refused at once, and a herd leaves connections to those who have something to read, to end or to change.
//! Where a password is hashed, the [places](crate::hasher) for that are as many as may come in.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use contract::identity::Device;
use contract::{ErrorCode, Failure, Outcome};
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shares::{Share, Shares};
use crate::throttle::network;

/// Most calls at once. A connection serves one in a few milliseconds.
const PLACES: usize = 512;
/// Most of them from one address.
const PER_ADDRESS: usize = PLACES / 2;

/// Cheap to clone.
#[derive(Clone)]
pub struct Bulkhead {
    places: Arc<Semaphore>,
    shares: Shares,
    /// As many as may use the database at once.
    turns: Arc<Semaphore>,
}

/// A place and a turn, until it is dropped.
pub struct Place {
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
    _turn: OwnedSemaphorePermit,
}

impl Bulkhead {
    /// Before so many connections, of which a quarter is left to others.
    pub fn new(connections: u32) -> Self {
        let turns = (connections as usize * 3 / 4).max(1);
        Bulkhead {
            places: Arc::new(Semaphore::new(PLACES)),
            shares: Shares::default(),
            turns: Arc::new(Semaphore::new(turns)),
        }
    }

    /// A place for a call of somebody at a device, when its turn has come.
    ///
    /// # Errors
    /// GW003 when there is none.
    pub async fn enter(&self, device: Option<&Device>) -> Outcome<Place> {
        let network = device.and_then(|device| network(&device.ip_address));
        let share = match network {
            Some(network) => Some(self.shares.take(network, PER_ADDRESS).ok_or_else(refused)?),
            None => None,
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| refused())?;
        let turn = self.turns.clone().acquire_owned().await.map_err(Failure::internal)?;
        Ok(Place { _place: place, _share: share, _turn: turn })
    }
}

fn refused() -> Failure {
    REFUSED.inc();
    Failure::new(ErrorCode::Overloaded).retry_after(Duration::from_secs(1))
}

static REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "identity_calls_refused_total",
        "Calls of nobody in particular that were refused because too many ran or waited"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// At once.
    fn enter(bulkhead: &Bulkhead, address: &str) -> Option<Outcome<Place>> {
        let device = Device { ip_address: address.to_owned(), ..Device::default() };
        bulkhead.enter(Some(&device)).now_or_never()
    }

    #[test]
    fn one_address_leaves_places_for_others_and_all_together_have_so_many() {
        let bulkhead = Bulkhead::new(u32::MAX);
        let enter = |address: &str| enter(&bulkhead, address).expect("nobody waits");
        let one: Vec<_> = (0..PER_ADDRESS).map(|_| enter("192.0.2.1").expect("a place")).collect();
        let refused = enter("192.0.2.1").err().expect("refused");
        assert_eq!((refused.code(), refused.wait()), (ErrorCode::Overloaded, Some(Duration::from_secs(1))));
        let two: Vec<_> = (0..PLACES - PER_ADDRESS).map(|_| enter("192.0.2.2").expect("a place")).collect();
        assert!(enter("192.0.2.3").is_err());
        drop((one, two));
        enter("192.0.2.1").expect("a place again");
    }

    #[test]
    fn a_herd_leaves_connections_to_others() {
        let bulkhead = Bulkhead::new(4);
        let mut running: Vec<_> = (0..3).map_while(|_| enter(&bulkhead, "192.0.2.1")).collect();
        assert_eq!(running.len(), 3);
        assert!(enter(&bulkhead, "192.0.2.2").is_none(), "it waits");
        running.pop();
        enter(&bulkhead, "192.0.2.2").expect("its turn").expect("a place");
    }
}
