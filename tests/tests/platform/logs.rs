//! The lines of the logs have the fields that docs/logs.md says.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Process, Sandbox, until};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

/// The names in the first column of a section's table.
fn documented(section: &str) -> BTreeSet<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/logs.md");
    let page = std::fs::read_to_string(page).expect("docs/logs.md");
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect("the section");
    let rows =
        rest.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('`').nth(1).expect("a name").to_owned()).collect()
}

fn fields(line: &Value) -> BTreeSet<String> {
    line.as_object().expect("an object").keys().cloned().collect()
}

#[tokio::test]
async fn lines_have_the_fields_that_the_docs_say() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    sandbox.edge().get("/api/v1/projects/nothing", &user.token).await.must_be(400);
    // What a service says within a call: its database is away.
    sandbox.database.set_open(false);
    let body = json!({ "email": user.email, "password": user.password });
    sandbox.edge().open_post("/api/v1/auth/login", body).await.must_be(503);
    sandbox.database.set_open(true);
    let every = documented("Every line");
    let mut access = documented("Access lines");
    access.extend(every.iter().cloned());
    let of_call = documented("Lines within a call");

    // Lines gather for a few milliseconds.
    until("the line of the sign-in", async || sandbox.edge_processes[0].said().contains("/auth/login")).await;
    let processes = [&sandbox.edge_processes, &sandbox.identity_processes, &sandbox.subscription_processes];
    let said: String = processes.into_iter().flatten().map(|process| process.said()).collect();
    let (mut of_requests, mut within_calls) = (0, 0);
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let has = fields(&line);
        assert!(has.is_superset(&every), "{line}");
        if line["target"] == "access" {
            let may: BTreeSet<_> = access.iter().filter(|name| *name != "code").cloned().collect();
            assert!(has == access || has == may, "{line}");
            of_requests += 1;
        } else if line["span"]["name"] == "call" {
            assert_eq!(fields(&line["span"]), of_call, "{line}");
            within_calls += 1;
        }
    }
    assert!(of_requests >= 3 && within_calls >= 1, "{of_requests} access lines, {within_calls} within calls");
    sandbox.ready().await;
}

#[tokio::test]
async fn an_edge_whose_log_nobody_reads_goes_on_and_ends() {
    let mut sandbox = Sandbox::start().await;
    sandbox.edge_processes[0].kill();
    sandbox.edge_processes[0] = Process::start_unread("edge", &sandbox.settings());
    sandbox.ready().await;
    // Much more than a pipe holds and than is kept for it, since the access line has 512 bytes of the path.
    let path = format!("/{}", "a".repeat(600));
    let asked = (0..8000).map(|_| async { sandbox.edge().open_get(&path).await.must_be(404) });
    let answered = futures_util::stream::iter(asked).buffer_unordered(32).collect::<Vec<_>>();
    timeout(Duration::from_secs(120), answered).await.expect("an edge that answers");
    sandbox.edge().open_get("/health").await.must_be(200);
    sandbox.internals[0].open_get("/livez").await.must_be(200);
    let metrics = sandbox.internals[0].open_get("/internal/metrics").await.text();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("log_lines_lost_total "));
    assert!(lost.is_some_and(|count| count != "0"), "{lost:?}");
    assert_eq!(sandbox.edge_processes[0].terminate().await, Some(0));
}
