//! What anybody can ask for without having signed in stands here before it may wait for a connection to the database: a
//! flood of it is refused at once, and a herd leaves connections to those who have something to read, to end or to change.
//! Where a password is hashed, the [places](crate::hasher) for that are as many as may come in.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use contract::identity::Device;
use contract::{ErrorCode, Failure, Outcome};
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

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

/// A place, until it is dropped.
pub struct Place {
    turns: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
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

    /// A place for a call of somebody at a device.
    ///
    /// # Errors
    /// GW003 when there is none.
    pub fn enter(&self, device: Option<&Device>) -> Outcome<Place> {
        let network = device.and_then(|device| network(&device.ip_address));
        let share = match network {
            Some(network) => Some(self.shares.take(network, PER_ADDRESS).ok_or_else(refused)?),
            None => None,
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| refused())?;
        Ok(Place { turns: self.turns.clone(), _place: place, _share: share })
    }
}

impl Place {
    /// A turn to use the database, until it is dropped, when it has come. Whoever waits for something else gives it back
    /// first.
    ///
    /// # Errors
    /// ERR000, never: the turns are not closed.
    pub async fn turn(&self) -> Outcome<SemaphorePermit<'_>> {
        self.turns.acquire().await.map_err(Failure::internal)
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

    fn enter(bulkhead: &Bulkhead, address: &str) -> Outcome<Place> {
        bulkhead.enter(Some(&Device { ip_address: address.to_owned(), ..Device::default() }))
    }

    #[test]
    fn one_address_leaves_places_for_others_and_all_together_have_so_many() {
        let bulkhead = Bulkhead::new(1);
        let enter = |address: &str| enter(&bulkhead, address);
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
        let places: Vec<_> = (0..4).map(|_| enter(&bulkhead, "192.0.2.1").expect("a place")).collect();
        let mut running: Vec<_> = places.iter().map_while(|place| place.turn().now_or_never()).collect();
        assert_eq!(running.len(), 3, "the others wait");
        running.pop();
        assert!(places[3].turn().now_or_never().expect("its turn").is_ok());
    }
}
