//! How much one address holds at once. Where clients connect by themselves their connections are counted; behind
//! proxies, whose connections carry everybody, the requests and sockets of each address that the proxies name.

use std::net::IpAddr;
use std::sync::Arc;

use papaya::{Compute, Operation};

/// Who is counted together: an address of IPv4, or the 64 bits of IPv6 of which one customer has all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Household {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Household {
    fn from(address: IpAddr) -> Self {
        // A listener for both kinds shows those of IPv4 within IPv6.
        match address.to_canonical() {
            IpAddr::V4(address) => Household::V4(address.to_bits()),
            IpAddr::V6(address) => Household::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// What each address holds. Cheap to clone.
#[derive(Clone)]
pub struct Crowd(Arc<Counts>);

struct Counts {
    /// Nought is any number.
    most: usize,
    /// Hashed with a secret, as strangers choose the addresses.
    held: papaya::HashMap<Household, usize>,
}

impl Crowd {
    /// At most `most` for each address; nought is any number.
    pub fn new(most: usize) -> Self {
        Crowd(Arc::new(Counts { most, held: papaya::HashMap::new() }))
    }

    /// A seat for one more of an address; `None` when it has as many as it may.
    pub fn seat(&self, address: IpAddr) -> Option<Seat> {
        if self.0.most == 0 {
            return Some(Seat(None));
        }
        let household = Household::from(address);
        let held = self.0.held.pin();
        let taken = held.compute(household, |held| match held {
            Some((_, held)) if *held >= self.0.most => Operation::Abort(()),
            Some((_, held)) => Operation::Insert(held + 1),
            None => Operation::Insert(1),
        });
        match taken {
            Compute::Aborted(()) => None,
            _ => Some(Seat(Some((self.0.clone(), household)))),
        }
    }
}

/// A counted place; dropping it gives it back.
pub struct Seat(Option<(Arc<Counts>, Household)>);

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((counts, household)) = &self.0 else { return };
        counts.held.pin().compute(*household, |held| match held {
            Some((_, held)) if *held > 1 => Operation::Insert(held - 1),
            Some(_) => Operation::Remove,
            None => Operation::Abort(()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_as_many_seats_as_it_may_and_gets_back_what_it_leaves() {
        let crowd = Crowd::new(2);
        let one = address("192.0.2.1");
        let (first, _second) = (crowd.seat(one).expect("a seat"), crowd.seat(one).expect("a seat"));
        assert!(crowd.seat(one).is_none() && crowd.seat(address("::ffff:192.0.2.1")).is_none());
        assert!(crowd.seat(address("192.0.2.2")).is_some());
        drop(first);
        assert!(crowd.seat(one).is_some());
    }

    #[test]
    fn all_addresses_of_one_customer_of_ipv6_are_one() {
        let crowd = Crowd::new(1);
        let _seat = crowd.seat(address("2001:db8:0:1::1")).expect("a seat");
        assert!(crowd.seat(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(crowd.seat(address("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn what_nobody_holds_takes_no_memory() {
        let crowd = Crowd::new(3);
        let all: Vec<_> = (0..3).map(|_| crowd.seat(address("192.0.2.1"))).collect();
        assert_eq!(crowd.0.held.len(), 1);
        drop(all);
        assert_eq!(crowd.0.held.len(), 0);
    }

    #[test]
    fn seats_are_counted_right_when_many_take_and_leave_them_at_once() {
        let crowd = Crowd::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|_| drop(crowd.seat(address("192.0.2.1")))));
            }
        });
        assert_eq!(crowd.0.held.len(), 0);
        assert!(Crowd::new(0).seat(address("192.0.2.1")).is_some());
    }
}
