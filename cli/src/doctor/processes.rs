//! Whether the processes run, are ready, and let each other in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use chassis::grpc::{self, InternalChannel};
use chassis::settings::without_passwords;
use http::{StatusCode, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::clocks::Clock;
use super::door::{Door, knock};
use super::hearsay::Told;
use crate::deployment::{Member, Process};
use crate::http::{Http, Silence, root_cause};
use crate::report::{Check, names};

use Process::{Edge, IdentitySvc, SubscriptionSvc};

/// How long a process may take to answer.
pub const LIMIT: Duration = Duration::from_secs(4);
const CORE_MANAGER: &str = "core-manager";
const TOKEN: &str = "internal token";

/// What came of looking.
#[derive(Default)]
pub struct Look {
    pub checks: Vec<Check>,
    pub clocks: Vec<Clock>,
    pub reached: Reached,
    pub told: Vec<Told>,
    /// Services of which a replica does not answer.
    away: Vec<Process>,
    /// Services that refuse the internal token, and how many let us in.
    refusing: Vec<&'static str>,
    admitting: Vec<&'static str>,
}

/// What can be asked further.
#[derive(Default)]
pub struct Reached {
    pub identity: Vec<InternalChannel>,
    /// The URL of the public listener.
    pub edge: Option<String>,
}

/// Looks at all of them; `at` says where the listeners of a process are, if not here.
pub async fn look<'a>(members: &[Member], http: &Http, at: impl Fn(Process) -> Option<&'a str>) -> Look {
    let mut look = Look::default();
    for service in [IdentitySvc, SubscriptionSvc] {
        look.service(service, members, at(service)).await;
    }
    look.token();
    for member in members {
        look.listeners(member, http, at(member.process)).await;
    }
    if let Some(edge) = members.iter().find(|member| member.process == Edge) {
        look.checks.push(core_manager(edge, http).await);
    }
    look
}

impl Look {
    /// Each replica that others are told of, or else the one that the settings of the service itself are of.
    async fn service(&mut self, service: Process, members: &[Member], host: Option<&str>) {
        let (url, listen) = match service {
            IdentitySvc => ("IDENTITY_URL", "IDENTITY_LISTEN"),
            _ => ("SUBSCRIPTION_URL", "SUBSCRIPTION_LISTEN"),
        };
        let mut places: BTreeMap<String, &Member> = BTreeMap::new();
        for member in members.iter().filter(|member| !member.survey.is_faulty(url)) {
            let replicas =
                member.survey.text(url).split(',').map(str::trim).filter(|place| !place.is_empty());
            places.extend(replicas.map(|place| (place.to_owned(), member)));
        }
        let own = members.iter().find(|member| member.process == service);
        if let Some(member) = own.filter(|_| places.is_empty()) {
            let scheme = if member.survey.text("GRPC_TLS_CERT").is_empty() { "http" } else { "https" };
            places.extend(
                reachable(member.survey.text(listen), host).map(|at| (format!("{scheme}://{at}"), member)),
            );
        }
        for (place, member) in places {
            self.replica(service, &place, member).await;
        }
    }

