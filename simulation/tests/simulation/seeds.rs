//! Seeds, one after the other. `cargo test` takes a few, `cargo xtask simulate` as many as one likes.

use std::any::Any;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::{Mutex, PoisonError};

use crate::history::History;

/// The seeds to run, as `from-to`.
const SEEDS: &str = "SIMULATION_SEEDS";
/// A few seconds of a debug build.
const FEW: Range<u64> = 0..40;
/// After how many a line tells of it.
const TOLD: u64 = 500;
/// A multiple of what tokio divides the numbers of tasks by.
const NUMBERS: u64 = 64;

/// Runs the seeds.
///
/// # Panics
/// At the first broken promise, with the history and the command that repeats it.
pub fn check(name: &str, run: fn(u64) -> History) {
    let seeds = seeds();
    for seed in seeds.clone() {
        if let Err(fault) = try_one(name, seed, run) {
            panic!("{fault}");
        }
        let done = seed + 1 - seeds.start;
        if done.is_multiple_of(TOLD) {
            println!("{name}: {done} of {} seeds from {} on", seeds.end - seeds.start, seeds.start);
        }
    }
}

/// What happens with this seed, whatever ran before it or runs beside it.
pub fn history(run: fn(u64) -> History, seed: u64) -> History {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    begin_numbers();
    run(seed)
}

/// In which order the tasks of a process die, and with them its connections, goes by the remainders of their numbers,
/// which the whole program counts: each run begins at a multiple of [`NUMBERS`].
fn begin_numbers() {
    let tasks = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let number = || tasks.spawn(async {}).id().to_string().parse::<u64>().expect("a number");
    while !(number() + 1).is_multiple_of(NUMBERS) {}
}

fn try_one(name: &str, seed: u64, run: fn(u64) -> History) -> Result<(), String> {
    let (history, faults) = match catch_unwind(|| history(run, seed)) {
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
