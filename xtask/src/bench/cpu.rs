//! Who computes where, what it cost, and whether anybody else computed meanwhile. Linux, from `/proc`.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::process::Command;

use crate::Outcome;
use crate::process::bound_to_us;

/// The core of the process under test, and the one of everything else: load generator, upstream, database.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub tested: usize,
    pub load: usize,
}

impl Cores {
    /// The first two cores that we may use.
    pub fn choose() -> Outcome<Self> {
        let ours = sched_getaffinity(None).map_err(|e| format!("the cores of this process: {e}"))?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(tested), Some(load)) => Ok(Cores { tested, load }),
            _ => Err("two cores are needed: one for what is measured, one for what makes it work".into()),
        }
    }

    /// From now on we, and every process that we start without saying otherwise, stay on the core of the load.
    pub fn take_load(&self) -> Outcome {
        let mut set = CpuSet::new();
        set.set(self.load);
        sched_setaffinity(None, &set).map_err(|e| format!("pinning to core {}: {e}", self.load).into())
    }
}

/// A command that runs on these cores alone.
pub fn pinned(program: &Path, cores: &[usize]) -> Command {
    let mut command = bound_to_us(Path::new("taskset"));
    let list: Vec<_> = cores.iter().map(usize::to_string).collect();
    command.args(["-c", &list.join(",")]).arg(program);
    command
}

/// Moves all threads of a running process to a core.
pub fn move_to(pid: u32, core: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(core);
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let id = task?.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        // A thread may end between being listed and being moved.
        let _ = sched_setaffinity(id, &set);
    }
    Ok(())
}

/// The time for which the threads of a process have had a core, in seconds, to the nanosecond.
pub fn cpu_seconds(pid: u32) -> Outcome<f64> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanoseconds = 0_u64;
    for task in std::fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))? {
        // A thread may end between being listed and being read.
        let Ok(times) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let first = times.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
        nanoseconds += first.ok_or_else(|| format!("{tasks}: this kernel has no schedstat"))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> Outcome<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().map_err(|e| format!("{path}: VmRSS {line}: {e}").into())
}

/// Does some work, and gives what the meter of a process went up by meanwhile besides what came of it.
pub async fn costing<T>(
    meter: impl Fn() -> Outcome<f64>,
    work: impl AsyncFnOnce() -> Outcome<T>,
) -> Outcome<(T, f64)> {
    let before = meter()?;
    let value = work().await?;
    Ok((value, meter()? - before))
}

/// Largest share of the two cores that others may have taken in a round that is to be believed.
const MOST_FOREIGN: f64 = 0.10;
/// How often a round is measured when the machine stays busy.
const TRIES: u32 = 3;

/// Watches how busy others keep our cores.
pub struct Referee {
    cores: Cores,
    tries: u32,
    /// Rounds that were kept although others computed.
    pub doubtful: Cell<u32>,
}

impl Referee {
    pub fn new(cores: Cores, quick: bool) -> Self {
        Referee { cores, tries: if quick { 1 } else { TRIES }, doubtful: Cell::new(0) }
    }

    /// Does a round, and does it again when the machine was too busy with other things, up to a limit.
    pub async fn round<T>(&self, what: &str, work: impl AsyncFn() -> Outcome<T>) -> Outcome<T> {
        for attempt in 1.. {
            let before = Ticks::now(self.cores)?;
            let value = work().await?;
            let foreign = Ticks::now(self.cores)?.foreign_since(&before);
            if foreign <= MOST_FOREIGN {
                return Ok(value);
            }
            let percent = 100.0 * foreign;
            if attempt == self.tries {
                println!("  {what}: others took {percent:.0} % of the two cores; kept, but in doubt");
                self.doubtful.set(self.doubtful.get() + 1);
                return Ok(value);
            }
            println!("  {what}: others took {percent:.0} % of the two cores; measured again");
        }
        unreachable!("the last attempt returns")
    }
}

/// Time on our two cores, in clock ticks.
struct Ticks {
    at: Instant,
    /// Of everybody, interrupts and what a hypervisor took away included.
    busy: f64,
    /// Of ourselves and all that we have started.
    ours: f64,
}

impl Ticks {
    fn now(cores: Cores) -> Outcome<Self> {
        Ok(Ticks { at: Instant::now(), busy: busy(cores)?, ours: ours()? })
    }

    fn foreign_since(&self, before: &Ticks) -> f64 {
        let foreign = (self.busy - before.busy) - (self.ours - before.ours);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let all = 2.0 * self.at.duration_since(before.at).as_secs_f64() * per_second;
        (foreign / all).max(0.0)
    }
}

fn busy(cores: Cores) -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
    let names = [format!("cpu{}", cores.tested), format!("cpu{}", cores.load)];
    let mut busy = 0.0;
    for line in stat.lines() {
        let mut fields = line.split_whitespace();
        if fields.next().is_some_and(|name| names.iter().any(|ours| ours == name)) {
            let times: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
            // user, nice, system, irq, softirq, steal; not idle and iowait.
            busy += [0, 1, 2, 5, 6, 7].iter().filter_map(|place| times.get(*place)).sum::<f64>();
        }
    }
    Ok(busy)
}

/// The times of our process and its descendants, those that have ended included.
fn ours() -> Outcome<f64> {
    let mut parents = HashMap::new();
    let mut times = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses may have spaces and parentheses itself.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number =
            |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        parents.insert(pid, number(1) as u32);
        // utime, stime, and those of children that were waited for
        times.insert(pid, (11..=14).map(number).sum::<f64>());
    }
    let us = std::process::id();
    let is_ours = |mut pid: u32| loop {
        if pid == us {
            return true;
        }
        match parents.get(&pid) {
            Some(parent) if *parent > 0 => pid = *parent,
            _ => return false,
        }
    };
    Ok(times.iter().filter(|(pid, _)| is_ours(**pid)).map(|(_, ticks)| ticks).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_our_own_is_seen_as_ours_and_not_as_foreign() {
        let cores = Cores::choose().expect("two cores");
        let (before, cpu) =
            (Ticks::now(cores).expect("ticks"), cpu_seconds(std::process::id()).expect("time"));
        while before.at.elapsed().as_millis() < 300 {}
        let after = Ticks::now(cores).expect("ticks");
        assert!(after.ours > before.ours, "nobody worked");
        assert!(cpu_seconds(std::process::id()).expect("time") > cpu);
        assert!(resident_kib(std::process::id()).expect("memory") > 100.0);
    }

    #[tokio::test]
    async fn of_a_round_that_is_measured_again_nothing_counts() {
        let (meter, rounds) = (Cell::new(0.0), Cell::new(0.0));
        // Each round costs ten more than the one before.
        let round = async || {
            let work = async || {
                rounds.set(rounds.get() + 1.0);
                meter.set(meter.get() + 10.0 * rounds.get());
                Ok(rounds.get())
            };
            costing(|| Ok(meter.get()), work).await
        };
        for expected in 1..=3 {
            let expected = f64::from(expected);
            assert_eq!(round().await.expect("a round"), (expected, 10.0 * expected));
        }
    }

    #[test]
    fn what_others_use_is_a_share_of_both_cores() {
        let at = Instant::now();
        let before = Ticks { at, busy: 0.0, ours: 0.0 };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let later = Ticks { at: at + std::time::Duration::from_secs(1), busy: 1.5 * ticks, ours: ticks };
        assert!((later.foreign_since(&before) - 0.25).abs() < 1e-9);
    }
}
