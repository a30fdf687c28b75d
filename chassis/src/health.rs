//! The state of the things that a process depends on, probed in the background, so that a health answer never waits.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;

/// How often a dependency is probed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a probe may take before the dependency counts as away.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// A probe slower than this counts as degraded.
const DEGRADED_AFTER: Duration = Duration::from_millis(300);

/// The state of a dependency or of the whole, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Healthy,
    Degraded,
    Unhealthy,
}

/// Whether the process can work without a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it the process is unhealthy.
    Required,
    /// Without it the process is degraded.
    Partial,
}

#[derive(Clone, Debug)]
struct Dependency {
    need: Need,
    state: State,
}

/// What is known of the dependencies. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
    /// What hinders the process from becoming ready, if it knows.
    hindrance: Arc<RwLock<Option<&'static str>>>,
    dependencies: Arc<RwLock<BTreeMap<&'static str, Dependency>>>,
}

impl Health {
    /// From now on the process takes work. Readiness does not follow the dependencies: taking every replica out
    /// because one thing behind all of them is away would turn a partial outage into a whole one.
    pub fn now_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Notes what hinders the process from becoming ready, for who asks why it is not. Whether that is news.
    pub fn hindered_by(&self, what: Option<&'static str>) -> bool {
        let mut hindrance = self.hindrance.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *hindrance, what) != what
    }

    /// What hinders the process from becoming ready, as far as it knows.
    pub fn hindrance(&self) -> Option<&'static str> {
        *self.hindrance.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process has all that it needs to take work.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Probes a dependency from now on, until the process ends. A probe says whether it works.
    pub fn watch<F, P>(&self, name: &'static str, need: Need, probe: P)
    where
        P: Fn() -> F + Send + 'static,
        F: Future<Output = State> + Send,
    {
        self.report(name, need, State::Unhealthy);
        let health = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PROBE_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let started = tokio::time::Instant::now();
                let state = tokio::time::timeout(PROBE_TIMEOUT, probe()).await.unwrap_or(State::Unhealthy);
                let slow = started.elapsed() > DEGRADED_AFTER;
                health.report(name, need, if slow { state.max(State::Degraded) } else { state });
            }
        });
    }

    /// Records the state of a dependency that another task knows.
    pub fn report(&self, name: &'static str, need: Need, state: State) {
        let mut dependencies = self.dependencies.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = dependencies.insert(name, Dependency { need, state });
        let changed = before.is_some_and(|before| before.state != state);
        if changed {
            tracing::info!(dependency = name, ?state, "a dependency changed");
        }
    }

    /// The state of each dependency by name.
    pub fn dependencies(&self) -> BTreeMap<&'static str, State> {
        self.read(|all| all.iter().map(|(name, dependency)| (*name, dependency.state)).collect())
    }

    /// The state of the whole.
    pub fn overall(&self) -> State {
        self.read(|all| {
            let weigh = |dependency: &Dependency| match dependency.need {
                Need::Required => dependency.state,
                Need::Partial => dependency.state.min(State::Degraded),
            };
            all.values().map(weigh).max().unwrap_or(State::Healthy)
        })
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<&'static str, Dependency>) -> T) -> T {
        look(&self.dependencies.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_as_bad_as_what_it_cannot_do_without() {
        let health = Health::default();
        assert_eq!(health.overall(), State::Healthy);
        health.report("core-manager", Need::Partial, State::Unhealthy);
        assert_eq!(health.overall(), State::Degraded);
        health.report("mysql", Need::Required, State::Unhealthy);
        assert_eq!(health.overall(), State::Unhealthy);
        health.report("mysql", Need::Required, State::Healthy);
        assert_eq!(health.overall(), State::Degraded);
    }
}
