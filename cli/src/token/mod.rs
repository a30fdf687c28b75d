//! `persona token explain`: why a token or API key is let in or refused, here and now. It is shown to nobody but the edge
//! and the identity-svc that are given.

mod decoded;
mod route;
mod signature;

use std::io::Read;
use std::process::ExitCode;

use chassis::grpc::{self, InternalChannel};
use chrono::Utc;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::{UserInfo, ValidateTokenRequest};
use contract::{Failure, api_key};
use http::Method;
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::deployment::{Member, Source};
use crate::environment;
use crate::output::{Colour, Fault, Output, cell, paint};
use crate::report::{Check, Report};
use crate::rest::Rest;
use crate::{FINDING, Outcome};

use decoded::Decoded;

const LIVE: &str = "live claims";
const EDGE: &str = "edge";

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say why a token or API key is let in or refused
    Explain(Options),
}

#[derive(clap::Args)]
pub struct Options {
    /// The token, or `-` for stdin; PERSONA_TOKEN by default, which keeps it out of the list of processes
    token: Option<String>,
    #[command(flatten)]
    source: Source,
    /// A route that it is tried on, such as /api/v1/personas/instances
    #[arg(long, value_parser = route)]
    path: Option<String>,
    /// The method of that route; anything but GET is explained and not sent
    #[arg(long, default_value = "GET", value_parser = method)]
    method: Method,
}

/// Without a slash in front, a path would go on the name of the host, and the token to another.
fn route(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("must begin with /") }
}

fn method(text: &str) -> Result<Method, http::method::InvalidMethod> {
    text.to_uppercase().parse()
}

/// `persona token …`
pub async fn run(command: &Command, output: Output) -> Outcome {
    let Command::Explain(options) = command;
    let token = given(options.token.as_deref())?;
    let members = options.source.members()?;
    let mut explained = Explained { token, report: Report::default(), decoded: None };
    explained.look(&members).await;
    explained.ask_identity(&members).await;
    explained.ask_edge(options).await?;
    explained.show(options.path.is_some(), output)
}

/// The token, wherever it comes from.
fn given(argument: Option<&str>) -> Result<SecretString, Fault> {
    let text = match argument {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Fault::said)?;
            text
        }
        Some(token) => token.to_owned(),
        None => {
            let token = environment::token()?;
            let token = token
                .ok_or_else(|| Fault::Usage("give a token, - for stdin, or PERSONA_TOKEN".to_owned()))?;
            return Ok(token);
        }
    };
    let token = text.trim();
    Ok(token.strip_prefix("Bearer ").unwrap_or(token).to_owned().into())
}

struct Explained {
    token: SecretString,
    report: Report,
    /// None for an API key, and for what is no token.
    decoded: Option<Decoded>,
}

impl Explained {
    /// What can be seen without asking anybody but for the keys.
    async fn look(&mut self, members: &[Member]) {
        let token = self.token.expose_secret();
        if api_key::is_meant(token) {
            let check = if api_key::is_well_formed(token) {
                Check::ok("kind", format!("an API key that begins with {}", api_key::start(token)))
            } else {
                Check::fault(
                    "kind",
                    "looks like an API key, but its checksum is wrong",
                    "look whether it was copied whole",
                )
            };
            self.report.extend([check]);
            return;
        }
        match Decoded::of(token) {
            Err(check) => self.report.extend([check]),
            Ok(decoded) => {
                // Without settings of the platform nobody knows whom its tokens are for.
                let knowing = members.iter().find(|member| member.survey.secret("JWT_SECRET_KEY").is_some());
                let audience = knowing.map(|member| member.survey.text("JWT_AUDIENCE")).unwrap_or_default();
                self.report.extend(decoded.checks(audience, Utc::now()));
                let is_refused = self.report.has_findings(false);
                self.report.extend([signature::check(token, &decoded, members, is_refused).await]);
                self.decoded = Some(decoded);
            }
        }
    }

    async fn ask_identity(&mut self, members: &[Member]) {
        let Some(identity) = identity(members) else {
            let says = "INTERNAL_GRPC_TOKEN is not set here: identity-svc is not asked";
            self.report.extend([Check::skipped(LIVE, says)]);
            return;
        };
        let request = ValidateTokenRequest { access_token: self.token.expose_secret().to_owned() };
        let check = match AuthServiceClient::new(identity).validate_token(request).await {
            Ok(answer) => match answer.into_inner().user {
                Some(live) => self.accepted(&live),
                None => Check::skipped(LIVE, "what answers at IDENTITY_URL does not say whose it is"),
            },
            Err(status) => refused(LIVE, &Failure::from_status(status, "identity-svc")),
        };
        self.report.extend([check]);
    }

    /// What identity-svc says of the account, as it is by now.
    fn accepted(&self, live: &UserInfo) -> Check {
        let changed = self.decoded.as_ref().map(|decoded| decoded.changes(live)).unwrap_or_default();
        let says = if changed.is_empty() {
            format!("identity-svc accepts it: {}", described(live))
        } else {
            format!("identity-svc accepts it; since it was made: {changed}")
        };
        Check::ok(LIVE, says)
    }

    async fn ask_edge(&mut self, options: &Options) -> Result<(), Fault> {
        let rest = Rest::of(self.token.clone())?;
        let answer = match rest.ask(Method::POST, "/api/v1/auth/validate", None).await {
            Ok(answer) => answer,
            Err(fault) => {
                self.report.extend([Check::skipped(EDGE, format!("is not asked: {fault}"))]);
                return Ok(());
            }
        };
        let body = answer.json();
        self.report.extend([validated(rest.edge(), answer.status, &body)]);
        self.report.extend(route::rate(&answer));
        if let Some(path) = &options.path {
            let role = cell(&body["user"]["role"]);
            let caller = route::Caller { role, is_key: api_key::is_meant(self.token.expose_secret()) };
            self.report.extend(route::checks(&rest, &options.method, path, &caller).await);
        }
        Ok(())
    }

