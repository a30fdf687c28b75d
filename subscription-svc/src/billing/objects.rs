//! What is read of Stripe's objects, in the version of its API that is asked for. Times are seconds since 1970.

use std::fmt;
use std::str::FromStr;

use contract::Tier;
use serde::Deserialize;
use serde_json::Value;

/// How often a subscription is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    Month,
    Year,
}

/// A text that is no interval.
#[derive(Debug, thiserror::Error)]
#[error("must be one of month, year")]
pub struct NotAnInterval;

impl FromStr for Interval {
    type Err = NotAnInterval;

    fn from_str(name: &str) -> Result<Self, NotAnInterval> {
        match name {
            "month" => Ok(Interval::Month),
            "year" => Ok(Interval::Year),
            _ => Err(NotAnInterval),
        }
    }
}

/// What can be bought. Its text is the lookup key of a price at Stripe, such as `basic_month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub tier: Tier,
    pub interval: Interval,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = match self.interval {
            Interval::Month => "month",
            Interval::Year => "year",
        };
        write!(f, "{}_{interval}", self.tier)
    }
}

impl FromStr for Plan {
    type Err = ();

    fn from_str(lookup_key: &str) -> Result<Self, ()> {
        let (tier, interval) = lookup_key.split_once('_').ok_or(())?;
        let plan = Plan { tier: tier.parse().map_err(|_| ())?, interval: interval.parse().map_err(|_| ())? };
        if plan.tier == Tier::Free { Err(()) } else { Ok(plan) }
    }
}

#[derive(Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
}

/// An object of which only the id is of interest.
#[derive(Deserialize)]
pub struct Named {
    pub id: String,
}

/// What is left of a customer says that it was deleted.
#[derive(Deserialize)]
pub struct Remains {
    #[serde(default)]
    pub deleted: bool,
}

/// A page of Stripe's; only those of Checkout say when they expire.
#[derive(Deserialize)]
pub struct Page {
    pub id: String,
    pub url: String,
    pub created: Option<i64>,
    pub expires_at: Option<i64>,
}

/// A page of Checkout, as it stands.
#[derive(Deserialize)]
pub struct Checkout {
    status: String,
}

impl Checkout {
    pub fn is_closed(&self) -> bool {
        matches!(self.status.as_str(), "complete" | "expired")
    }
}

#[derive(Clone, Deserialize)]
pub struct Price {
    pub id: String,
    pub lookup_key: Option<String>,
}

#[derive(Clone, Deserialize)]
pub struct Item {
    pub id: String,
    pub price: Price,
    pub current_period_end: Option<i64>,
}

#[derive(Deserialize)]
pub struct Subscription {
    pub id: String,
    pub status: String,
    pub created: i64,
    pub start_date: i64,
    pub cancel_at: Option<i64>,
    #[serde(default)]
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<i64>,
    pub trial_end: Option<i64>,
    pub default_payment_method: Option<Value>,
    pub items: List<Item>,
}

/// The event whose object is the customer itself.
pub const CUSTOMER_DELETED: &str = "customer.deleted";

/// What a webhook tells. Of the object nothing is believed but whom it concerns.
#[derive(Deserialize)]
pub struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    id: Option<Value>,
    customer: Option<Value>,
}

impl Event {
    /// The customer that the event concerns.
    pub fn customer(&self) -> Option<&str> {
        let object = &self.data.object;
        let customer = if self.kind == CUSTOMER_DELETED { &object.id } else { &object.customer };
        customer.as_ref()?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_key_names_a_plan() {
        for key in ["basic_month", "premium_year", "enterprise_month"] {
            assert_eq!(key.parse::<Plan>().map(|plan| plan.to_string()), Ok(key.to_owned()));
        }
        for other in ["", "free_month", "basic", "basic_week", "Basic_month", "basic_month_2"] {
            assert_eq!(other.parse::<Plan>(), Err(()), "{other}");
        }
    }
}
