//! Dashboards and rules use only metrics that there are. Whether docs/metrics.md has those, `metrics` of the platform's
//! tests asks running processes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::settings::{files, read, workspace};

/// What metrics of ours begin with.
const OURS: [&str; 8] =
    ["process_ready", "log_", "edge_", "identity_", "subscription_", "grpc_", "db_", "stripe_"];
/// What Prometheus itself adds, and what a quantile is made of.
const ADDED: [&str; 3] = ["job", "instance", "le"];

/// Types and labels by name, as docs/metrics.md has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows: BTreeMap<_, _> =
        e2e::documented_metrics().into_iter().map(|m| (m.name, (m.kind, m.labels))).collect();
    assert!(rows.len() > 30, "docs/metrics.md has {} metrics", rows.len());
    rows
}

/// The expressions of dashboards and rules, each with its place.
fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in files(&workspace("deploy/observability/grafana/dashboards"), ".json") {
        let dashboard: Value = serde_json::from_str(&read(&file)).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let place = format!("{}: {}", dashboard["title"], panel["title"]);
                found.push((place, target["expr"].as_str().expect("an expression").to_owned()));
            }
        }
    }
    for rule in rules() {
        let place = rule["alert"].as_str().or(rule["record"].as_str()).expect("a name").to_owned();
        found.push((place, rule["expr"].as_str().expect("an expression").to_owned()));
    }
    found
}

fn rules() -> Vec<Value> {
    let files = files(&workspace("deploy/observability/prometheus/rules"), ".yml");
    let of_file = |text: String| -> Vec<Value> {
        let rules: Value = serde_saphyr::from_str(&text).expect("YAML");
        let groups = rules["groups"].as_array().expect("groups").clone();
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    };
    files.iter().flat_map(|file| of_file(read(file))).collect()
}

/// The words of an expression, without what stands in quotes: names of metrics, labels, functions.
fn words(expression: &str) -> Vec<String> {
    let unquoted: String = expression.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    unquoted.split(|c| !is_part(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The name of a metric in an expression, without what a histogram adds to it.
fn metric<'a>(word: &'a str, known: &BTreeMap<String, (String, BTreeSet<String>)>) -> &'a str {
    let parts = ["_bucket", "_count", "_sum"].iter().filter_map(|part| word.strip_suffix(part));
    parts
        .into_iter()
        .find(|name| known.get(*name).is_some_and(|(kind, _)| kind == "histogram"))
        .unwrap_or(word)
}

/// The labels that an expression selects, and those it groups by.
fn labels(expression: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for selector in expression.split('{').skip(1) {
        let selector = selector.split('}').next().expect("a selector");
        let outside: String = selector.split('"').step_by(2).collect();
        labels.extend(outside.split([',', '=', '~', '!', ' ']).filter(|l| !l.is_empty()).map(str::to_owned));
    }
    for group in expression.split("by (").skip(1) {
        let group = group.split(')').next().expect("a group");
        labels.extend(group.split(',').map(|label| label.trim().to_owned()));
    }
    labels
}

#[test]
fn every_metric_and_label_of_a_dashboard_or_rule_exists() {
    let known = documented();
    let recorded: BTreeSet<String> =
        rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect();
    let mut used = BTreeSet::new();
    for (place, expression) in expressions() {
        let mut may = BTreeSet::from(ADDED.map(str::to_owned));
        let mut uses_recorded = false;
        for word in words(&expression) {
            if word.starts_with("persona:") {
                assert!(recorded.contains(&word), "{place}: nothing records {word}");
                uses_recorded = true;
            } else if OURS.iter().any(|start| word.starts_with(start)) {
                let name = metric(&word, &known).to_owned();
                let (_, labels) =
                    known.get(&name).unwrap_or_else(|| panic!("{place}: there is no metric {word}"));
                may.extend(labels.iter().cloned());
                used.insert(name);
            }
        }
        for label in labels(&expression).into_iter().filter(|_| !uses_recorded) {
            assert!(may.contains(&label), "{place}: {label} is no label of what it asks for");
        }
    }
    let unused: Vec<_> = known.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no dashboard shows {unused:?}");
}

#[test]
fn every_alert_has_a_section_in_the_runbooks_and_none_is_left_over() {
    let page = read(&workspace("docs/runbooks.md"));
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts: Vec<Value> = rules().into_iter().filter(|rule| rule["alert"].is_string()).collect();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert["alert"].as_str().expect("a name")).collect();
    assert_eq!(names, sections);
    for alert in &alerts {
        let name = alert["alert"].as_str().expect("a name").to_lowercase();
        assert_eq!(alert["annotations"]["runbook_url"], format!("docs/runbooks.md#{name}"));
        let severity = alert["labels"]["severity"].as_str().expect("a severity");
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
    }
}