    fn show(self, asks_route: bool, output: Output) -> Outcome {
        let is_allowed = is_allowed(&self.report, asks_route);
        let decoded = self.decoded.as_ref().map_or(Value::Null, Decoded::described);
        let told = json!({ "allowed": is_allowed, "token": decoded, "checks": self.report.described() });
        output.show(&told, |_| {
            let verdict = match is_allowed {
                Some(true) => paint(Colour::Green, "let in"),
                Some(false) => paint(Colour::Red, "refused"),
                None => paint(Colour::Yellow, "not known: nobody answered who decides it"),
            };
            format!("{}\n{verdict}\n", self.report.lines())
        })?;
        Ok(if is_allowed == Some(true) { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
    }
}

/// Whether it is let in: nobody refuses it, and somebody who decides it said so; and of a route, who knows routes. None
/// when that is not known.
fn is_allowed(report: &Report, asks_route: bool) -> Option<bool> {
    if report.has_findings(false) {
        return Some(false);
    }
    let is_good = report.has_ok(LIVE) || report.has_ok(EDGE);
    let may_there = !asks_route || report.has_ok(route::ROUTE) || report.has_ok(route::ANSWER);
    (is_good && may_there).then_some(true)
}

/// What an edge says of a token.
fn validated(edge: &str, status: StatusCode, body: &Value) -> Check {
    let (user, error) = (&body["user"], &body["error"]);
    if status == StatusCode::OK && body["valid"] == true {
        let told = ["email", "role", "tier"].map(|name| cell(&user[name])).join(", ");
        return Check::ok(EDGE, format!("{edge} accepts it: {told}"));
    }
    let code = cell(&error["code"]);
    let says = format!("{status} {code} {}", cell(&error["message"]));
    if code.is_empty() || status.is_server_error() {
        return Check::skipped(EDGE, format!("{edge} cannot say: {}", says.trim_end()));
    }
    Check::fault(EDGE, format!("{edge} refuses it: {says}"), remedy(&code))
}

/// A channel to identity-svc with the token of the settings, if there is one.
fn identity(members: &[Member]) -> Option<InternalChannel> {
    let has_url = |member: &&Member| !member.survey.text("IDENTITY_URL").is_empty();
    let member = members.iter().find(has_url)?;
    let settings = member.read(grpc::Settings::read).ok()?;
    let replicas = member.survey.text("IDENTITY_URL").split(',').filter_map(|url| url.trim().parse().ok());
    let replicas: Vec<http::Uri> = replicas.collect();
    (!replicas.is_empty()).then(|| grpc::channel(&replicas, &settings))
}

fn described(user: &UserInfo) -> String {
    let permissions = user.permissions.join(",");
    format!("{}, role {}, tier {}, permissions [{permissions}]", user.email, user.role, user.tier)
}

/// What a service of ours answered instead of letting in.
fn refused(subject: &'static str, failure: &Failure) -> Check {
    let code = failure.code().name();
    if failure.http().is_server_error() {
        return Check::skipped(subject, format!("identity-svc cannot say: {failure}"));
    }
    Check::fault(subject, format!("identity-svc refuses it: {failure}"), remedy(code))
}

fn remedy(code: &str) -> &'static str {
    match code {
        "AUTH002" => "refresh it, or sign in again",
        "AUTH003" => "sign in again; an API key that was revoked is made anew",
        "AUTH004" => "ask an administrator for the role or permission",
        "RATE001" => "wait as long as the answer says, or move to a higher tier",
        "SUB002" => "delete something, or move to a higher tier",
        _ => "see the table of errors in README.md",
    }
}

#[cfg(test)]
mod tests {
    use crate::report::Status;

    use super::*;

    #[test]
    fn what_nobody_said_who_decides_it_is_not_known() {
        let ok = |subject| Check::ok(subject, "");
        let verdict = |checks: &[Check], asks_route| {
            let mut report = Report::default();
            report.extend(checks.iter().cloned());
            is_allowed(&report, asks_route)
        };
        let looked = [ok("kind"), ok("time"), ok(signature::SUBJECT), Check::skipped(EDGE, "")];
        assert_eq!(verdict(&looked, false), None);
        for decides in [EDGE, LIVE] {
            assert_eq!(verdict(&[ok(decides)], false), Some(true));
            assert_eq!(verdict(&[ok(decides), Check::skipped(route::ROUTE, "")], true), None);
            assert_eq!(verdict(&[ok(decides), ok(route::ROUTE)], true), Some(true));
        }
        assert_eq!(verdict(&[ok(LIVE), Check::fault(EDGE, "", "")], false), Some(false));
    }

    #[test]
    fn an_edge_refuses_by_a_code_and_accepts_by_saying_so() {
        let status =
            |status, body| validated("here", StatusCode::from_u16(status).expect("a status"), &body).status;
        let error = |code: &str| json!({ "error": { "code": code, "message": "no" } });
        assert_eq!(status(200, json!({ "valid": true, "user": {} })), Status::Ok);
        assert_eq!(status(401, error("AUTH003")), Status::Fault);
        for (code, body) in [(200, Value::Null), (200, json!({})), (503, error("GW001")), (404, Value::Null)]
        {
            assert_eq!(status(code, body), Status::Skipped, "{code}");
        }
    }

    #[test]
    fn a_path_cannot_name_another_host_and_a_method_may_be_written_small() {
        assert!(route(".example.com/x").is_err() && route("/x").is_ok());
        assert_eq!(method("get").ok(), Some(Method::GET));
    }
}
