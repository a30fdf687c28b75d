//! A thousand edges on one identity-svc, and on two: how soon all of them know of a change, what that costs, and what
//! it costs when all of them come back at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::changes::Changes;
use super::live_claims::filled_schema;
use super::report::{FAN_OUT, FAN_OUT_TWO, percentile};
use super::stage::{Server, Stage, free_address, start_unit_at};
use super::watchers::{Deliveries, Watchers};
use crate::Outcome;
use crate::database::{Account, drop_schema};
use crate::up::Unit;

/// Changes a second: 1.7 million a day.
const CHANGES: u32 = 20;
/// What lies in the table of events when the first edge comes: what a new edge is given at once.
const THERE: u64 = 10_000;

/// Where changes are made, and who makes and watches them.
struct Scene<'a> {
    stage: &'a mut Stage,
    schema: Account,
    unit: Unit,
    count: usize,
    length: Duration,
}

/// One replica, then two, on a table of their own.
pub async fn run(stage: &mut Stage) -> Outcome {
    let (count, there) = stage.choose((1000, THERE), (100, 500));
    let length = Duration::from_secs(stage.choose(20, 3));
    let (schema, unit) = filled_schema(stage, "bench_fan_out", there).await?;
    let mut scene = Scene { stage, schema, unit, count, length };
    let outcome = match scene.one().await {
        Ok(()) => scene.two().await,
        failed => failed,
    };
    outcome.and(drop_schema(&scene.schema).await)
}

impl Scene<'_> {
    async fn start(&self, name: &str, addresses: (SocketAddr, SocketAddr)) -> Outcome<Server> {
        // Streams never end by themselves; a restart need not wait for them.
        let drain = [("DRAIN_LIMIT_SECONDS", "1".to_owned())];
        start_unit_at(addresses, name, &self.unit, &[self.stage.cores.tested], &drain).await
    }

    fn add(&mut self, name: &str, value: f64) {
        self.stage.report.add(format!("fan-out: {name}"), value);
    }

    async fn changes(&self, replicas: &[SocketAddr]) -> Outcome<Changes> {
        let mut database = self.schema.connect().await?;
        Changes::prepare(replicas, &self.stage.plan.internal_token, &mut database).await
    }

    async fn one(&mut self) -> Outcome {
        let addresses = (free_address()?, free_address()?);
        let server = self.start("identity-svc-fan-out", addresses).await?;
        let mut changes = self.changes(&[addresses.0]).await?;
        let alone = self.cpu_of(&server, async || changes.run(CHANGES, self.length).await.map(drop)).await?;

        let memory = server.resident_kib()?;
        let cpu = server.cpu_seconds()?;
        let watchers = Watchers::start(self.count, &[addresses.0], &self.stage.plan.internal_token)?;
        self.add(
            "1,000 new edges at once: until all are current, s",
            watchers.all_current().await?.as_secs_f64(),
        );
        self.add("1,000 new edges at once: CPU of identity-svc, s", server.cpu_seconds()? - cpu);
        self.add("1,000 new edges at once: MiB of messages", mebibytes(&watchers.take()));
        let idle = self
            .cpu_of(&server, async || {
                tokio::time::sleep(self.length).await;
                Ok(())
            })
            .await?;
        self.add(
            "memory of identity-svc per edge, KiB",
            (server.resident_kib()? - memory) / self.count as f64,
        );
        self.add("CPU per edge and second without changes, µs", idle / self.count as f64 * 1e6);
        watchers.take();

        let changing =
            self.cpu_of(&server, async || changes.run(CHANGES, self.length).await.map(drop)).await?;
        let delivered = self.delivered(&watchers, "stream alone").await?;
        let own = (changing - idle - alone) * self.length.as_secs_f64();
        self.add("CPU of identity-svc per delivered event, µs", own / delivered.deliveries * 1e6);

        watchers.be_whole();
        let whole = self.cpu_of(&server, async || changes.run(CHANGES, self.length).await.map(drop)).await?;
        let delivered = self.delivered(&watchers, "with reports and probes").await?;
        self.stage.report.add(FAN_OUT, delivered.p99);
        self.add("share of a core of identity-svc, stream alone", changing);
        self.add("share of a core of identity-svc, with reports and probes", whole);
        self.add("reports that were refused", watchers.refused() as f64);
        let server = self.come_back(server, &watchers, addresses, "known to the edges").await?;
        watchers.be_forgetful();
        let server = self.come_back(server, &watchers, addresses, "new to the edges").await?;
        server.stop().await
    }

    async fn two(&mut self) -> Outcome {
        let addresses = [(free_address()?, free_address()?), (free_address()?, free_address()?)];
        let servers = [
            self.start("identity-svc-fan-out-1", addresses[0]).await?,
            self.start("identity-svc-fan-out-2", addresses[1]).await?,
        ];
        let replicas = addresses.map(|(public, _)| public);
        let mut changes = self.changes(&replicas).await?;
        let watchers = Watchers::start(self.count, &replicas, &self.stage.plan.internal_token)?;
        watchers.all_current().await?;
        watchers.be_whole();
        watchers.take();
        changes.run(CHANGES, self.length).await?;
        let delivered = self.delivered(&watchers, "two replicas").await?;
        self.stage.report.add(FAN_OUT_TWO, delivered.p99);
        drop(watchers);
        for server in servers {
            server.stop().await?;
        }
        Ok(())
    }

    /// CPU seconds a second.
    async fn cpu_of(&self, server: &Server, work: impl AsyncFnOnce() -> Outcome) -> Outcome<f64> {
        let (started, before) = (Instant::now(), server.cpu_seconds()?);
        work().await?;
        Ok((server.cpu_seconds()? - before) / started.elapsed().as_secs_f64())
    }

    /// How long each event took to the last of the watchers. All must have had all of them.
    async fn delivered(&mut self, watchers: &Watchers, title: &str) -> Outcome<Delivered> {
        // What was committed last is on its way.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let Deliveries { events, .. } = watchers.take();
        if let Some((sequence, (count, _))) = events.iter().find(|(_, (count, _))| *count != self.count) {
            return Err(format!("event {sequence} came to {count} of {} edges", self.count).into());
        }
        let times: Vec<_> = events.values().map(|(_, last)| *last).collect();
        for percent in [50.0, 99.0, 100.0] {
            let name = format!("{title}: until the last edge has it, p{percent}, ms");
            self.add(&name, percentile(&times, percent));
        }
        Ok(Delivered { deliveries: (events.len() * self.count) as f64, p99: percentile(&times, 99.0) })
    }

    /// Stops identity-svc under all of its watchers and starts it again.
    async fn come_back(
        &mut self,
        server: Server,
        watchers: &Watchers,
        addresses: (SocketAddr, SocketAddr),
        title: &str,
    ) -> Outcome<Server> {
        server.stop().await?;
        watchers.none_current().await;
        watchers.take();
        let server = self.start("identity-svc-fan-out", addresses).await?;
        let took = watchers.all_current().await?;
        let (cpu, deliveries) = (server.cpu_seconds()?, watchers.take());
        self.add(&format!("restart, events {title}: until all are current, s"), took.as_secs_f64());
        self.add(&format!("restart, events {title}: CPU of identity-svc, s"), cpu);
        self.add(&format!("restart, events {title}: MiB of messages"), mebibytes(&deliveries));
        Ok(server)
    }
}

struct Delivered {
    deliveries: f64,
    p99: f64,
}

fn mebibytes(deliveries: &Deliveries) -> f64 {
    deliveries.bytes as f64 / (1 << 20) as f64
}
