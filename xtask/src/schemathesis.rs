//! Whether the platform does what its document says, for everybody who may ask it: Schemathesis makes up requests out of
//! `/openapi.json`, good and bad ones, and looks at the answers.

use std::path::Path;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::Outcome;
use crate::http::send;
use crate::process::{Process, unless_interrupted};
use crate::tools::python_tool;
use crate::up::{facts, with_platform};
use crate::workspace::{random_hex, root, target};

const VERSION: &str = "4.32.5";

#[derive(clap::Args)]
pub struct Options {
    /// Only these runs: administrator, user, key
    #[arg(value_parser = ["administrator", "user", "key"])]
    callers: Vec<String>,
    /// Begins from this number, as a run that failed has said, instead of another one each time
    #[arg(long)]
    seed: Option<String>,
}

/// `cargo xtask schemathesis`
pub async fn run(options: Options) -> Outcome {
    let program = unless_interrupted(python_tool("schemathesis", VERSION)).await?;
    if facts()?.is_some() {
        return unless_interrupted(all(&program, &options)).await;
    }
    println!("No `cargo xtask up` is running: starting the platform for the runs.");
    with_platform(async || all(&program, &options).await).await
}

/// Each run to its end, so that one that fails hides no other.
async fn all(program: &Path, options: &Options) -> Outcome {
    let facts = facts()?.ok_or("target/up.env is missing")?;
    let mut failed = Vec::new();
    for caller in ["administrator", "user", "key"] {
        if options.callers.is_empty() || options.callers.iter().any(|wanted| wanted == caller) {
            println!("\nAs {caller}:");
            if let Err(fault) = one(program, caller, &facts, options).await {
                failed.push(format!("{caller}: {fault}"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

async fn one(program: &Path, caller: &str, facts: &[(String, String)], options: &Options) -> Outcome {
    let edge = &facts.iter().find(|(name, _)| name == "EDGE").ok_or("target/up.env has no EDGE")?.1;
    let mut command = Command::new(program);
    command.args(["run", &format!("{edge}/openapi.json")]).current_dir(root()).envs(facts.iter().cloned());
    // What it remembers of one run must not change the next.
    command.env("HYPOTHESIS_STORAGE_DIRECTORY", target("schemathesis"));
    command.args(options.seed.iter().flat_map(|seed| ["--seed", seed]));
    match caller {
        "user" => {
            let account = Account::register(edge).await?;
            command.env("ADMIN_EMAIL", account.email).env("ADMIN_PASSWORD", account.password);
        }
        "key" => {
            let key = Account::register(edge).await?.key(edge).await?;
            command.args(["--header", &format!("Authorization: Bearer {key}")]);
        }
        _ => {}
    }
    let status = Process::start("schemathesis", &mut command)?.wait().await?;
    if status.success() { Ok(()) } else { Err(format!("schemathesis failed ({status})").into()) }
}

struct Account {
    email: String,
    password: String,
    token: String,
}

impl Account {
    async fn register(edge: &str) -> Outcome<Account> {
        let password = random_hex()?;
        let email = format!("schemathesis-{}@example.com", &password[..12]);
        let body = json!({ "email": email, "password": password, "client_id": "web" });
        let made = post(edge, "auth/register", None, &body).await?;
        Ok(Account { token: text(&made, "access_token")?, email, password })
    }

    async fn key(&self, edge: &str) -> Outcome<String> {
        let body = json!({ "name": "schemathesis" });
        text(&post(edge, "user/api-keys", Some(&self.token), &body).await?, "key")
    }
}

async fn post(edge: &str, path: &str, token: Option<&str>, body: &Value) -> Outcome<Value> {
    let answer = send(Method::POST, &format!("{edge}/api/v1/{path}"), token, Some(body)).await?;
    match answer.status {
        StatusCode::CREATED => Ok(answer.json()),
        status => Err(format!("POST {path}: {status} {}", answer.body).into()),
    }
}

fn text(answer: &Value, field: &str) -> Outcome<String> {
    answer[field].as_str().map(str::to_owned).ok_or_else(|| format!("an answer has no {field}").into())
}
