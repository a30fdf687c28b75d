//! `subscriptions` and `tier_outbox`, as subscription-svc keeps them.

use std::collections::BTreeMap;

/// A row of `tier_outbox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub user: String,
    pub tier: String,
}

/// A change between its INSERT and its commit. Its user's subscription is locked.
#[derive(Debug)]
pub struct Open(Row);

/// The two tables. Ids are given at the INSERT and rows seen after the commit, so that of two users the higher id may
/// be seen first; of one user it may not, as the lock of the subscription is held from before the INSERT to the commit.
#[derive(Debug, Default)]
pub struct Subscriptions {
    last_id: i64,
    locked: BTreeMap<String, i64>,
    /// The tier of each user's subscription, and the id of the row that told of it.
    pub tiers: BTreeMap<String, (String, i64)>,
    /// What has committed.
    pub rows: BTreeMap<i64, Row>,
}

impl Subscriptions {
    /// Takes the lock and an id, unless another change of this user has the lock.
    pub fn begin(&mut self, user: &str, tier: &str) -> Option<Open> {
        if self.locked.contains_key(user) {
            return None;
        }
        self.last_id += 1;
        self.locked.insert(user.to_owned(), self.last_id);
        Some(Open(Row { id: self.last_id, user: user.to_owned(), tier: tier.to_owned() }))
    }

    /// Commits; gives the id.
    pub fn commit(&mut self, Open(row): Open) -> i64 {
        self.locked.remove(&row.user);
        let id = row.id;
        self.tiers.insert(row.user.clone(), (row.tier.clone(), id));
        self.rows.insert(id, row);
        id
    }

    /// Rolls back, as when the connection broke. The id is not given again.
    pub fn roll_back(&mut self, Open(row): Open) {
        self.locked.remove(&row.user);
    }

    /// Rows that have committed, after an id, at most so many.
    pub fn after(&self, id: i64, most: usize) -> Vec<Row> {
        self.rows.range(id + 1..).take(most).map(|(_, row)| row.clone()).collect()
    }
}
