//! How many places of those that all share somebody has at once, so that one account or one address cannot have them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has how many places. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<HashMap<String, usize>>>);

/// A place of somebody, until it is dropped.
pub struct Share {
    all: Shares,
    whose: String,
}

impl Shares {
    /// A place for somebody who has fewer than `most`.
    pub fn take(&self, whose: String, most: usize) -> Option<Share> {
        let mut all = self.all();
        let taken = all.entry(whose.clone()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Share { all: self.clone(), whose })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.all.all();
        if let Some(taken) = all.get_mut(&self.whose) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_share_and_who_is_gone_is_forgotten() {
        let shares = Shares::default();
        let take = |whose: &str| shares.take(whose.to_owned(), 2);
        let (one, two) = (take("a"), take("a"));
        assert!(one.is_some() && two.is_some());
        assert!(take("a").is_none() && take("b").is_some());
        drop(one);
        let again = take("a");
        assert!(again.is_some() && take("a").is_none());
        drop((two, again));
        assert!(shares.all().is_empty());
    }
}
