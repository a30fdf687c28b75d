//! `persona token explain`: why a token or API key is let in or refused, here and now. It is shown to nobody but the edge
//! and the identity-svc that are given.

mod decoded;
mod route;

use std::io::Read;
use std::process::ExitCode;

use chassis::grpc::{self, InternalChannel};
use chassis::settings::token_secrets;
use chrono::Utc;
use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::{UserInfo, ValidateTokenRequest};
use contract::token::{Verifier, VerifyingKey, key_set};
use contract::{Failure, api_key};
use http::Method;
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::deployment::{Member, Source};
use crate::doctor::known_keys;
use crate::output::{Colour, Fault, Output, cell, paint};
use crate::report::{Check, Report};
use crate::rest::{self, Rest};
use crate::{FINDING, Outcome};

use decoded::Decoded;

const LIVE: &str = "live claims";

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
    #[arg(long)]
    path: Option<String>,
    /// The method of that route; anything but GET is explained and not sent
    #[arg(long, default_value = "GET")]
    method: Method,
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
    explained.show(output)
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
            let token = rest::token()?;
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
                self.report.extend([signature(token, &decoded, members).await]);
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
            Ok(answer) => self.accepted(answer.into_inner().user.unwrap_or_default()),
            Err(status) => refused(LIVE, &Failure::from_status(status, "identity-svc")),
        };
        self.report.extend([check]);
    }

    /// What identity-svc says of the account, as it is by now.
    fn accepted(&self, live: UserInfo) -> Check {
        let changed = self.decoded.as_ref().map(|decoded| decoded.changes(&live)).unwrap_or_default();
        let says = if changed.is_empty() {
            format!("identity-svc accepts it: {}", described(&live))
        } else {
            format!("identity-svc accepts it; since it was made: {changed}")
        };
        Check::ok(LIVE, says)
    }

    async fn ask_edge(&mut self, options: &Options) -> Result<(), Fault> {
        let rest = Rest::of(Some(self.token.clone()))?;
        let answer = match rest.ask(Method::POST, "/api/v1/auth/validate", None).await {
            Ok(answer) => answer,
            Err(fault) => {
                self.report.extend([Check::skipped("edge", format!("is not asked: {fault}"))]);
                return Ok(());
            }
        };
        let body = answer.json();
        let check = if answer.status == StatusCode::OK {
            let user = &body["user"];
            let told = ["email", "role", "tier"].map(|name| cell(&user[name])).join(", ");
            Check::ok("edge", format!("{} accepts it: {told}", rest.edge()))
        } else {
            let error = &body["error"];
            let says = format!(
                "{} refuses it: {} {} {}",
                rest.edge(),
                answer.status,
                cell(&error["code"]),
                cell(&error["message"])
            );
            Check::fault("edge", says, remedy(&cell(&error["code"])))
        };
        self.report.extend([check]);
        self.report.extend(route::rate(&answer));
        if let Some(path) = &options.path {
            let role = cell(&body["user"]["role"]);
            let caller = route::Caller { role, is_key: api_key::is_meant(self.token.expose_secret()) };
            self.report.extend(route::checks(&rest, &options.method, path, &caller).await);
        }
        Ok(())
    }

    fn show(self, output: Output) -> Outcome {
        let is_allowed = !self.report.has_findings(false);
        let decoded = self.decoded.as_ref().map_or(Value::Null, Decoded::described);
        let told = json!({ "allowed": is_allowed, "token": decoded, "checks": self.report.described() });
        output.show(&told, |_| {
            let verdict =
                if is_allowed { paint(Colour::Green, "let in") } else { paint(Colour::Red, "refused") };
            format!("{}\n{verdict}\n", self.report.lines())
        })?;
        Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
    }
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

/// Whether it was signed with a key that is good here: one that identity-svc names, or that follows from the settings.
async fn signature(token: &str, decoded: &Decoded, members: &[Member]) -> Check {
    const SUBJECT: &str = "signature";
    let secrets = members.iter().find_map(|member| {
        let has_key = member.survey.secret("JWT_SECRET_KEY").is_some() && !member.survey.is_faulty("JWT_");
        has_key.then(|| member.read(token_secrets).ok())?
    });
    let Some(secrets) = secrets else {
        return Check::skipped(SUBJECT, "JWT_SECRET_KEY is not set here");
    };
    let named = match identity(members) {
        Some(identity) => known_keys(identity).await,
        None => None,
    };
    let keys = match named {
        Some(named) => key_set(&named.keys, &secrets).ok(),
        None => decoded.key_id().map(|kid| {
            let of = |secret| match kid {
                "" => VerifyingKey::hs256(secret),
                kid => VerifyingKey::derived(secret, kid),
            };
            secrets.iter().map(of).collect()
        }),
    };
    let Some(keys) = keys else {
        return Check::skipped(SUBJECT, "identity-svc, which knows the public keys, is not asked");
    };
    match Verifier::new(keys, decoded.audience()).verify(token, decoded.signed_at()) {
        Err(contract::token::TokenFault::Invalid) => {
            let says = "not made with a key that is good here (AUTH003)";
            Check::fault(
                SUBJECT,
                says,
                "sign in at this platform; or set the JWT_SECRET_KEY of the one that it is of",
            )
        }
        Ok(_) | Err(contract::token::TokenFault::Expired) => {
            Check::ok(SUBJECT, "made with a key that is good here")
        }
    }
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
