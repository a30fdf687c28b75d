//! `usage_counters` and `reservations` of one resource that counts for life, as subscription-svc keeps them.

use std::collections::BTreeMap;

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Reserved,
    Committed,
    Released,
}

impl State {
    /// As the column has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Reserved => "reserved",
            State::Committed => "committed",
            State::Released => "released",
        }
    }
}

/// What came of reserving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    New,
    /// The key was used before and stands there.
    Known(State),
    /// Nothing is left.
    Refused,
}

/// A key that was never reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

#[derive(Clone, Copy, Debug)]
struct Reservation {
    state: State,
    expires_at: i64,
}

/// The counter of a user and the reservations behind it. Each call is a transaction. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Quota {
    pub limit: i64,
    pub used: i64,
    pub reserved: i64,
    reservations: BTreeMap<String, Reservation>,
}

impl Quota {
    /// Nothing counted.
    pub fn new(limit: i64) -> Self {
        Quota { limit, used: 0, reserved: 0, reservations: BTreeMap::new() }
    }

    /// The INSERT of the key, or the UPDATE of what was released, and the conditional UPDATE of the counter.
    pub fn reserve(&mut self, key: &str, expires_at: i64) -> Reserved {
        let known = self.reservations.get(key).map(|reservation| reservation.state);
        if let Some(state @ (State::Reserved | State::Committed)) = known {
            return Reserved::Known(state);
        }
        if self.used + self.reserved >= self.limit {
            return Reserved::Refused;
        }
        self.reservations.insert(key.to_owned(), Reservation { state: State::Reserved, expires_at });
        self.reserved += 1;
        Reserved::New
    }

    /// Keeps what is reserved for longer. Gives whether it is.
    pub fn renew(&mut self, key: &str, expires_at: i64) -> bool {
        match self.reservations.get_mut(key) {
            Some(reservation) if reservation.state == State::Reserved => {
                reservation.expires_at = reservation.expires_at.max(expires_at);
                true
            }
            _ => false,
        }
    }

    /// Also of what was released before; twice counts once.
    ///
    /// # Errors
    /// When the key was never reserved.
    pub fn commit(&mut self, key: &str) -> Result<(), Unknown> {
        let reservation = self.reservations.get_mut(key).ok_or(Unknown)?;
        match reservation.state {
            State::Reserved => self.reserved -= 1,
            State::Released => {}
            State::Committed => return Ok(()),
        }
        reservation.state = State::Committed;
        self.used += 1;
        Ok(())
    }

    /// What was committed stays so.
    ///
    /// # Errors
    /// When the key was never reserved.
    pub fn release(&mut self, key: &str) -> Result<(), Unknown> {
        let reservation = self.reservations.get_mut(key).ok_or(Unknown)?;
        if reservation.state == State::Reserved {
            reservation.state = State::Released;
            self.reserved -= 1;
        }
        Ok(())
    }

    /// Releases what has expired.
    pub fn expire(&mut self, now: i64) {
        for reservation in self.reservations.values_mut() {
            if reservation.state == State::Reserved && reservation.expires_at < now {
                reservation.state = State::Released;
                self.reserved -= 1;
            }
        }
    }

    /// The keys that count.
    pub fn committed(&self) -> impl Iterator<Item = &str> {
        let committed =
            self.reservations.iter().filter(|(_, reservation)| reservation.state == State::Committed);
        committed.map(|(key, _)| key.as_str())
    }

    /// Where a key stands.
    pub fn state(&self, key: &str) -> Option<State> {
        self.reservations.get(key).map(|reservation| reservation.state)
    }
}
