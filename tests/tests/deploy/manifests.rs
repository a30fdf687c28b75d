//! The manifests of Kubernetes fit the processes. That they are what Kubernetes takes, `cargo xtask manifests` checks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kubernetes::{documents, env_file};
use super::settings::{read, settings, workspace};

const PROCESSES: [&str; 3] = ["edge", "identity-svc", "subscription-svc"];
const FOLDERS: [&str; 4] = ["base", "overlays/development", "overlays/production", "components/mutual-tls"];

#[test]
fn every_setting_in_the_manifests_is_one_of_the_process() {
    let settings = settings();
    let mut seen = 0;
    let mut must_exist = |process: &str, name: &str, place: &str| {
        let plain = name.strip_suffix("_FILE").unwrap_or(name);
        assert!(settings[process].contains_key(plain), "{place}: {process} has no setting {name}");
        seen += 1;
    };
    for document in documents("") {
        for container in document.containers() {
            for name in container.given().keys() {
                must_exist(container.process, name, &container.file.display().to_string());
            }
        }
    }
    for folder in FOLDERS {
        for process in PROCESSES {
            env_file(folder, process).keys().for_each(|name| must_exist(process, name, folder));
        }
    }
    assert!(seen > 40, "only {seen} settings were found");
}

#[test]
fn whatever_a_process_cannot_start_without_is_given_to_it() {
    let settings = settings();
    for overlay in ["overlays/development", "overlays/production"] {
        for document in documents("base") {
            for container in document.containers() {
                let mut given: BTreeSet<String> =
                    container.given().keys().map(|name| name.trim_end_matches("_FILE").to_owned()).collect();
                for folder in ["base", overlay] {
                    given.extend(env_file(folder, container.process).into_keys());
                }
                let required = settings[container.process]
                    .iter()
                    .filter(|(_, default)| default.starts_with("*required"))
                    // `migrate` reads no others.
                    .filter(|(name, _)| document.kind() != "Job" || name.starts_with("AUTH_DB_"));
                for (name, _) in required {
                    assert!(given.contains(name), "{overlay}, {}: {name} is missing", document.name());
                }
            }
        }
    }
}

#[test]
fn the_migration_is_given_what_opens_the_database_and_no_other_secret() {
    let base = documents("base");
    let job = base.iter().find(|document| document.kind() == "Job").expect("a job");
    for container in job.containers() {
        let given: Vec<_> = container.given().into_keys().collect();
        assert_eq!(given, ["AUTH_DB_PASSWORD_FILE"], "{}", container.process);
        let mounted = container.pod["volumes"][0]["projected"]["sources"].as_array().expect("sources");
        let secrets: Vec<_> = mounted.iter().filter_map(|source| source["secret"]["name"].as_str()).collect();
        assert_eq!(secrets, ["identity-svc-database", "subscription-svc-database"]);
    }
    assert_eq!(job.containers().count(), 2);
}

#[test]
fn every_port_is_one_that_the_process_listens_on() {
    let settings = settings();
    for document in documents("base").iter().filter(|document| document.kind() != "Job") {
        for container in document.containers() {
            let listens: BTreeSet<u64> = settings[container.process]
                .iter()
                .filter(|(name, _)| name.ends_with("_LISTEN"))
                .map(|(name, default)| port(default).unwrap_or_else(|| panic!("{name}: {default}")))
                .collect();
            let ports = container.value["ports"].as_array().expect("ports");
            let opened: BTreeSet<u64> =
                ports.iter().map(|port| port["containerPort"].as_u64().expect("a port")).collect();
            assert_eq!(opened, listens, "{}", document.name());
            let internal = ports.iter().find(|port| port["name"] == "internal").expect("internal");
            let annotations = &document.value["spec"]["template"]["metadata"]["annotations"];
            let scraped = annotations["prometheus.io/port"].as_str().expect("a port");
            assert_eq!(internal["containerPort"].to_string(), scraped, "{}", document.name());
        }
    }
}

fn port(address: &str) -> Option<u64> {
    address.rsplit_once(':')?.1.parse().ok()
}