    async fn replica(&mut self, service: Process, place: &str, member: &Member) {
        let parsed = (place.parse::<Uri>(), member.read(grpc::Settings::read));
        let place = without_passwords(place);
        let (Ok(uri), Ok(settings)) = parsed else {
            let says = format!("{place}: needs the settings that are named above");
            self.checks.push(Check::skipped(service.name(), says));
            return;
        };
        let channel = grpc::channel(&[uri], &settings);
        let mut health = HealthClient::new(channel.clone());
        let trouble = match tokio::time::timeout(LIMIT, health.check(HealthCheckRequest::default())).await {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => None,
            Ok(Ok(_)) => Some("is starting or ending".to_owned()),
            Ok(Err(status)) => Some(format!("does not answer: {}", root_cause(&status))),
            Err(_) => Some(format!("does not answer within {} s", LIMIT.as_secs())),
        };
        if let Some(trouble) = trouble {
            self.away.push(service);
            let remedy = format!("start {service}, or look at its log; or correct where it is said to be");
            self.checks.push(Check::fault(service.name(), format!("{place} {trouble}"), remedy));
            return;
        }
        match knock(service, channel.clone()).await {
            Door::Refuses => {
                self.checks.push(Check::ok(service.name(), format!("{place} serves")));
                self.refusing.push(service.name());
            }
            Door::Admits => {
                self.checks.push(Check::ok(service.name(), format!("{place} serves")));
                self.admitting.push(service.name());
                if service == IdentitySvc {
                    self.reached.identity.push(channel);
                }
            }
            Door::IsAnothers => {
                let remedy = format!("correct where {service} is said to be, here and in those that call it");
                let says = format!("{place}: another service listens there");
                self.checks.push(Check::fault(service.name(), says, remedy));
            }
            Door::Says(what) => {
                let says = format!("{place} serves, and cannot answer a call: {what}");
                self.checks.push(Check::fault(service.name(), says, format!("look at the log of {service}")));
            }
        }
    }

    /// One line for all services: the token is the same for all.
    fn token(&mut self) {
        self.refusing.dedup();
        self.admitting.dedup();
        let check = if !self.refusing.is_empty() {
            let says = format!("INTERNAL_GRPC_TOKEN is refused by {}", names(&self.refusing));
            Check::fault(
                TOKEN,
                says,
                "set INTERNAL_GRPC_TOKEN to the same in all processes, and restart those that have another",
            )
        } else if !self.admitting.is_empty() {
            Check::ok(TOKEN, format!("accepted by {}", names(&self.admitting)))
        } else {
            Check::skipped(TOKEN, "no service answers that could be asked")
        };
        self.checks.push(check);
    }

    /// The internal listener of a process, and the public one of an edge.
    async fn listeners(&mut self, member: &Member, http: &Http, host: Option<&str>) {
        let process = member.process;
        let name = match process {
            Edge => "EDGE_INTERNAL_LISTEN",
            IdentitySvc => "IDENTITY_INTERNAL_LISTEN",
            SubscriptionSvc => "SUBSCRIPTION_INTERNAL_LISTEN",
        };
        let Some(place) = reachable(member.survey.text(name), host) else {
            self.checks.push(Check::skipped(process.name(), "needs the settings that are named above"));
            return;
        };
        let url = format!("http://{place}");
        let (asked, since) = (SystemTime::now(), Instant::now());
        let ready = match http.get(&format!("{url}/readyz"), LIMIT).await {
            Ok(answer) => answer,
            Err(fault) => {
                self.checks.push(self.unreachable(process, name, &url, &fault));
                return;
            }
        };
        self.clocks.extend(Clock::of_answer(process.name(), ready.header("date"), asked, since.elapsed()));
        if ready.status != StatusCode::OK {
            let why = String::from_utf8_lossy(&ready.body);
            let says = format!("internal listener {url} says that it is not ready: {why}");
            let remedy = format!("look at what the log of {process} waits for");
            self.checks.push(Check::fault(process.name(), says, remedy));
            return;
        }
        let health = Told::asked(process, format!("{url}/internal/health"), http).await;
        self.checks.push(Check::ok(process.name(), format!("internal listener {url} is ready")));
        self.told.extend(health);
        if process == Edge {
            self.public(member, http, host).await;
        }
    }

    /// A service that was found to be away is not named twice.
    fn unreachable(&self, process: Process, setting: &str, url: &str, fault: &Silence) -> Check {
        if self.away.contains(&process) {
            return Check::skipped(process.name(), format!("internal listener {url}: it does not run"));
        }
        let remedy = format!("start {process}, or correct {setting}; --at {process}=HOST if it is elsewhere");
        let says = format!("internal listener {url} does not answer: {fault}");
        Check::fault(process.name(), says, remedy)
    }

