//! What breaks between those who call and those who are called, and when it is whole again.

use std::time::Duration;

use contract::{ErrorCode, Failure, Outcome};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::sleep;
use turmoil::Sim;

use crate::history::History;

/// Longest time of a statement.
const STATEMENT_MS: u64 = 15;
/// After how long a hanging statement is looked at again.
const HANGING: Duration = Duration::from_millis(50);

/// How the database answers a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Answers,
    Refuses,
    Hangs,
}

/// What can break, by the places of a caller and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is sent between the two waits.
    Held(usize, usize),
    /// It is lost.
    Cut(usize, usize),
    /// What the server sends is lost.
    Deaf(usize, usize),
    /// The server is dead.
    Dead(usize),
    /// The caller dies and starts anew at once.
    Restarted(usize),
    Database(usize, Mode),
}

/// The faults of a run: which kinds there are and how often, another mixture for each seed, since where everything breaks
/// at once much is never reached.
pub struct Faults {
    callers: &'static [&'static str],
    servers: &'static [&'static str],
    /// In each step.
    probability: f64,
    /// Milliseconds that something is broken at most.
    longest: u64,
    /// A bit for each of [`KINDS`].
    kinds: u32,
    broken: Vec<(Duration, Fault)>,
    /// Of each server.
    modes: Vec<Mode>,
}

const KINDS: u32 = 9;

impl Faults {
    pub fn new(
        random: &mut SmallRng,
        callers: &'static [&'static str],
        servers: &'static [&'static str],
    ) -> Self {
        Faults {
            callers,
            servers,
            probability: random.random_range(0.002..0.06),
            longest: random.random_range(300..8000),
            kinds: random.random(),
            broken: Vec::new(),
            modes: vec![Mode::Answers; servers.len()],
        }
    }

    /// What becomes of a step: some is whole again, and perhaps something breaks.
    pub fn turn(&mut self, random: &mut SmallRng, history: &mut History, now: Duration) -> Turn {
        let mended = self.due(now);
        let broken = self.next(random, now);
        mended.iter().for_each(|fault| history.note(now, format!("no longer {fault:?}")));
        broken.iter().for_each(|fault| history.note(now, format!("{fault:?}")));
        Turn { names: (self.callers, self.servers), mended, broken }
    }

    /// Everything is whole again.
    pub fn end_all(&mut self) -> Turn {
        Turn { names: (self.callers, self.servers), mended: self.due(Duration::MAX), broken: None }
    }

    /// Perhaps something breaks now.
    fn next(&mut self, random: &mut SmallRng, now: Duration) -> Option<Fault> {
        let kind = random.random_range(0..KINDS);
        if !random.random_bool(self.probability) || self.kinds >> kind & 1 == 0 {
            return None;
        }
        let (caller, server) =
            (random.random_range(0..self.callers.len()), random.random_range(0..self.servers.len()));
        let fault = match kind {
            0 | 1 => Fault::Held(caller, server),
            2 | 3 => Fault::Cut(caller, server),
            4 => Fault::Deaf(caller, server),
            5 => Fault::Dead(server),
            6 => Fault::Database(server, Mode::Refuses),
            7 => Fault::Database(server, Mode::Hangs),
            _ => Fault::Restarted(caller),
        };
        if let Fault::Database(server, mode) = fault {
            self.modes[server] = mode;
        }
        self.broken.push((now + Duration::from_millis(random.random_range(50..self.longest)), fault));
        Some(fault)
    }

    /// What is to be whole again by now.
    fn due(&mut self, now: Duration) -> Vec<Fault> {
        let due: Vec<Fault> =
            self.broken.extract_if(.., |(until, _)| *until <= now).map(|(_, fault)| fault).collect();
        for fault in &due {
            if let Fault::Database(server, _) = fault {
                self.modes[*server] = Mode::Answers;
            }
        }
        due
    }

    pub fn mode(&self, server: usize) -> Mode {
        self.modes[server]
    }
}

/// The hosts that call and those that are called.
type Names = (&'static [&'static str], &'static [&'static str]);

/// What is to be carried out on the network.
#[must_use]
pub struct Turn {
    names: Names,
    mended: Vec<Fault>,
    broken: Option<Fault>,
}

impl Turn {
    /// Nothing that the processes lock may be locked.
    pub fn take(self, sim: &mut Sim<'_>) {
        self.mended.into_iter().for_each(|fault| end(sim, self.names, fault));
        self.broken.into_iter().for_each(|fault| begin(sim, self.names, fault));
    }
}

fn begin(sim: &mut Sim<'_>, (callers, servers): Names, fault: Fault) {
    match fault {
        Fault::Held(caller, server) => sim.hold(callers[caller], servers[server]),
        Fault::Cut(caller, server) => sim.partition(callers[caller], servers[server]),
        Fault::Deaf(caller, server) => sim.partition_oneway(servers[server], callers[caller]),
        Fault::Dead(server) => sim.crash(servers[server]),
        Fault::Restarted(caller) => sim.bounce(callers[caller]),
        Fault::Database(..) => {}
    }
}

fn end(sim: &mut Sim<'_>, (callers, servers): Names, fault: Fault) {
    match fault {
        Fault::Held(caller, server) => sim.release(callers[caller], servers[server]),
        Fault::Cut(caller, server) | Fault::Deaf(caller, server) => {
            sim.repair(callers[caller], servers[server]);
        }
        Fault::Dead(server) if !sim.is_host_running(servers[server]) => sim.bounce(servers[server]),
        Fault::Dead(_) | Fault::Restarted(_) | Fault::Database(..) => {}
    }
}

/// One statement, as long as it takes.
///
/// # Errors
/// GW001 when the database refuses it.
pub async fn statement(time: u64, mode: impl Fn() -> Mode) -> Outcome<()> {
    sleep(Duration::from_millis(time)).await;
    while mode() == Mode::Hangs {
        sleep(HANGING).await;
    }
    if mode() == Mode::Refuses { Err(Failure::new(ErrorCode::Unavailable)) } else { Ok(()) }
}

/// The time of a statement, in milliseconds.
pub fn duration(random: &mut SmallRng) -> u64 {
    random.random_range(0..STATEMENT_MS)
}
