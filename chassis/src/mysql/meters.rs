//! What is measured of the database: transactions, the connections of the pool, and its clock.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chrono::TimeDelta;
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};
use sqlx::MySqlPool;

/// How the pool stands; looked at as often as the database is probed.
pub fn look_at(pool: &MySqlPool) {
    let open = i64::from(pool.size());
    let idle = i64::try_from(pool.num_idle()).unwrap_or(open);
    let most = i64::from(pool.options().get_max_connections());
    for (state, connections) in [("idle", idle), ("used", open - idle), ("most", most)] {
        CONNECTIONS.with_label_values(&[state]).set(connections.max(0));
    }
    // There from the beginning, so that the first one is an increase.
    LazyLock::force(&TIMEOUTS);
}

/// Counts an error that means that no connection came in time: all are in use, or the server takes none.
pub fn note(error: &sqlx::Error) {
    if matches!(error, sqlx::Error::PoolTimedOut) {
        TIMEOUTS.inc();
    }
}

/// Clocks must agree within so much (docs/operations.md).
const CLOCKS_AGREE: TimeDelta = TimeDelta::minutes(1);

/// Notes how far the clock of the database is ahead of ours. It matters when nothing fails yet: tokens are given out by both.
pub fn note_clock(ahead: TimeDelta) {
    static ARE_APART: AtomicBool = AtomicBool::new(false);
    let seconds = ahead.as_seconds_f64();
    CLOCK_AHEAD.set(seconds);
    let are_apart = ahead.abs() > CLOCKS_AGREE;
    if are_apart == ARE_APART.swap(are_apart, Ordering::Relaxed) {
        return;
    }
    if are_apart {
        tracing::warn!(
            seconds,
            "the clock of the database is ahead of ours, or behind: one of them is wrong"
        );
    } else {
        tracing::info!("the clock of the database and ours agree again");
    }
}

/// Measures how long it takes until a transaction has begun, most of which is the wait for a connection when all are
/// in use. Failures count, too: those are the longest.
pub async fn begun<T>(beginning: impl Future<Output = T>) -> T {
    let since = Instant::now();
    let begun = beginning.await;
    BEGIN_SECONDS.observe(since.elapsed().as_secs_f64());
    begun
}

pub static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    prometheus::register_histogram_vec!(
        "db_transaction_seconds",
        "Duration of a named transaction, its repetitions included",
        &["transaction"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

pub static REPEATED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "db_transaction_repeated_total",
        "Repetitions of a named transaction after a deadlock or a lock timeout",
        &["transaction"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static BEGIN_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    prometheus::register_histogram!(
        "db_begin_seconds",
        "Time until there is a connection on which a transaction has begun, or until that failed"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static CONNECTIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    prometheus::register_int_gauge_vec!(
        "db_pool_connections",
        "Connections of the pool: idle, used, and most, which is how many there may be",
        &["state"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static TIMEOUTS: LazyLock<IntCounter> = LazyLock::new(|| {
    prometheus::register_int_counter!(
        "db_pool_timeouts_total",
        "Waits for a connection that ended without one, as all were in use or the server took none"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static CLOCK_AHEAD: LazyLock<Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "db_clock_ahead_seconds",
        "How far the clock of the database is ahead of this process'; below nought when it is behind"
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
