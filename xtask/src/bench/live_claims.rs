//! A million entries in the table of live claims against none: what a request pays for them, and the edge once.

use std::time::Instant;

use hyper::Method;
use sqlx::AssertSqlSafe;

use super::proxied::{get_load, sample};
use super::report::{MILLION, median};
use super::stage::{Server, Stage, first, start_unit, unit_command};
use crate::Outcome;
use crate::database::{Account, make_scratch};
use crate::http;
use crate::up::Unit;

/// A table of its own, followed by an identity-svc of its own, beside those of the other edge.
pub async fn run(stage: &mut Stage) -> Outcome {
    let cores = [stage.cores.tested];
    let wanted: u64 = stage.choose(1_000_000, 50_000);
    let (schema, identity) = filled_schema(stage, "bench_live_claims", wanted).await?;
    let identity = start_unit("identity-svc-full", &identity, &[stage.cores.load], &[]).await?;
    let at_full = [("IDENTITY_URL", format!("http://{}", identity.address))];

    let without = stage.edge("edge-without", &cores, &[]).await?;
    let started = Instant::now();
    let with = stage.edge("edge-with", &cores, &at_full).await?;
    stage
        .report
        .add("start of an edge with all these live claims to ready, s", started.elapsed().as_secs_f64());
    must_know(&with, wanted).await?;
    stage.report.add("memory of an edge without live claims, MiB", without.resident_kib()? / 1024.0);
    stage.report.add("memory of an edge with all these live claims, MiB", with.resident_kib()? / 1024.0);
    stage.report.add("memory of its identity-svc, MiB", identity.resident_kib()? / 1024.0);
    compare(stage, &with, &without).await?;
    for server in [with, without, identity] {
        server.stop().await?;
    }
    crate::database::drop_schema(&schema).await
}

/// A schema whose table of auth events has so many that matter, and an identity-svc to be started on it.
pub async fn filled_schema(stage: &Stage, name: &str, wanted: u64) -> Outcome<(Account, Unit)> {
    let schema = make_scratch(&stage.admin, name).await?;
    let identity = on_schema(first(&stage.plan.identity)?, &schema);
    let migrated =
        unit_command(&identity, &[stage.cores.load]).arg("migrate").kill_on_drop(true).output().await?;
    if !migrated.status.success() {
        return Err(format!("the migrations failed: {}", String::from_utf8_lossy(&migrated.stdout)).into());
    }
    println!("  Filling a table with {wanted} auth events");
    fill(&schema, wanted).await?;
    Ok((schema, identity))
}

async fn compare(stage: &mut Stage, with: &Server, without: &Server) -> Outcome {
    let mut load = get_load(stage)?;
    // As many users as find no place in the nearer caches.
    load.tokens = stage.mint.file("thousand", 1000)?;
    let rounds = stage.choose(7, 1);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let title = format!("live claims, round {} of {rounds}", round + 1);
        let pair = async || {
            if round % 2 == 0 {
                let with = sample(with, &load).await?;
                Ok((with, sample(without, &load).await?))
            } else {
                let without = sample(without, &load).await?;
                Ok((sample(with, &load).await?, without))
            }
        };
        let (with, without) = stage.referee.round(&title, pair).await?;
        println!("  {title}: {:.1} µs with, {:.1} µs without", with.cpu, without.cpu);
        ratios.push(with.cpu / without.cpu);
    }
    stage.report.add(MILLION, median(&ratios));
    Ok(())
}

/// The unit on another schema, as the administrator of the server: the users of the services know their own alone.
fn on_schema(unit: &Unit, schema: &Account) -> Unit {
    let mut unit = unit.clone();
    unit.settings.retain(|(name, _)| !name.starts_with("AUTH_DB_"));
    unit.settings.extend([
        ("AUTH_DB_HOST", schema.host.clone()),
        ("AUTH_DB_PORT", schema.port.to_string()),
        ("AUTH_DB_USER", schema.user.clone()),
        ("AUTH_DB_PASSWORD", schema.password.clone()),
        ("AUTH_DB_NAME", schema.schema.clone()),
    ]);
    unit
}

/// Events that matter for an hour: half of them ended sessions, half changed accounts, each of somebody else.
async fn fill(schema: &Account, wanted: u64) -> Outcome {
    let mut connection = schema.connect().await?;
    let row = |sequence: &str| {
        format!(
            "SELECT {sequence}, IF(({sequence}) % 2, 'session_ended', 'account_changed'), UUID(),
                    IF(({sequence}) % 2, CONCAT('{{\"kind\":\"session_ended\",\"session_id\":\"', UUID(), '\"}}'),
                       CONCAT('{{\"kind\":\"account_changed\",\"version\":2,\"email\":\"', UUID(), '@example.com\",',
                              '\"role\":\"user\",\"tier\":\"premium\",\"permissions\":[\"personas.create\"]}}')),
                    UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) + INTERVAL 1 HOUR"
        )
    };
    let insert = "INSERT INTO auth_events (sequence, kind, user_id, payload, created_at, forget_at)";
    let mut there = 1;
    run_sql(&mut connection, format!("{insert} {}", row("1"))).await?;
    while there < wanted {
        let more = there.min(wanted - there);
        let doubled = row(&format!("sequence + {there}"));
        run_sql(&mut connection, format!("{insert} {doubled} FROM auth_events WHERE sequence <= {more}"))
            .await?;
        there += more;
    }
    run_sql(&mut connection, format!("UPDATE auth_sequence SET last_sequence = {wanted}")).await
}

async fn run_sql(connection: &mut sqlx::MySqlConnection, statement: String) -> Outcome {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

/// The edge says itself how many entries its table has.
async fn must_know(edge: &Server, wanted: u64) -> Outcome {
    const GAUGE: &str = "edge_live_claims_entries ";
    let url = format!("http://{}/internal/metrics", edge.internal);
    // The gauge is renewed each second.
    for _ in 0..30 {
        let metrics = http::send(Method::GET, &url, None, None).await?.body;
        let entries = metrics.lines().find_map(|line| line.strip_prefix(GAUGE)?.parse::<f64>().ok());
        if entries.is_some_and(|entries| entries >= wanted as f64) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Err(format!("the edge is ready but does not have {wanted} live claims").into())
}
