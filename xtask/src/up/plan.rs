//! What is started, where it listens, and with which settings. What stands in the environment wins.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::database::{Account, Services};
use crate::workspace::{kept_secret, setting};
use crate::{Outcome, certs};

/// A process to start.
#[derive(Clone)]
pub struct Unit {
    /// What its log lines begin with.
    pub name: String,
    pub program: &'static str,
    pub public: SocketAddr,
    /// The same as `public` for the stub.
    pub internal: SocketAddr,
    /// The URL that answers 200 when it is ready.
    pub ready: String,
    /// What it is told besides what it inherits from our environment.
    pub settings: Vec<(&'static str, String)>,
}

/// Everything that `up` starts on top of the database.
pub struct Plan {
    /// None when CORE_MANAGER_URL names a real one.
    pub stub: Option<Unit>,
    /// None when MAIL_SMTP_URL names a real mail server.
    pub mail_catcher: Option<Unit>,
    pub identity: Vec<Unit>,
    pub subscription: Vec<Unit>,
    pub edge: Vec<Unit>,
    pub core_manager: String,
    pub jwt_secret: String,
    pub internal_token: String,
}

impl Plan {
    /// Gives each process a certificate, and has it call the others with TLS.
    pub fn secure(&mut self) -> Outcome {
        let folder = certs::folder();
        certs::issue(&folder, &[])?;
        for unit in self.identity.iter_mut().chain(&mut self.subscription).chain(&mut self.edge) {
            let urls = unit.settings.iter_mut().filter(|(name, _)| PLANES.contains(name));
            urls.for_each(|(_, urls)| *urls = urls.replace("http://", "https://"));
            unit.settings.extend(certs::settings(&folder, unit.program));
        }
        Ok(())
    }
}

/// The settings that say where the services are.
const PLANES: [&str; 2] = ["IDENTITY_URL", "SUBSCRIPTION_URL"];

/// Chooses addresses and settings.
pub fn plan(replicas: u16, services: &Services) -> Outcome<Plan> {
    let mut planner = Planner { replicas, taken: HashSet::new(), common: Vec::new() };
    let jwt_secret = planner.secret("JWT_SECRET_KEY")?;
    let internal_token = planner.secret("INTERNAL_GRPC_TOKEN")?;
    planner.default("LOG_FORMAT", || "text".to_owned())?;
    // On a developer's machine everybody comes from one address.
    let limits = [
        "LOGIN_FAILURES_PER_ADDRESS",
        "MAILS_PER_ADDRESS",
        "REGISTRATIONS_PER_ADDRESS",
        "PASSWORD_HASHES_PER_ADDRESS",
        "EDGE_PER_ADDRESS",
    ];
    for limit in limits {
        planner.default(limit, || "0".to_owned())?;
    }
    // The demo and load tests ask more often than a person does.
    planner.default("RATE_LIMITS", || "off".to_owned())?;

    let (stub, core_manager) = planner.core_manager()?;
    let mail_catcher = planner.mail_catcher()?;
    let identity = planner.units(&IDENTITY, |_| Ok(database(&services.identity)))?;
    planner.default("IDENTITY_URL", || urls(&identity))?;
    let subscription = planner.units(&SUBSCRIPTION, |_| Ok(database(&services.subscription)))?;
    planner.default("SUBSCRIPTION_URL", || urls(&subscription))?;
    planner.default("CORE_MANAGER_URL", || core_manager.clone())?;
    let edge = planner.units(&EDGE, |address| {
        // The last two are the console's, which a browser reaches under either name.
        let port = address.port();
        let origins =
            format!("http://localhost:3000,http://localhost:5173,http://{address},http://localhost:{port}");
        Ok(setting("ALLOWED_ORIGINS")?
            .is_none()
            .then_some(("ALLOWED_ORIGINS", origins))
            .into_iter()
            .collect())
    })?;
    Ok(Plan { stub, mail_catcher, identity, subscription, edge, core_manager, jwt_secret, internal_token })
}

/// A process with its two listeners: the variables that name them, and the ports of the contract.
struct Kind {
    program: &'static str,
    public: (&'static str, u16),
    internal: (&'static str, u16),
}

const IDENTITY: Kind = Kind {
    program: "identity-svc",
    public: ("IDENTITY_LISTEN", 50051),
    internal: ("IDENTITY_INTERNAL_LISTEN", 9051),
};

const SUBSCRIPTION: Kind = Kind {
    program: "subscription-svc",
    public: ("SUBSCRIPTION_LISTEN", 50052),
    internal: ("SUBSCRIPTION_INTERNAL_LISTEN", 9052),
};

const EDGE: Kind =
    Kind { program: "edge", public: ("EDGE_LISTEN", 8081), internal: ("EDGE_INTERNAL_LISTEN", 9081) };

const STUB: (&str, u16) = ("CORE_MANAGER_LISTEN", 8082);
const CATCHER: (&str, u16) = ("MAIL_CATCHER_LISTEN", 8025);
const CATCHER_SMTP: (&str, u16) = ("MAIL_CATCHER_SMTP_LISTEN", 1025);
/// Where a frontend under development is, mostly.
const FRONTEND: &str = "http://localhost:3000";

type Settings = Vec<(&'static str, String)>;

struct Planner {
    replicas: u16,
    taken: HashSet<SocketAddr>,
    /// What every process that is planned from now on is told.
    common: Settings,
}

impl Planner {
    /// A setting for all further processes, unless the environment, which they inherit, has it.
    fn default(&mut self, name: &'static str, value: impl FnOnce() -> String) -> Outcome<String> {
        if let Some(given) = setting(name)? {
            return Ok(given);
        }
        let value = value();
        self.common.push((name, value.clone()));
        Ok(value)
    }

    fn secret(&mut self, name: &'static str) -> Outcome<String> {
        let kept = kept_secret(name)?;
        self.default(name, || kept)
    }

    fn core_manager(&mut self) -> Outcome<(Option<Unit>, String)> {
        if let Some(url) = setting("CORE_MANAGER_URL")? {
            return Ok((None, url));
        }
        let listen = self.listen(STUB, 1)?;
        let address = reachable(listen);
        let mut settings = self.common.clone();
        settings.push((STUB.0, listen.to_string()));
        let unit = Unit {
            name: "core-manager-stub".to_owned(),
            program: "core-manager-stub",
            public: address,
            internal: address,
            ready: format!("http://{address}/health"),
            settings,
        };
        Ok((Some(unit), format!("http://{address}")))
    }

    /// Has mails go to the catcher, unless the environment names a mail server.
    fn mail_catcher(&mut self) -> Outcome<Option<Unit>> {
        if setting("MAIL_SMTP_URL")?.is_some() {
            return Ok(None);
        }
        let (web, smtp) = (self.listen(CATCHER, 1)?, self.listen(CATCHER_SMTP, 1)?);
        let address = reachable(web);
        let settings = vec![(CATCHER.0, web.to_string()), (CATCHER_SMTP.0, smtp.to_string())];
        self.default("MAIL_SMTP_URL", || format!("smtp://{}", reachable(smtp)))?;
        self.default("MAIL_FROM", || "AI Persona Platform <no-reply@persona.local>".to_owned())?;
        self.default("MAIL_VERIFY_LINK", || format!("{FRONTEND}/verify-email#token={{token}}"))?;
        self.default("MAIL_RESET_LINK", || format!("{FRONTEND}/reset-password#token={{token}}"))?;
        Ok(Some(Unit {
            name: "mail-catcher".to_owned(),
            program: "mail-catcher",
            public: address,
            internal: address,
            ready: format!("http://{address}/messages"),
            settings,
        }))
    }

    /// The replicas of one process; `more` gives each its own settings, knowing its public address.
    fn units(&mut self, kind: &Kind, more: impl Fn(SocketAddr) -> Outcome<Settings>) -> Outcome<Vec<Unit>> {
        (1..=self.replicas).map(|replica| self.unit(kind, replica, &more)).collect()
    }

    fn unit(
        &mut self,
        kind: &Kind,
        replica: u16,
        more: &impl Fn(SocketAddr) -> Outcome<Settings>,
    ) -> Outcome<Unit> {
        let public = self.listen(kind.public, replica)?;
        let internal = self.listen(kind.internal, replica)?;
        let mut settings = self.common.clone();
        settings.extend(more(reachable(public))?);
        settings.push((kind.public.0, public.to_string()));
        settings.push((kind.internal.0, internal.to_string()));
        Ok(Unit {
            name: if self.replicas == 1 {
                kind.program.to_owned()
            } else {
                format!("{}.{replica}", kind.program)
            },
            program: kind.program,
            public: reachable(public),
            internal: reachable(internal),
            ready: format!("http://{}/readyz", reachable(internal)),
            settings,
        })
    }

    /// For the first replica the address in the environment, or the port of the contract when it is free; any other
    /// port otherwise.
    fn listen(&mut self, (name, port): (&str, u16), replica: u16) -> Outcome<SocketAddr> {
        if let Some(given) = setting(name)?.filter(|_| replica == 1) {
            return given.parse().map_err(|e| format!("{name}: {given}: {e}").into());
        }
        loop {
            let wanted = if replica == 1 { port } else { 0 };
            let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
            let address = bind(wanted).or_else(|_| bind(0))?;
            if self.taken.insert(address) {
                return Ok(address);
            }
        }
    }
}

/// How a listener is reached from here.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    listen
}

fn urls(units: &[Unit]) -> String {
    let urls: Vec<_> = units.iter().map(|unit| format!("http://{}", unit.public)).collect();
    urls.join(",")
}

fn database(account: &Account) -> Settings {
    vec![
        ("AUTH_DB_HOST", account.host.clone()),
        ("AUTH_DB_PORT", account.port.to_string()),
        ("AUTH_DB_USER", account.user.clone()),
        ("AUTH_DB_PASSWORD", account.password.clone()),
        ("AUTH_DB_NAME", account.schema.clone()),
    ]
}
