//! What the database server has counted and used: the work of one call is the difference, without what runs in the
//! background all the time.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, MySqlConnection, Row};

use super::cpu::cpu_seconds;
use crate::Outcome;
use crate::database::Account;

/// What is counted, in this order.
pub const COLUMNS: [&str; 8] = [
    "selects",
    "inserts",
    "updates",
    "deletes",
    "transactions",
    "rows written",
    "KiB of redo log",
    "CPU of the database, µs",
];
const TRANSACTIONS: usize = 4;
const ROWS: usize = 5;
const REDO: usize = 6;
const CPU: usize = 7;
/// How long the background is watched.
const QUIET: Duration = Duration::from_secs(5);

/// A value for each of [`COLUMNS`].
#[derive(Clone, Copy, Default)]
pub struct Counters([f64; COLUMNS.len()]);

impl Counters {
    pub fn statements(&self) -> f64 {
        self.0[..TRANSACTIONS].iter().sum()
    }

    pub fn transactions(&self) -> f64 {
        self.0[TRANSACTIONS]
    }

    pub fn values(&self) -> [f64; COLUMNS.len()] {
        self.0
    }

    fn map(self, other: Counters, work: impl Fn(f64, f64) -> f64) -> Counters {
        let mut values = self.0;
        values.iter_mut().zip(other.0).for_each(|(value, other)| *value = work(*value, other));
        Counters(values)
    }
}

/// Reads the counters of a server that nobody else uses.
pub struct Meter {
    connection: MySqlConnection,
    pid: u32,
    /// In a second.
    background: Counters,
}

impl Meter {
    /// Signs in, and watches what runs in the background.
    pub async fn open(account: &Account) -> Outcome<Self> {
        let mut connection = account.connect().await?;
        let file: String = sqlx::query_scalar("SELECT @@pid_file").fetch_one(&mut connection).await?;
        let pid = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?.trim().parse()?;
        let mut meter = Meter { connection, pid, background: Counters::default() };
        let (started, before) = (Instant::now(), meter.read().await?);
        tokio::time::sleep(QUIET).await;
        let seconds = started.elapsed().as_secs_f64();
        meter.background = meter.read().await?.map(before, |after, before| (after - before) / seconds);
        Ok(meter)
    }

    /// What runs in the background, a second.
    pub fn background(&self) -> Counters {
        self.background
    }

    /// Does `work`, which makes so many calls, and gives what one of them asks of the server.
    pub async fn each(&mut self, calls: usize, work: impl AsyncFnOnce() -> Outcome) -> Outcome<Counters> {
        let (started, before) = (Instant::now(), self.read().await?);
        work().await?;
        let (seconds, after) = (started.elapsed().as_secs_f64(), self.read().await?);
        let background = self.background;
        let all = after.map(before, |after, before| after - before);
        Ok(all.map(background, |all, each| (all - each * seconds) / calls as f64))
    }

    async fn read(&mut self) -> Outcome<Counters> {
        let mut counters = Counters::default();
        let rows = sqlx::raw_sql(AssertSqlSafe("SHOW GLOBAL STATUS")).fetch_all(&mut self.connection).await?;
        for row in rows {
            let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(place) = place(&name) {
                counters.0[place] += value.parse::<f64>()?;
            }
        }
        counters.0[REDO] = self.log_position().await? / 1024.0;
        counters.0[CPU] = cpu_seconds(self.pid)? * 1e6;
        Ok(counters)
    }

    /// Up to where the redo log has been filled, in bytes. The counter of bytes that were written lags behind.
    async fn log_position(&mut self) -> Outcome<f64> {
        const LINE: &str = "Log sequence number";
        let row = sqlx::raw_sql("SHOW ENGINE INNODB STATUS").fetch_one(&mut self.connection).await?;
        let text: String = row.try_get(2)?;
        let position = text.lines().find_map(|line| line.strip_prefix(LINE)?.trim().parse().ok());
        position.ok_or_else(|| format!("the server's status has no {LINE}").into())
    }
}

/// The column of a counter of the server.
fn place(name: &str) -> Option<usize> {
    Some(match name.to_ascii_lowercase().as_str() {
        "com_select" => 0,
        "com_insert" | "com_insert_select" => 1,
        "com_update" | "com_update_multi" => 2,
        "com_delete" | "com_delete_multi" => 3,
        "com_commit" => TRANSACTIONS,
        "handler_write" | "handler_update" | "handler_delete" => ROWS,
        _ => return None,
    })
}
