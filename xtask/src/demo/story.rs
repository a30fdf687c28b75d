//! The steps of the story.

use std::future::Future;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::workflow;
use crate::http::{Answer, send};
use crate::terminal::{Colour, paint};
use crate::workspace::random_hex;
use crate::{Outcome, http};

/// What core-manager is told about the caller, and nothing else under such a name.
const IDENTITY_HEADERS: [&str; 6] =
    ["X-User-ID", "X-Client-ID", "X-User-Role", "X-User-Tier", "X-User-Email", "X-User-Permissions"];

/// Longest wait for a change to bind.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Story {
    edge: String,
    administrator: Value,
    email: String,
    password: String,
}

impl Story {
    /// A story with a new account.
    pub fn new(edge: &str, admin_email: &str, admin_password: &str) -> Outcome<Self> {
        let unique = random_hex()?;
        Ok(Story {
            edge: edge.to_owned(),
            administrator: json!({"email": admin_email, "password": admin_password}),
            email: format!("demo-{}@example.com", &unique[..12]),
            password: unique,
        })
    }

    pub async fn tell(&self) -> Outcome {
        let started = Instant::now();
        println!("\nThe edge is {}.\n", self.edge);
        let (email, password) = (&self.email, &self.password);
        let account = json!({"email": email, "password": password, "client_id": "demo"});
        act(&format!("register {email}"), self.post("auth/register", None, &account, StatusCode::CREATED))
            .await?;

        let credentials = json!({"email": email, "password": password});
        let signed_in = act("sign in", self.post("auth/login", None, &credentials, StatusCode::OK)).await?;
        let token = text(&signed_in, "/access_token")?;
        let project = json!({"name": "First project", "description": "made by the demo"});
        let project =
            act("create a project", self.post("projects", Some(token), &project, StatusCode::CREATED))
                .await?;

        let instance = self.make_persona(token).await?;
        let start = workflow::Start { project: text(&project, "/id")?, instance: &instance };
        let mut socket = workflow::run(&self.edge, token, &start).await?;

        self.upgrade(text(&signed_in, "/user/id")?).await?;
        let path = format!("personas/instances/{instance}?echo=1");
        let seen = self.until(token, &path, |answer| tier_of(&answer.json()).as_deref() == Some("premium"));
        act("the token issued before carries the new tier", seen).await?;
        act("the open socket is told", workflow::told_of_tier(&mut socket, "premium")).await?;

        let nothing = json!({});
        act("sign out", self.post("auth/logout", Some(token), &nothing, StatusCode::OK)).await?;
        act("the open socket is closed (4403)", workflow::closed_by_logout(&mut socket)).await?;
        let refused =
            self.until(token, "personas/instances", |answer| answer.json()["error"]["code"] == "AUTH003");
        act("the same token is refused (AUTH003)", refused).await?;
        println!("\n{}", paint(Colour::Green, &format!("Told in {:.1} s.", started.elapsed().as_secs_f64())));
        Ok(())
    }

    async fn upgrade(&self, user_id: &str) -> Outcome {
        let signed_in = self.post("auth/login", None, &self.administrator, StatusCode::OK).await?;
        let url = format!("{}/api/v1/admin/subscriptions/{user_id}", self.edge);
        let upgraded = async {
            let tier = json!({"tier": "premium"});
            let answer =
                send(Method::PUT, &url, Some(text(&signed_in, "/access_token")?), Some(&tier)).await?;
            expect(&answer, StatusCode::OK).map_err(|e| format!("PUT {url}: {e}").into())
        };
        act("upgrade to premium, as administrator", upgraded).await
    }

