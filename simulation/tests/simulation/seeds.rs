//! Seeds, one after the other, on all cores. `cargo test` takes a few, `cargo xtask simulate` as many as one likes.

use std::any::Any;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::history::History;

/// The seeds to run, as `from-to`.
const SEEDS: &str = "SIMULATION_SEEDS";
/// A few seconds of a debug build.
const FEW: Range<u64> = 0..40;
/// After how many a line tells of it.
const TOLD: u64 = 500;

/// Runs the seeds.
///
/// # Panics
/// At the first broken promise, with the history and the command that repeats it.
pub fn check(name: &str, run: fn(u64) -> History) {
    let seeds = seeds();
    let (next, broken) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while broken.lock().expect("no panic").is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    if let Err(fault) = try_one(name, seed, run) {
                        broken.lock().expect("no panic").get_or_insert(fault);
                    }
                    let done = seed + 1 - seeds.start;
                    if done.is_multiple_of(TOLD) {
                        println!("{name}: {done} of {} seeds", seeds.end - seeds.start);
                    }
                }
            });
        }
    });
    if let Some(fault) = broken.into_inner().expect("no panic") {
        panic!("{fault}");
    }
}

fn try_one(name: &str, seed: u64, run: fn(u64) -> History) -> Result<(), String> {
    let (history, faults) = match catch_unwind(|| run(seed)) {
        Ok(history) => (history.lines, history.faults),
        Err(panic) => (Vec::new(), vec![words(&*panic)]),
    };
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{name}: seed {seed}\n{}\n\n{}\n\nagain: cargo xtask simulate {name} --from {seed} --seeds 1",
        history.join("\n"),
        faults.join("\n")
    ))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS) else { return FEW };
    let range = text.split_once('-').and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.unwrap_or_else(|| panic!("{SEEDS} is not from-to: {text}"))
}
