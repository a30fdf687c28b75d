//! What each kind of request asks of the database: the figures that `docs/scaling.md` calculates with.

use super::accounts::{Client, register};
use super::counters::{COLUMNS, Counters, Meter};
use super::quota::{Taker, must_have_subscriptions};
use super::stage::Stage;
use crate::Outcome;

/// One request after the other, through an edge: how it is divided among statements does not depend on the pace.
pub async fn run(stage: &mut Stage) -> Outcome {
    let count = stage.choose(200, 20);
    let edge = stage.edge("edge-database", &[stage.cores.tested], &[]).await?;
    let authority = edge.authority();
    let mut meter = Meter::open(&stage.admin).await?;
    let mut rows = vec![("in the background, a second", meter.background())];
    let mut clients = Vec::new();
    let registering = async || {
        clients = register(&authority, count).await?;
        // Their subscriptions are made a little later, and belong to it.
        must_have_subscriptions(&stage.admin).await
    };
    rows.push(("registration", meter.each(count, registering).await?));
    for (title, call) in [
        ("login", Call::LogIn),
        ("first sight of a token, GET profile", Call::Profile),
        ("GET profile", Call::Profile),
        ("refresh", Call::Refresh),
        ("making a project", Call::MakeProject),
        ("logout", Call::LogOut),
    ] {
        let calls = async || {
            for client in &mut clients {
                call.make(client).await?;
            }
            Ok(())
        };
        rows.push((title, meter.each(count, calls).await?));
    }
    let mut taker = Taker::connect(stage, clients.iter().map(|client| client.user_id.clone())).await?;
    // The first time, a user's counter is made.
    let counted = async || {
        for _ in 0..count {
            taker.both().await?;
        }
        Ok(())
    };
    rows.push(("counted write (reserve, commit)", meter.each(count, counted).await?));
    edge.stop().await?;
    print(stage, &rows);
    Ok(())
}

/// Something that a client asks for.
#[derive(Clone, Copy)]
enum Call {
    LogIn,
    Profile,
    Refresh,
    MakeProject,
    LogOut,
}

impl Call {
    async fn make(self, client: &mut Client) -> Outcome {
        match self {
            Call::LogIn => client.log_in().await,
            Call::Profile => client.profile().await,
            Call::Refresh => client.refresh().await,
            Call::MakeProject => client.make_project().await,
            Call::LogOut => client.log_out().await,
        }
    }
}

/// A table for people, and its figures for the report.
fn print(stage: &mut Stage, rows: &[(&str, Counters)]) {
    for (title, counters) in rows {
        for (column, value) in COLUMNS.iter().zip(counters.values()) {
            stage.report.note(format!("database: {title}: {column}"), value);
        }
    }
    println!("  | what | {} |", COLUMNS.join(" | "));
    for (title, counters) in rows {
        let values: Vec<_> = counters.values().iter().map(|value| format!("{value:.1}")).collect();
        println!("  | {title} | {} |", values.join(" | "));
    }
}
