//! The end of a process: SIGTERM or Ctrl-C, not ready, a grace in which callers learn of it, then stop accepting and
//! finish what runs.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::settings::Env;

/// How long an ending process takes.
#[derive(Clone, Debug)]
pub struct Settings {
    grace: Duration,
    limit: Duration,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        let grace = env.number(
            "DRAIN_GRACE_MS",
            "0",
            0..=600_000,
            "Milliseconds between not ready and the end of accepting; as long as the load balancer needs to notice",
        );
        let limit = env.number(
            "DRAIN_LIMIT_SECONDS",
            "20",
            1..=3600,
            "Seconds that running requests may take to end",
        );
        Settings { grace: Duration::from_millis(grace), limit: Duration::from_secs(limit) }
    }
}

/// Where a process stands on the way to its end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    settings: Settings,
    ending: CancellationToken,
    stop_accepting: CancellationToken,
}

impl Drain {
    /// Listens for SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(settings: Settings) -> io::Result<Drain> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain =
            Drain { settings, ending: CancellationToken::new(), stop_accepting: CancellationToken::new() };
        let on_signal = drain.clone();
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            tracing::info!("asked to stop");
            on_signal.ending.cancel();
            tokio::time::sleep(on_signal.settings.grace).await;
            on_signal.stop_accepting.cancel();
        });
        Ok(drain)
    }

    /// Whether the process is about to end, and so not ready for new work.
    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Ends when the process has been asked to end.
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Ends when nothing new may be accepted any more.
    pub async fn stop_accepting(&self) {
        self.stop_accepting.cancelled().await;
    }

    /// Stops accepting at once, without a signal; for a process whose own part has failed.
    pub fn now(&self) {
        self.ending.cancel();
        self.stop_accepting.cancel();
    }

    /// How long running work may take after the end of accepting.
    pub fn limit(&self) -> Duration {
        self.settings.limit
    }
}
