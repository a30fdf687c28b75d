//! docker-compose.yml fits the processes.

use serde_json::Value;

use super::kubernetes::env_file;
use super::settings::{read, settings, workspace};

/// The services by name.
fn services() -> serde_json::Map<String, Value> {
    let file: Value = serde_saphyr::from_str(&read(&workspace("docker-compose.yml"))).expect("YAML");
    file["services"].as_object().expect("services").clone()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

#[test]
fn no_log_of_a_container_fills_the_disk() {
    for (name, service) in services() {
        let options = &service["logging"]["options"];
        assert!(options["max-size"].is_string() && options["max-file"].is_string(), "{name}");
    }
}

#[test]
fn an_edge_ends_after_the_slowest_answer_of_core_manager() {
    let slowest = number(&settings()["edge"]["GATEWAY_TIMEOUT_MS"]);
    let edge = services()["edge"].clone();
    let limit = edge["environment"]["DRAIN_LIMIT_SECONDS"].as_str().expect("a limit").to_owned();
    let killed_after = edge["stop_grace_period"].as_str().and_then(|text| text.strip_suffix('s')).expect("s");
    assert!(number(killed_after) > number(&limit), "{killed_after} s for {limit}");
    for limit in [&limit, &env_file("base", "edge")["DRAIN_LIMIT_SECONDS"]] {
        assert!(number(limit) * 1000 > slowest, "{limit} s for {slowest} ms");
    }
}

#[test]
fn no_start_promotes_an_account() {
    let command = &services()["administrator"]["command"];
    assert!(command.as_array().expect("words").iter().any(|word| word == "--if-none"), "{command}");
}
