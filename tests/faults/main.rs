//! `cargo xtask faults`: the whole platform under a steady load, one fault after the other, and what must hold
//! whatever happens. The names of faults as arguments, or all of them.

mod fault;
mod load;
mod server;

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::{Plan, Sandbox};
use futures_util::FutureExt;

use fault::{FAULTS, Fault, Field};
use load::{End, KINDS, Kind, Load, Record};
use server::Server;

/// Requests a second, and while everything is restarted.
const PACE: u32 = 150;
const ROLLING_PACE: u32 = 300;
/// How long it is quiet before the fault, how long the fault lasts, and how long the end is watched.
const BEFORE: Duration = Duration::from_secs(5);
const DURING: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_secs(8);
/// Within this everything must be as before.
const RECOVERY: Duration = Duration::from_secs(5);
/// What is not touched may take this many times as long, and a little on a machine with two cores, in milliseconds.
const SLOWER: f64 = 2.0;
const NOISE: f64 = 30.0;
/// No request may wait longer than this, whatever is away.
const LONGEST: Duration = Duration::from_secs(11);
/// The most memory that any process may have needed, in MiB.
const MEMORY: u64 = 256;

#[tokio::main]
async fn main() -> ExitCode {
    let asked: HashSet<String> = std::env::args().skip(1).collect();
    if let Some(name) = asked.iter().find(|name| FAULTS.iter().all(|fault| fault.name() != **name)) {
        let names: Vec<String> = FAULTS.iter().map(|fault| fault.name()).collect();
        eprintln!("error: there is no fault {name}; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let chosen = FAULTS.into_iter().filter(|fault| asked.is_empty() || asked.contains(&fault.name()));
    let mut table = Vec::new();
    for fault in chosen {
        println!("▶ {}", fault.name());
        let result = match AssertUnwindSafe(run(fault)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => Verdict {
                faults: vec!["broke off; the reason stands above".to_owned()],
                ..Verdict::default()
            },
        };
        println!("  {}", result.line(fault));
        result.faults.iter().for_each(|fault| println!("    ✗ {fault}"));
        table.push((fault, result));
    }
    println!("\n{}", Verdict::HEADER);
    table.iter().for_each(|(fault, verdict)| println!("{}", verdict.line(*fault)));
    let failed = table.iter().filter(|(_, verdict)| !verdict.faults.is_empty()).count();
    if failed > 0 {
        println!("\n{failed} of {} faults broke a promise.", table.len());
        return ExitCode::FAILURE;
    }
    println!("\nEvery promise held under {} faults.", table.len());
    ExitCode::SUCCESS
}

/// What is to be said of a fault.
#[derive(Default)]
struct Verdict {
    requests: usize,
    failed: usize,
    /// p99 of what is not touched, before and during, in milliseconds.
    before: f64,
    during: f64,
    /// From the end of the fault, or its beginning where nobody has to mend it, until the last failure.
    back: Duration,
    memory: u64,
    faults: Vec<String>,
}

impl Verdict {
    const HEADER: &str = "fault                     requests  failed  p99 of the rest, ms: before  during   back after, s  most MiB";

    fn line(&self, fault: Fault) -> String {
        let mark = if self.faults.is_empty() { "✓" } else { "✗" };
        format!(
            "{mark} {:<24}{:>8}{:>8}{:>29.1}{:>8.1}{:>16.1}{:>10}",
            fault.name(),
            self.requests,
            self.failed,
            self.before,
            self.during,
            self.back.as_secs_f64(),
            self.memory
        )
    }
}

async fn run(fault: Fault) -> Verdict {
    let server = Server::find().await;
    let is_rolled =
        matches!(fault, Fault::EdgesRolled | Fault::IdentitiesRolled | Fault::SubscriptionsRolled);
    let number = |value: u32| value.to_string();
    let plan = Plan {
        replicas: if is_rolled { 3 } else { 2 },
        database: Some(server.url().to_owned()),
        clocks: fault.clock().is_some(),
        settings: vec![
            // So that the places of unknown outcomes are free again while we look.
            ("GATEWAY_TIMEOUT_MS", number(5000)),
            ("QUOTA_RESERVATION_SECONDS", number(10)),
            // As long as the balancer needs to notice.
            ("DRAIN_GRACE_MS", number(700)),
            ("REGISTRATIONS_PER_ADDRESS", number(10_000)),
            ("WS_CONNECTIONS_PER_USER", number(2000)),
            // All the world has one address here.
            ("EDGE_PER_ADDRESS", number(0)),
        ],
        ..Plan::default()
    };
    let mut field = Field::new(Sandbox::planned(plan).await, server);
    let load = Load::of(&field.sandbox).await;
    let driver = tokio::spawn(load.clone().run(if is_rolled { ROLLING_PACE } else { PACE }));
    // Beside the load, as what is measured under the fault will be.
    field.prepare(fault).await;
    // What every process does the first time is not what is measured.
    tokio::time::sleep(BEFORE / 2).await;
    load.take_records();
    tokio::time::sleep(BEFORE).await;
    let begun = Instant::now();
    field.inflict(fault).await;
    tokio::time::sleep(DURING.saturating_sub(begun.elapsed())).await;
    let ended = Instant::now();
    field.heal(fault).await;
    let healed = Instant::now();
    tokio::time::sleep(AFTER).await;
    let watched = Instant::now();
    load.stop();
    driver.await.expect("the load has an end");
    let mut verdict = judge(fault, &load.take_records(), begun, ended, healed, watched);
    verdict.faults.extend(field.finish().await);
    verdict.faults.extend(load.audit(fault.is_kept_by_core_manager()).await);
    verdict.faults.extend(field.left_reserved().await);
    let sandbox = &field.sandbox;
    let processes = sandbox.edge_processes.iter().chain(&sandbox.identity_processes);
    let peaks = processes.chain(&sandbox.subscription_processes).map(|process| process.peak_kib() / 1024);
    verdict.memory = peaks.max().unwrap_or_default();
    if verdict.memory > MEMORY {
        verdict.faults.push(format!("a process needed {} MiB, more than {MEMORY}", verdict.memory));
    }
    verdict
}

fn judge(
    fault: Fault,
    records: &[Record],
    begun: Instant,
    ended: Instant,
    healed: Instant,
    watched: Instant,
) -> Verdict {
    let is_unhurt = |kind: Kind| !fault.touches().contains(&kind) && !fault.slows().contains(&kind);
    let is_touched = |kind: Kind| fault.touches().contains(&kind);
    let failures = || records.iter().filter(|record| record.end != End::Fine);
    // Of what replicas and balancers answer for nobody has to wait for the end of the fault.
    let over = if fault.mends_itself() { begun } else { healed };
    let last = failures()
        .map(|record| record.due)
        .max()
        .map_or(Duration::ZERO, |last| last.saturating_duration_since(over));
    let mut faults = Vec::new();
    for kind in KINDS {
        let all = || failures().filter(|record| record.kind == kind);
        let wrong = all().find(|record| matches!(record.end, End::Wrong(_)) || record.took > LONGEST);
        if let Some(record) = wrong {
            faults.push(format!("{kind:?} after {:.1} s: {:?}", record.took.as_secs_f64(), record.end));
        }
        // Whoever has a good token is not told that it is bad.
        let blamed = all().find(|record| {
            matches!(&record.end, End::Refused(status, _) if *status < 500) && !fault.excuses(&record.end)
        });
        if let Some(record) = blamed {
            faults.push(format!("{kind:?} was refused as the client's fault: {:?}", record.end));
        }
        let early = all().find(|record| record.due + record.took < begun);
        let late = all().filter(|record| record.due > over + RECOVERY).max_by_key(|record| record.due);
        let untouched = all().next().filter(|_| !is_touched(kind));
        for (what, record) in
            [("before the fault", early), ("too late", late), ("though it is not touched", untouched)]
        {
            if let Some(record) = record {
                let when = record.due.saturating_duration_since(begun).as_secs_f64();
                let count = all().count();
                faults.push(format!(
                    "{kind:?} failed {what}, {when:.1} s on, one of {count}: {:?}",
                    record.end
                ));
            }
        }
        if records.iter().filter(|record| record.kind == kind && record.due > over + RECOVERY).count() == 0 {
            faults.push(format!("nothing is known of {kind:?} after the fault: {:?}", watched - over));
        }
    }
    let slow = |from: Instant, to: Instant| {
        let within =
            records.iter().filter(|record| is_unhurt(record.kind) && (from..to).contains(&record.due));
        percentile(within.map(|record| record.took.as_secs_f64() * 1e3).collect())
    };
    let first = records.iter().map(|record| record.due).min().unwrap_or(begun);
    let (before, during) = (slow(first, begun), slow(begun, ended));
    let bound = (before * SLOWER).max(before + NOISE);
    if during > bound {
        faults.push(format!("what is not touched took {during:.1} ms at p99, {before:.1} before"));
        let slow = |record: &&Record| {
            is_unhurt(record.kind)
                && (begun..ended).contains(&record.due)
                && record.took.as_secs_f64() * 1e3 > bound
        };
        let mut counts = BTreeMap::<(u64, String), usize>::new();
        for record in records.iter().filter(slow) {
            let second = record.due.duration_since(begun).as_secs();
            *counts.entry((second, format!("{:?}", record.kind))).or_default() += 1;
        }
        let told = counts.iter().map(|((second, kind), count)| format!("{second} s: {count} {kind}"));
        faults.push(format!("longer than {bound:.1} ms took, at {}", told.collect::<Vec<_>>().join(", ")));
    }
    Verdict {
        requests: records.len(),
        failed: failures().count(),
        before,
        during,
        back: last,
        memory: 0,
        faults,
    }
}

/// The 99th percentile; nought of nothing.
fn percentile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