    /// Reads until the answer is as it is to be.
    async fn until(&self, token: &str, path: &str, is_so: impl Fn(&Answer) -> bool) -> Outcome {
        let url = format!("{}/api/v1/{path}", self.edge);
        let started = Instant::now();
        loop {
            let answer = send(Method::GET, &url, Some(token), None).await?;
            if is_so(&answer) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("GET {url}: still {}: {}", answer.status, answer.body).into());
            }
        }
    }

    /// A template as administrator, and an instance of it as the user, both through the gateway.
    async fn make_persona(&self, token: &str) -> Outcome<String> {
        let signed_in = self.post("auth/login", None, &self.administrator, StatusCode::OK);
        let signed_in = act("sign in as administrator", signed_in).await?;
        let template = json!({"name": "Storyteller", "description": "tells stories"});
        let template =
            self.post("templates", Some(text(&signed_in, "/access_token")?), &template, StatusCode::CREATED);
        let template = act("create a template, through the gateway", template).await?;

        let instance = json!({"name": "My storyteller", "template_id": text(&template, "/id")?});
        let instance = self.post("personas/instances?echo=1", Some(token), &instance, StatusCode::CREATED);
        let instance = act("create a persona instance, through the gateway", instance).await?;
        show_identity(&instance)?;
        Ok(text(&instance, "/id")?.to_owned())
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
        expected: StatusCode,
    ) -> Outcome<Value> {
        let url = format!("{}/api/v1/{path}", self.edge);
        let answer = send(Method::POST, &url, token, Some(body)).await?;
        expect(&answer, expected).map_err(|e| format!("POST {url}: {e}"))?;
        Ok(answer.json())
    }
}

fn expect(answer: &http::Answer, expected: StatusCode) -> Outcome {
    let Answer { status, body } = answer;
    if *status == expected { Ok(()) } else { Err(format!("{status} instead of {expected}:\n{body}").into()) }
}

/// Shows which headers core-manager got, and fails unless they are exactly ours.
fn show_identity(instance: &Value) -> Outcome {
    let echoed = instance
        .pointer("/echo/headers")
        .ok_or_else(|| format!("the answer has no echo.headers: {instance}"))?;
    let mut got: Vec<(String, &str)> = headers(echoed);
    got.retain(|(name, _)| name.starts_with("x-user-") || name.starts_with("x-client-"));
    let mut ours = IDENTITY_HEADERS.map(str::to_ascii_lowercase);
    ours.sort_unstable();
    got.sort_unstable();
    if !got.iter().map(|(name, _)| name).eq(&ours) {
        return Err(
            format!("core-manager got other identity headers than {IDENTITY_HEADERS:?}: {echoed}").into()
        );
    }
    for name in IDENTITY_HEADERS {
        let value = got.iter().find(|(got, _)| got.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value);
        show(name, value);
    }
    Ok(())
}

/// The tier that core-manager was told.
fn tier_of(instance: &Value) -> Option<String> {
    let all = headers(instance.pointer("/echo/headers")?);
    all.into_iter().find(|(name, _)| name == "x-user-tier").map(|(_, value)| value.to_owned())
}

/// Names in lower case and values, from an object of strings.
fn headers(echoed: &Value) -> Vec<(String, &str)> {
    let pairs = echoed.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap_or_default())).collect()
}

/// Does a step and says how many milliseconds it took.
pub async fn act<T>(what: &str, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let started = Instant::now();
    let outcome = work.await;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    match &outcome {
        Ok(_) => println!("{} {what:<52} {took:>8.1} ms", paint(Colour::Green, "✓")),
        Err(_) => println!("{} {what:<52} {took:>8.1} ms", paint(Colour::Red, "✗")),
    }
    outcome
}

fn show(name: &str, value: &str) {
    println!("    {name:<20} {value}");
}

fn text<'a>(value: &'a Value, pointer: &str) -> Outcome<&'a str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| format!("the answer has no {pointer}: {value}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(names: &[&str]) -> Value {
        let headers: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), json!("v"))).collect();
        json!({"echo": {"headers": headers}})
    }

    #[test]
    fn exactly_our_six_headers_are_accepted() {
        let mut names = IDENTITY_HEADERS.to_vec();
        names.extend(["host", "x-request-id"]);
        assert!(show_identity(&echo(&names)).is_ok());
        assert!(show_identity(&echo(&names[1..])).is_err(), "one is missing");
        names.push("x-user-name");
        assert!(show_identity(&echo(&names)).is_err(), "one too many");
    }
}
