//! How fast each process starts, and what it holds while it has nothing to do.

use std::time::{Duration, Instant};

use super::report::{
    EDGE_MEMORY, EDGE_START, IDENTITY_MEMORY, IDENTITY_START, SUBSCRIPTION_MEMORY, SUBSCRIPTION_START, median,
};
use super::stage::{Stage, first, start_unit};
use crate::Outcome;

/// How long a process is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(2);

/// Further replicas of each, one after the other, beside the database and the services that run.
pub async fn run(stage: &mut Stage) -> Outcome {
    let (starts, cores) = (stage.choose(9, 3), [stage.cores.tested]);
    for (program, start, memory) in [
        ("identity-svc", IDENTITY_START, IDENTITY_MEMORY),
        ("subscription-svc", SUBSCRIPTION_START, SUBSCRIPTION_MEMORY),
        ("edge", EDGE_START, EDGE_MEMORY),
    ] {
        let mut times = Vec::new();
        for turn in 1..=starts {
            let started = Instant::now();
            let server = match program {
                "identity-svc" => {
                    start_unit("identity-svc-2", first(&stage.plan.identity)?, &cores, &stage.addresses())
                        .await?
                }
                "subscription-svc" => {
                    let unit = first(&stage.plan.subscription)?;
                    start_unit("subscription-svc-2", unit, &cores, &stage.addresses()).await?
                }
                _ => stage.edge("edge-2", &cores, &[]).await?,
            };
            times.push(started.elapsed().as_secs_f64() * 1e3);
            if turn == starts {
                tokio::time::sleep(REST).await;
                stage.report.add(memory, server.resident_kib()? / 1024.0);
            }
            server.stop().await?;
        }
        stage.report.add(start, median(&times));
    }
    Ok(())
}