#[test]
fn every_probe_asks_for_a_route_of_the_internal_listener() {
    let routes = read(&workspace("chassis/src/internal.rs"));
    for document in documents("base").iter().filter(|document| document.kind() != "Job") {
        for container in document.containers() {
            for (probe, path) in
                [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
            {
                let asked = &container.value[probe]["httpGet"];
                assert_eq!(asked["path"], path, "{probe} of {}", document.name());
                assert_eq!(asked["port"], "internal", "{probe} of {}", document.name());
                assert!(routes.contains(&format!(".route(\"{path}\"")), "{path}");
            }
            let annotations = &document.value["spec"]["template"]["metadata"]["annotations"];
            let metrics = annotations["prometheus.io/path"].as_str().expect("a path");
            assert!(routes.contains(&format!(".route(\"{metrics}\"")), "{metrics}");
        }
    }
}

#[test]
fn a_pod_has_more_time_to_end_than_its_process_needs() {
    let mut pods = 0;
    for document in documents("base").iter().filter(|document| document.kind() != "Job") {
        for container in document.containers() {
            let env = env_file("base", container.process);
            let number = |name: &str| env[name].parse::<u64>().expect("a number");
            // After the limit identity-svc waits up to five seconds for mails.
            let needed = number("DRAIN_GRACE_MS").div_ceil(1000) + number("DRAIN_LIMIT_SECONDS") + 5;
            let has = container.pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
            assert!(has > needed, "{}: {has} s for {needed}", document.name());
            pods += 1;
        }
    }
    assert_eq!(pods, 3);
}

#[test]
fn nothing_has_a_right_that_it_does_not_need() {
    for folder in ["base", "overlays/development"] {
        for document in documents(folder) {
            let pod = &document.value["spec"]["template"]["spec"];
            let lists = [&pod["initContainers"], &pod["containers"]];
            for container in lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten()) {
                let name = format!("{} of {}", container["name"], document.name());
                let rights = &container["securityContext"];
                assert_eq!(rights["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(rights["capabilities"]["drop"][0], "ALL", "{name}");
                assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
                assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
                assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
                if container["name"] != "mysql" {
                    assert_eq!(rights["readOnlyRootFilesystem"], true, "{name}");
                    assert_eq!(pod["securityContext"]["runAsUser"], 10001, "{name}");
                }
            }
        }
    }
}

#[test]
fn internal_listeners_stay_internal_and_nobody_talks_unless_it_is_said() {
    let mut opened = Vec::new();
    for document in documents("") {
        let spec = &document.value["spec"];
        let ports = match document.kind() {
            "Service" => spec["ports"].as_array().cloned().unwrap_or_default(),
            "NetworkPolicy" => {
                let rules = spec["ingress"].as_array().cloned().unwrap_or_default();
                rules.iter().flat_map(|rule| rule["ports"].as_array().cloned().expect("ports")).collect()
            }
            _ => continue,
        };
        let is_internal = |port: &Value| {
            [&port["port"], &port["targetPort"]].iter().any(|port| {
                *port == "internal" || port.as_u64().is_some_and(|port| [9081, 9051, 9052].contains(&port))
            })
        };
        if ports.iter().any(is_internal) {
            opened.push((document.kind().to_owned(), document.name().to_owned()));
        }
    }
    assert_eq!(opened, [("NetworkPolicy".to_owned(), "metrics".to_owned())]);
    let denies = documents("base").iter().any(|document| {
        let spec = &document.value["spec"];
        document.kind() == "NetworkPolicy"
            && spec["podSelector"] == json!({})
            && spec["policyTypes"] == json!(["Ingress", "Egress"])
            && spec["ingress"].is_null()
            && spec["egress"].is_null()
    });
    assert!(denies, "there is no policy that denies what no other admits");
}

#[test]
fn who_leads_to_the_edge_leads_to_the_proof_that_its_host_is_ours() {
    let admitted = |folder: &str, labels: Value| {
        let policy = documents(folder).into_iter().find(|document| {
            document.kind() == "NetworkPolicy"
                && document.value["spec"]["podSelector"]["matchLabels"] == labels
                && document.value["spec"]["ingress"].is_array()
        });
        policy.expect("a policy").value["spec"]["ingress"][0].clone()
    };
    let edge = admitted("base", json!({ "app.kubernetes.io/name": "edge" }));
    let solver = admitted("overlays/production", json!({ "acme.cert-manager.io/http01-solver": "true" }));
    assert_eq!((&solver["from"], &solver["ports"]), (&edge["from"], &json!([{ "port": 8089 }])));
}

/// The hosts of a list of URLs.
fn hosts(urls: &str, scheme: &str, port: u64) -> Vec<String> {
    let host = |url: &str| {
        let rest = url.strip_prefix(scheme).unwrap_or_else(|| panic!("{url} is not {scheme}"));
        rest.strip_suffix(&format!(":{port}")).unwrap_or_else(|| panic!("{url} is not :{port}")).to_owned()
    };
    urls.split(',').map(host).collect()
}

#[test]
fn callers_know_every_replica_that_there_may_be() {
    let most: BTreeMap<String, u64> = documents("overlays/production")
        .iter()
        .filter(|document| document.kind() == "HorizontalPodAutoscaler")
        .map(|document| {
            (document.name().to_owned(), document.value["spec"]["maxReplicas"].as_u64().expect("most"))
        })
        .collect();
    let certificates = documents("components/mutual-tls");
    for (folder, scheme) in [("base", "http://"), ("components/mutual-tls", "https://")] {
        for (caller, name, service, port) in [
            ("edge", "IDENTITY_URL", "identity-svc", 50051),
            ("edge", "SUBSCRIPTION_URL", "subscription-svc", 50052),
            ("subscription-svc", "IDENTITY_URL", "identity-svc", 50051),
        ] {
            let known = hosts(&env_file(folder, caller)[name], scheme, port);
            let expected: Vec<String> =
                (0..most[service]).map(|place| format!("{service}-{place}.{service}")).collect();
            assert_eq!(known, expected, "{name} of {caller} in {folder}");
            let certificate = certificates
                .iter()
                .find(|document| document.kind() == "Certificate" && document.name() == service)
                .expect("a certificate");
            let names = certificate.value["spec"]["dnsNames"].as_array().expect("names");
            assert!(known.iter().all(|host| names.iter().any(|name| name == host)), "{service}: {names:?}");
        }
    }
}

#[test]
fn nothing_secret_is_in_the_manifests() {
    for document in documents("") {
        assert_ne!(document.kind(), "Secret", "{}", document.file.display());
    }
    let is_secret = |name: &str| {
        ["SECRET", "TOKEN", "PASSWORD", "KEY"].iter().any(|part| name.contains(part))
            && !name.ends_with("_FILE")
            && !name.ends_with("_SECONDS")
    };
    for folder in FOLDERS {
        for process in PROCESSES {
            for name in env_file(folder, process).into_keys() {
                assert!(!is_secret(&name), "{folder}/{process}.env: {name}");
            }
        }
    }
    for document in documents("") {
        for container in document.containers() {
            for (name, value) in container.given() {
                assert!(value.is_none() || !is_secret(name), "{}: {name}", document.file.display());
            }
        }
    }
}