    async fn public(&mut self, edge: &Member, http: &Http, host: Option<&str>) {
        let Some(place) = reachable(edge.survey.text("EDGE_LISTEN"), host) else {
            self.checks.push(Check::skipped(Edge.name(), "needs the settings that are named above"));
            return;
        };
        let url = format!("http://{place}");
        let answer = http.get(&format!("{url}/health"), LIMIT).await;
        let check = match answer {
            Ok(answer) if answer.status == StatusCode::OK && answer.json()["service"] != "auth-service" => {
                Check::fault(
                    Edge.name(),
                    format!("{url}: another server listens there"),
                    "correct EDGE_LISTEN, or --at edge=HOST",
                )
            }
            Ok(answer) if answer.status == StatusCode::OK => {
                let version = answer.json()["version"].as_str().unwrap_or_default().to_owned();
                self.reached.edge = Some(url.clone());
                if version == chassis::VERSION {
                    Check::ok(Edge.name(), format!("{url} serves, version {version}"))
                } else {
                    let says = format!("{url} is of version {version}, this program of {}", chassis::VERSION);
                    Check::warning(Edge.name(), says, "use a `persona` of the version of the platform")
                }
            }
            Ok(answer) => Check::fault(
                Edge.name(),
                format!("{url} answers {}", answer.status),
                "look at what listens there; correct EDGE_LISTEN",
            ),
            Err(fault) => {
                let says = format!("{url} does not answer: {fault}");
                Check::fault(Edge.name(), says, "correct EDGE_LISTEN, or what stands between")
            }
        };
        self.checks.push(check);
    }
}

async fn core_manager(edge: &Member, http: &Http) -> Check {
    if edge.survey.is_faulty("CORE_MANAGER_URL") {
        return Check::skipped(CORE_MANAGER, "needs the settings that are named above");
    }
    let url = edge.survey.text("CORE_MANAGER_URL").trim_end_matches('/');
    let shown = without_passwords(url);
    match http.get(&format!("{url}/health"), LIMIT).await {
        Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
            Check::fault(CORE_MANAGER, format!("{shown} says that it is not well (503)"), "look at its log")
        }
        Ok(answer) if answer.status.is_server_error() => Check::warning(
            CORE_MANAGER,
            format!("{shown} answers /health with {}", answer.status),
            "look at its log",
        ),
        Ok(_) => Check::ok(CORE_MANAGER, format!("{shown} answers")),
        Err(fault) => {
            let says = format!("{shown} does not answer: {fault}");
            Check::fault(CORE_MANAGER, says, "start it, or set CORE_MANAGER_URL to where it is")
        }
    }
}

/// Where a listener is reached: at the host, or on this machine.
fn reachable(listen: &str, host: Option<&str>) -> Option<String> {
    let listen: SocketAddr = listen.parse().ok()?;
    let here = if listen.is_ipv6() { "[::1]".to_owned() } else { "127.0.0.1".to_owned() };
    let own = SocketAddr::new(listen.ip(), 0).to_string();
    let own = own.trim_end_matches(":0");
    let host = host.unwrap_or(if listen.ip().is_unspecified() { &here } else { own });
    Some(format!("{host}:{}", listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reached_here_or_where_it_is_said_to_be() {
        for (listen, host, place) in [
            ("0.0.0.0:8081", None, Some("127.0.0.1:8081")),
            ("[::]:8081", None, Some("[::1]:8081")),
            ("[::1]:8081", None, Some("[::1]:8081")),
            ("10.0.0.1:1", None, Some("10.0.0.1:1")),
            ("0.0.0.0:8081", Some("edge.example.com"), Some("edge.example.com:8081")),
            ("nowhere", None, None),
        ] {
            assert_eq!(reachable(listen, host).as_deref(), place, "{listen}");
        }
    }
}
