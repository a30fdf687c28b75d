//! Counts what is open, and waits until nothing is.

use tokio::sync::watch;

/// A count of the tickets that are out.
pub struct Gauge(watch::Sender<()>);

/// Counts until it is dropped.
pub struct Ticket(#[expect(dead_code, reason = "it is held, not read")] watch::Receiver<()>);

impl Default for Gauge {
    fn default() -> Self {
        Gauge(watch::Sender::new(()))
    }
}

impl Gauge {
    pub fn enter(&self) -> Ticket {
        Ticket(self.0.subscribe())
    }

    pub fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Returns once no ticket is out.
    pub async fn emptied(&self) {
        self.0.closed().await;
    }
}
