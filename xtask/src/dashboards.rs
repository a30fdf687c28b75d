//! Whether Prometheus takes the rules and the expressions of the dashboards, whether alerts fire when they should, and, asked
//! with `--prometheus`, which expressions find nothing there. That they use only metrics that exist is a test
//! (`tests/tests/deploy`).

use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::Value;
use tokio::process::Command;

use crate::Outcome;
use crate::cargo::run as run_cargo;
use crate::http::send;
use crate::packages::which;
use crate::process::unless_interrupted;
use crate::workspace::{root, target};

#[derive(clap::Args)]
pub struct Options {
    /// A Prometheus that has watched a running platform, such as http://127.0.0.1:9090
    #[arg(long)]
    prometheus: Option<String>,
}

/// An expression of a panel.
struct Query {
    place: String,
    expression: String,
}

/// `cargo xtask dashboards`
pub async fn run(options: Options) -> Outcome {
    unless_interrupted(check(options)).await
}

async fn check(options: Options) -> Outcome {
    let promtool = which("promtool").ok_or(
        "promtool is not installed: it comes with Prometheus (on Debian: apt-get install prometheus)",
    )?;
    let config = root().join("deploy/observability/prometheus/prometheus.yml");
    run_cargo(Command::new(&promtool).args(["check", "config"]).arg(&config)).await?;
    let tests = root().join("deploy/observability/prometheus/tests/alerts.yml");
    run_cargo(Command::new(&promtool).args(["test", "rules"]).arg(&tests)).await?;
    let queries = queries()?;
    let rules = as_rules(&queries)?;
    run_cargo(Command::new(&promtool).args(["check", "rules"]).arg(&rules)).await?;
    match options.prometheus {
        Some(prometheus) => ask(&prometheus, &queries).await,
        None => Ok(()),
    }
}

/// The expressions of all panels, in which Grafana's interval is one that a rule may have.
fn queries() -> Outcome<Vec<Query>> {
    let folder = root().join("deploy/observability/grafana/dashboards");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        queries.append(&mut of_dashboard(&path)?);
    }
    queries.sort_by(|one, other| one.place.cmp(&other.place));
    Ok(queries)
}

fn of_dashboard(path: &Path) -> Outcome<Vec<Query>> {
    let text = std::fs::read_to_string(path)?;
    let dashboard: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().ok_or("a target without an expression")?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            queries.push(Query {
                place: format!("{}: {}", text(&dashboard["title"]), text(&panel["title"])),
                expression: expression.replace("$__rate_interval", "1m"),
            });
        }
    }
    Ok(queries)
}

/// A file of rules with one for each expression: promtool checks no others.
fn as_rules(queries: &[Query]) -> Outcome<PathBuf> {
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(place, query)| serde_json::json!({ "record": format!("panel:{place}"), "expr": query.expression }))
        .collect();
    // JSON is YAML.
    let file = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] });
    let path = target("dashboards.rules.json");
    std::fs::create_dir_all(target(""))?;
    std::fs::write(&path, file.to_string())?;
    Ok(path)
}

/// Names the panels that find nothing. Some may: what has not happened has no series.
async fn ask(prometheus: &str, queries: &[Query]) -> Outcome {
    let mut empty = 0;
    for query in queries {
        let encoded: String = query.expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = format!("{}/api/v1/query?query={encoded}", prometheus.trim_end_matches('/'));
        let answer = send(Method::GET, &url, None, None).await?.json();
        if answer["status"] != "success" {
            return Err(format!("{}: {answer}", query.place).into());
        }
        if answer["data"]["result"].as_array().is_none_or(Vec::is_empty) {
            empty += 1;
            println!("nothing: {} ({})", query.place, query.expression);
        }
    }
    println!("{} of {} expressions find something.", queries.len() - empty, queries.len());
    Ok(())
}
