//! The buckets that all edges share, in Redis or Valkey: one round trip and one script for each request. Redis is
//! never waited for longer than a few milliseconds, and not asked again for a second after it did not answer.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, RedisError, Script};

use super::Taken;

/// For how long Redis is not asked after it did not answer.
const SPARED: Duration = Duration::from_secs(1);
/// How long a new connection may take. Requests do not wait for it: they have a deadline of their own.
const CONNECT: Duration = Duration::from_secs(1);
/// A connection on which nothing was acknowledged for so long is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// Most requests that are on their way to Redis at once.
const PIPELINE: usize = 4096;

/// Buckets shared by all edges.
pub struct Shared {
    connection: ConnectionManager,
    script: Script,
    deadline: Duration,
    started: Instant,
    /// Milliseconds from `started` until which Redis is spared.
    spared_until: AtomicU64,
}

/// Where the shared buckets are. Shows no password.
#[derive(Clone)]
pub struct SharedUrl(Client);

impl FromStr for SharedUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let fault = || "must be such as redis://:password@host:6379/0".to_owned();
        if !url.starts_with("redis://") {
            return Err(fault());
        }
        let info = url.into_connection_info().map_err(|_| fault())?;
        Client::open(info.set_tcp_settings(tcp())).map(SharedUrl).map_err(|_| fault())
    }
}

impl fmt::Debug for SharedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedUrl")
    }
}

impl Shared {
    /// Connects when it is first used, and again whenever the connection breaks.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn connect(url: SharedUrl, deadline: Duration) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(SILENCE))
            .set_max_delay(CONNECT)
            .set_pipeline_buffer_size(PIPELINE);
        Ok(Shared {
            connection: ConnectionManager::new_lazy_with_config(url.0, config)?,
            script: Script::new(TAKE),
            deadline,
            started: Instant::now(),
            spared_until: AtomicU64::new(0),
        })
    }

    /// Takes one request out of the user's bucket; `None` when Redis does not answer in time.
    pub async fn take(&self, user_id: &str, per_minute: u32) -> Option<Taken> {
        let now = self.started.elapsed().as_millis() as u64;
        if now < self.spared_until.load(Ordering::Relaxed) {
            return None;
        }
        let mut connection = self.connection.clone();
        let mut call = self.script.key(format!("rate:{user_id}"));
        call.arg(per_minute);
        let answer = call.invoke_async::<(bool, u64)>(&mut connection);
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok((admitted, owed))) => {
                ASKED.with_label_values(&["answered"]).inc();
                Some(Taken { admitted, owed: Duration::from_micros(owed) })
            }
            Ok(Err(error)) => self.spare(now, &error.to_string()),
            Err(_) => self.spare(now, "no answer in time"),
        }
    }

    /// Of the requests that find Redis away at once, one says so.
    fn spare(&self, now: u64, why: &str) -> Option<Taken> {
        ASKED.with_label_values(&["away"]).inc();
        let until = now + SPARED.as_millis() as u64;
        if self.spared_until.fetch_max(until, Ordering::Relaxed) <= now {
            tracing::warn!(why, "Redis is away; each edge limits by itself");
        }
        None
    }
}

fn tcp() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    // A machine that is gone without a word is noticed by the kernel, as nothing else closes the connection.
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(SILENCE);
    settings
}

/// GCRA by the clock of Redis, in microseconds. The bucket of a user is the time at which it is full, and the limit
/// that this was counted with: after a change of tier what was used stays used. A full bucket has no key. One that is
/// emptier than empty was counted before the clock went back, and is empty.
const TAKE: &str = r"
local minute = 60000000
local limit = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local owed = 0
local kept = redis.call('GET', KEYS[1])
if kept then
    local full_at, before = string.match(kept, '^(%d+) (%d+)$')
    owed = math.max(full_at - now, 0)
    if tonumber(before) ~= limit then
        owed = owed * before / limit
    end
    if owed > minute then
        owed = minute
        redis.call('SET', KEYS[1], string.format('%.0f %d', now + owed, limit), 'PX', minute / 1000)
    end
end
local taken = owed + minute / limit
-- Half a microsecond for what divisions leave over.
if taken > minute + 0.5 then
    return {0, string.format('%.0f', owed)}
end
redis.call('SET', KEYS[1], string.format('%.0f %d', now + taken, limit), 'PX', math.ceil(taken / 1000))
return {1, string.format('%.0f', taken)}
";

static ASKED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_rate_limit_shared_total",
        "Requests that were counted in Redis, by whether it answered: answered, away",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_and_none_shows_its_password() {
        let url: SharedUrl = "redis://:hunter2@localhost:6379/0".parse().expect("a URL");
        assert!(!format!("{url:?}").contains("hunter2"));
        for wrong in
            ["localhost:6379", "http://localhost", "rediss://localhost", "redis://", "redis://a:b:c:hunter2"]
        {
            let fault = wrong.parse::<SharedUrl>().expect_err(wrong);
            assert!(!fault.contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn a_redis_that_is_not_there_costs_no_more_than_the_deadline_and_then_nothing_for_a_while() {
        // Nobody listens on the port of a listener that is gone.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let url = format!("redis://{}", gone.expect("an address"));
        let deadline = Duration::from_millis(20);
        let shared = Shared::connect(url.parse().expect("a URL"), deadline).expect("connects later");
        assert_eq!(shared.take("u", 60).await, None);
        assert!(shared.spared_until.load(Ordering::Relaxed) > 0);
        let started = Instant::now();
        for _ in 0..100 {
            assert_eq!(shared.take("u", 60).await, None);
        }
        assert!(started.elapsed() < deadline, "{:?}", started.elapsed());
    }
}
