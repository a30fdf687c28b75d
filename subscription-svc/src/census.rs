//! How many subscriptions there are by tier and status, and what their users have used, for metrics. Counting everybody
//! at once would cost more with every user, so that each sweep looks at some, in the order of their ids, and the numbers
//! are told when all were seen. Each replica counts for itself.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chassis::clock::now;
use chassis::mysql::failed;
use contract::{Outcome, Resource};
use prometheus::{IntGauge, IntGaugeVec};
use sqlx::MySqlPool;

/// Subscriptions that one step looks at.
const STEP: i64 = 10_000;
/// How long is rested after all were seen.
const PAUSE: Duration = Duration::from_secs(30);

/// A count on its way.
#[derive(Default)]
pub struct Census {
    /// The last user that was seen.
    seen: String,
    tally: Tally,
    rests_until: Option<Instant>,
}

/// What was counted, by tier and status.
type Tally = BTreeMap<(String, String), Numbers>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub subscriptions: i64,
    pub personas: i64,
    pub content: i64,
}

impl Census {
    /// Looks at some more, and tells the numbers when those were the last.
    ///
    /// # Errors
    /// GW001 when the database is away; the count goes on from where it was.
    pub async fn go_on(&mut self, pool: &MySqlPool) -> Outcome<()> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        if let Some(tally) = self.step(pool, STEP).await? {
            tell(&tally);
            self.rests_until = Some(Instant::now() + PAUSE);
        }
        Ok(())
    }

    /// Looks at up to `most` more. Gives the numbers when those were the last, and begins anew after that.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn step(&mut self, pool: &MySqlPool, most: i64) -> Outcome<Option<Tally>> {
        let rows = sqlx::query!(
            r#"SELECT s.tier, s.status, COUNT(*) AS subscriptions, MAX(s.user_id) AS "last!",
                      CAST(COALESCE(SUM(p.used), 0) AS SIGNED) AS "personas!",
                      CAST(COALESCE(SUM(IF(c.by_month, c.month_used, c.used)), 0) AS SIGNED) AS "content!"
               FROM (SELECT user_id, tier, status FROM subscriptions WHERE user_id > ? ORDER BY user_id LIMIT ?) s
               LEFT JOIN usage_counters p ON p.user_id = s.user_id AND p.resource = 'personas'
               LEFT JOIN usage_counters c ON c.user_id = s.user_id AND c.resource = 'content'
               GROUP BY s.tier, s.status"#,
            self.seen,
            most
        )
        .fetch_all(pool)
        .await
        .map_err(failed)?;
        let mut looked_at = 0;
        for row in rows {
            looked_at += row.subscriptions;
            self.seen = row.last.max(std::mem::take(&mut self.seen));
            let numbers = self.tally.entry((row.tier, row.status)).or_default();
            numbers.subscriptions += row.subscriptions;
            numbers.personas += row.personas;
            numbers.content += row.content;
        }
        if looked_at == most {
            return Ok(None);
        }
        self.seen.clear();
        Ok(Some(std::mem::take(&mut self.tally)))
    }
}

fn tell(tally: &Tally) {
    // What there was and is no more must not be told for ever.
    SUBSCRIPTIONS.reset();
    USAGE.reset();
    for ((tier, status), numbers) in tally {
        SUBSCRIPTIONS.with_label_values(&[tier, status]).set(numbers.subscriptions);
        for (resource, used) in [(Resource::Personas, numbers.personas), (Resource::Content, numbers.content)]
        {
            USAGE.with_label_values(&[tier.as_str(), resource.name()]).add(used);
        }
    }
    FINISHED.set(now().timestamp());
}

static SUBSCRIPTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    prometheus::register_int_gauge_vec!(
        "subscription_subscriptions",
        "Subscriptions by tier and status, as of the last count",
        &["tier", "status"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static USAGE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    prometheus::register_int_gauge_vec!(
        "subscription_usage",
        "What the users of a tier have used together, as of the last count",
        &["tier", "resource"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static FINISHED: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!(
        "subscription_counted_timestamp_seconds",
        "When subscriptions were last counted, in seconds since 1970"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of each line of a metric, by its labels.
    fn told(metric: &str) -> BTreeMap<String, f64> {
        let families = prometheus::gather();
        let family = families.iter().find(|family| family.name() == metric).expect("the metric");
        let line = |one: &prometheus::proto::Metric| {
            let labels: Vec<_> = one.get_label().iter().map(|label| label.value().to_owned()).collect();
            (labels.join(" "), one.get_gauge().get_value())
        };
        family.get_metric().iter().map(line).collect()
    }

    #[test]
    fn metrics_are_those_of_the_last_count_alone() {
        let of = |tier: &str, status: &str| (tier.to_owned(), status.to_owned());
        let numbers = Numbers { subscriptions: 2, personas: 3, content: 4 };
        tell(&BTreeMap::from([(of("basic", "active"), numbers), (of("basic", "canceled"), numbers)]));
        let subscriptions = [("active basic".to_owned(), 2.0), ("canceled basic".to_owned(), 2.0)];
        assert_eq!(told("subscription_subscriptions"), subscriptions.into());
        let usage = [("personas basic".to_owned(), 6.0), ("content basic".to_owned(), 8.0)];
        assert_eq!(told("subscription_usage"), usage.into());
        tell(&BTreeMap::from([(of("free", "active"), numbers)]));
        assert_eq!(told("subscription_subscriptions"), [("active free".to_owned(), 2.0)].into());
        assert!(told("subscription_counted_timestamp_seconds")[""] > 0.0);
    }
}
