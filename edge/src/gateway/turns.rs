//! Whose turn it is to give way, where places are few and those who hold them may be slow: of whoever holds the most of them
//! the one that has not moved for the longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A turn is renewed no more often, in milliseconds: whoever moves all the time takes the lock once a second.
const RENEWED: u64 = 1000;

/// Those who hold a place, the one that is to give way first at the front. Cheap to clone. The lock is held for as long
/// as it takes to put one in or take one out.
pub struct Turns<T> {
    order: Arc<Mutex<Order<T>>>,
    /// How many hold a place, to be looked at without the lock.
    held: Arc<AtomicUsize>,
    most: usize,
}

struct Order<T> {
    holders: BTreeMap<u64, T>,
    next: u64,
}

/// Where a holder stands among the others.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    number: u64,
    /// In milliseconds.
    since: u64,
}

impl<T> Clone for Turns<T> {
    fn clone(&self) -> Self {
        Turns { order: self.order.clone(), held: self.held.clone(), most: self.most }
    }
}

impl<T> Turns<T> {
    /// Of so many places.
    pub fn new(most: usize) -> Self {
        let order = Order { holders: BTreeMap::new(), next: 0 };
        Turns { order: Arc::new(Mutex::new(order)), held: Arc::default(), most: most.max(1) }
    }

    /// Whether all places are taken at the moment.
    pub fn are_all_taken(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.most
    }

    /// Takes a place at the millisecond `now`, with the turn that the holder had `before` when that is not old. Also gives
    /// who has lost theirs by that, if all were taken: the first of those with the greatest weight. Only then does it take as
    /// long as there are others.
    pub fn enter(
        &self,
        holder: T,
        before: Option<Turn>,
        now: u64,
        weight: impl Fn(&T) -> u32,
    ) -> (Turn, Option<T>) {
        let mut order = self.order();
        let turn = before.filter(|turn| turn.is_fresh(now)).unwrap_or_else(|| order.last(now));
        let displaced = if order.holders.len() < self.most { None } else { order.take_heaviest(weight) };
        order.holders.insert(turn.number, holder);
        self.held.store(order.holders.len(), Ordering::Relaxed);
        (turn, displaced)
    }

    /// Gives the place back; `None` when it was lost.
    pub fn leave(&self, turn: Turn) -> Option<T> {
        let mut order = self.order();
        let holder = order.holders.remove(&turn.number);
        self.held.store(order.holders.len(), Ordering::Relaxed);
        holder
    }

    /// The turn of a holder that has moved at the millisecond `now`.
    pub fn renew(&self, turn: Turn, now: u64) -> Turn {
        if turn.is_fresh(now) {
            return turn;
        }
        let mut order = self.order();
        let Some(holder) = order.holders.remove(&turn.number) else {
            return turn;
        };
        let turn = order.last(now);
        order.holders.insert(turn.number, holder);
        turn
    }

    fn order(&self) -> MutexGuard<'_, Order<T>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Order<T> {
    fn take_heaviest(&mut self, weight: impl Fn(&T) -> u32) -> Option<T> {
        let weights = self.holders.iter().map(|(&number, holder)| (number, weight(holder)));
        let heaviest = weights.reduce(|first, next| if next.1 > first.1 { next } else { first });
        self.holders.remove(&heaviest?.0)
    }

    fn last(&mut self, now: u64) -> Turn {
        self.next += 1;
        Turn { number: self.next, since: now }
    }
}

impl Turn {
    fn is_fresh(self, now: u64) -> bool {
        now.saturating_sub(self.since) < RENEWED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With equal weights.
    fn enter(
        turns: &Turns<&'static str>,
        holder: &'static str,
        before: Option<Turn>,
        now: u64,
    ) -> (Turn, Option<&'static str>) {
        turns.enter(holder, before, now, |_| 1)
    }

    #[test]
    fn who_has_not_moved_for_the_longest_gives_way() {
        let turns = Turns::new(3);
        let (slow, _) = enter(&turns, "slow", None, 0);
        let (quick, _) = enter(&turns, "quick", None, 0);
        assert_eq!(enter(&turns, "third", None, 0).1, None);
        let quick = turns.renew(quick, RENEWED);
        assert_eq!(enter(&turns, "fourth", None, RENEWED).1, Some("slow"));
        assert_eq!(enter(&turns, "fifth", None, RENEWED).1, Some("third"));
        assert_eq!((turns.leave(slow), turns.leave(quick)), (None, Some("quick")));
    }

    #[test]
    fn a_turn_is_renewed_once_a_second_however_often_its_holder_moves() {
        let turns = Turns::new(2);
        let (first, _) = enter(&turns, "first", None, 0);
        enter(&turns, "second", None, 0);
        turns.renew(first, RENEWED - 1);
        // Nor by leaving and coming back.
        turns.leave(first);
        enter(&turns, "first", Some(first), RENEWED - 1);
        assert_eq!(enter(&turns, "third", None, RENEWED - 1).1, Some("first"));

        let turns = Turns::new(2);
        let (first, _) = enter(&turns, "first", None, 0);
        turns.leave(first);
        enter(&turns, "second", None, 0);
        enter(&turns, "first", Some(first), RENEWED);
        assert_eq!(enter(&turns, "third", None, RENEWED).1, Some("second"));
    }

    #[test]
    fn who_lost_a_place_gives_none_back_and_renews_none() {
        let turns = Turns::new(1);
        let (lost, _) = enter(&turns, "lost", None, 0);
        assert_eq!(enter(&turns, "held", None, 0).1, Some("lost"));
        let renewed = turns.renew(lost, 5000);
        assert_eq!(turns.leave(renewed), None);
        assert_eq!(enter(&turns, "next", None, 0).1, Some("held"));
    }

    #[test]
    fn of_whoever_holds_the_most_the_first_gives_way() {
        let turns = Turns::new(4);
        let weight = |holder: &&str| if holder.starts_with('b') { 2 } else { 1 };
        for holder in ["a1", "b1", "c1"] {
            assert_eq!(turns.enter(holder, None, 0, weight).1, None);
        }
        assert!(!turns.are_all_taken());
        assert_eq!(turns.enter("b2", None, 0, weight).1, None);
        assert!(turns.are_all_taken());
        assert_eq!(turns.enter("d1", None, 0, weight).1, Some("b1"));
        assert_eq!(turns.enter("e1", None, 0, weight).1, Some("b2"));
        assert_eq!(turns.enter("f1", None, 0, weight).1, Some("a1"));
    }
}
