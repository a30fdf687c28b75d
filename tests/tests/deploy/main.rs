//! What is deployed with the processes says what the processes are: manifests, dashboards, rules.

mod compose;
mod dashboards;
mod kubernetes;
mod manifests;
mod settings;
