use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use uuid::Uuid;

use crate::authority::{Authority, Certificates};
use crate::client::Client;
use crate::clocks::Clocks;
use crate::gate::Gate;
use crate::mail::Mail;
use crate::process::{Ended, Process};
use crate::socket::Socket;

/// The secrets of every sandbox.
pub const JWT_SECRET: &str = "an-e2e-signing-key-0123456789abcdef";
pub const INTERNAL_TOKEN: &str = "an-e2e-internal-token-0123456789abcdef";

/// A password that every rule admits.
const PASSWORD: &str = "correct horse battery";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a sandbox is made of.
#[derive(Clone, Default)]
pub struct Plan {
    /// How many of each process; nought means one.
    pub replicas: usize,
    /// Settings of all processes beyond the usual.
    pub settings: Vec<(&'static str, String)>,
    /// Mutual TLS on the internal plane with certificates of this authority.
    pub authority: Option<Arc<Authority>>,
    /// The settings name certificates of their own.
    pub has_certificates: bool,
    /// Whether mails are sent; without, none is.
    pub mail: bool,
    /// Whether the clocks of the processes can be set.
    pub clocks: bool,
    /// The URL of another database server than that of the environment.
    pub database: Option<String>,
}

/// A running platform.
pub struct Sandbox {
    /// The public listener of each edge.
    pub edges: Vec<Client>,
    /// The internal listener of each edge.
    pub internals: Vec<Client>,
    /// The internal listener of each identity-svc, as it was first started.
    pub identity_internals: Vec<Client>,
    /// The internal listener of each subscription-svc, as it was first started.
    pub subscription_internals: Vec<Client>,
    /// `host:port` of each identity-svc and subscription-svc.
    pub identity: Vec<String>,
    pub subscription: Vec<String>,
    pub edge_processes: Vec<Process>,
    pub identity_processes: Vec<Process>,
    pub subscription_processes: Vec<Process>,
    pub stub_process: Process,
    /// The stand-in for core-manager, without the gateway before it.
    pub stub: Client,
    /// The door to the database.
    pub database: Gate,
    /// The certificates of all processes, where an authority is planned.
    pub certificates: Certificates,
    /// The clocks of the services and edges, where they are planned.
    pub clocks: Option<Clocks>,
    mail: Option<Mail>,
    common: Vec<(&'static str, String)>,
    stub_address: String,
    schema: String,
    admin: MySqlConnectOptions,
}

/// An account with its tokens.
#[derive(Clone)]
pub struct User {
    pub id: String,
    pub email: String,
    pub password: &'static str,
    pub token: String,
    pub refresh_token: String,
}

impl User {
    /// The account that was given these tokens.
    pub fn of(tokens: &Value, email: String) -> User {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        User {
            id: text(&tokens["user"]["id"]),
            email,
            password: PASSWORD,
            token: text(&tokens["access_token"]),
            refresh_token: text(&tokens["refresh_token"]),
        }
    }
}

/// A port for a process to come. Below those that the system gives to connections, and none of them twice: one that
/// is merely free at the moment may be taken before the process listens.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    loop {
        // Two runs at once begin far from each other, as the numbers of their processes are near.
        let next = std::process::id().wrapping_mul(613).wrapping_add(TRIED.fetch_add(1, Relaxed));
        let port = PORTS.start + next % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A place for a listener to come.
pub fn local() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Sandbox {
    /// One of each process.
    pub async fn start() -> Sandbox {
        Sandbox::planned(Plan::default()).await
    }

    /// The platform as planned, ready.
    pub async fn planned(plan: Plan) -> Sandbox {
        let url = plan.database.clone().unwrap_or_else(|| {
            std::env::var("TEST_DATABASE_URL")
                .expect("TEST_DATABASE_URL is not set: run `cargo xtask test`, which starts a database")
        });
        let admin: MySqlConnectOptions = url.parse().expect("TEST_DATABASE_URL is a MySQL URL");
        let schema = format!("e2e_{}", Uuid::now_v7().simple());
        let mut connection = MySqlConnection::connect_with(&admin).await.expect("the test database");
        let create = format!("CREATE DATABASE {schema} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        connection.execute(AssertSqlSafe(create)).await.expect("a schema");

        let parts = http::Uri::try_from(&url).expect("a URL");
        let authority = parts.authority().expect("an authority").as_str().to_owned();
        let (credentials, place) = authority.rsplit_once('@').expect("credentials in TEST_DATABASE_URL");
        let (user, password) = credentials.split_once(':').expect("a password in TEST_DATABASE_URL");
        let database = Gate::to(place.to_owned());
        let count = plan.replicas.max(1);
        let identity: Vec<String> = (0..count).map(|_| local()).collect();
        let subscription: Vec<String> = (0..count).map(|_| local()).collect();
        let scheme = if plan.authority.is_some() || plan.has_certificates { "https" } else { "http" };
        let urls = |all: &[String]| {
            all.iter().map(|place| format!("{scheme}://{place}")).collect::<Vec<_>>().join(",")
        };
        let stub_address = local();
        let mut common = vec![
            ("AUTH_DB_HOST", "127.0.0.1".to_owned()),
            ("AUTH_DB_PORT", database.address().port().to_string()),
            ("AUTH_DB_USER", user.to_owned()),
            ("AUTH_DB_PASSWORD", password.to_owned()),
            ("AUTH_DB_NAME", schema.clone()),
            ("JWT_SECRET_KEY", JWT_SECRET.to_owned()),
            ("INTERNAL_GRPC_TOKEN", INTERNAL_TOKEN.to_owned()),
            ("IDENTITY_URL", urls(&identity)),
            ("SUBSCRIPTION_URL", urls(&subscription)),
            ("CORE_MANAGER_URL", format!("http://{stub_address}")),
            ("ALLOWED_ORIGINS", "https://app.example.com".to_owned()),
            // Tests are busier than people; those of the limits switch them on.
            ("RATE_LIMITS", "off".to_owned()),
            ("PASSWORD_HASHES_PER_ADDRESS", "0".to_owned()),
            ("GATEWAY_ROUTES", "GET+POST+PUT+PATCH+DELETE /api/v1/echo/{*rest} user".to_owned()),
        ];
        let mail = plan.mail.then(Mail::start);
        common.extend(mail.iter().flat_map(Mail::settings));
        common.extend(plan.settings);
        let certificates = Certificates::default();
        if let Some(authority) = &plan.authority {
            certificates.renew(authority, &[authority]);
            common.extend(certificates.settings());
        }
        let mut sandbox = Sandbox {
            edges: Vec::new(),
            internals: Vec::new(),
            identity_internals: Vec::new(),
            subscription_internals: Vec::new(),
            identity,
            subscription,
            edge_processes: Vec::new(),
            identity_processes: Vec::new(),
            subscription_processes: Vec::new(),
            stub_process: start_stub(&stub_address),
            stub: Client::new(format!("http://{stub_address}")),
            database,
            certificates,
            clocks: plan.clocks.then(Clocks::default),
            mail,
            common,
            stub_address,
            schema,
            admin,
        };
        sandbox.start_processes(count);
        sandbox.ready().await;
        sandbox
    }

    fn start_processes(&mut self, count: usize) {
        for place in 0..count {
            let client = || Client::new(format!("http://{}", local()));
            self.identity_internals.push(client());
            self.subscription_internals.push(client());
            self.edges.push(client());
            self.internals.push(client());
            self.identity_processes.push(self.identity_process(place));
            self.subscription_processes.push(self.subscription_process(place));
            self.edge_processes.push(self.edge_process(place));
        }
    }

    fn identity_process(&self, place: usize) -> Process {
        let internal = self.identity_internals[place].authority().to_owned();
        let own = [("IDENTITY_LISTEN", self.identity[place].clone()), ("IDENTITY_INTERNAL_LISTEN", internal)];
        self.process("identity-svc", place, &own)
    }

    fn subscription_process(&self, place: usize) -> Process {
        let public = self.subscription[place].clone();
        let internal = self.subscription_internals[place].authority().to_owned();
        let own = [("SUBSCRIPTION_LISTEN", public), ("SUBSCRIPTION_INTERNAL_LISTEN", internal)];
        self.process("subscription-svc", place, &own)
    }

    fn edge_process(&self, place: usize) -> Process {
        let [public, internal] =
            [&self.edges[place], &self.internals[place]].map(|client| client.authority().to_owned());
        self.process("edge", place, &[("EDGE_LISTEN", public), ("EDGE_INTERNAL_LISTEN", internal)])
    }

    fn process(&self, name: &'static str, place: usize, own: &[(&'static str, String)]) -> Process {
        let clock = self.clocks.as_ref().map(|clocks| clocks.settings(&format!("{name}-{place}")));
        let clock = clock.unwrap_or_default();
        let settings: Vec<(&str, String)> = self.common.iter().chain(own).chain(&clock).cloned().collect();
        Process::start(name, &settings)
    }

    /// Runs a command of identity-svc, with further settings, and gives what it printed.
    pub async fn identity_command(&self, more: &[(&'static str, &str)], arguments: &[&str]) -> String {
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let settings: Vec<_> = self.common.iter().cloned().chain(more).collect();
        Process::run("identity-svc", &settings, arguments).await
    }

    /// Runs a command of identity-svc that is to fail, and gives what it printed.
    pub async fn identity_command_fails(&self, arguments: &[&str]) -> String {
        Process::run_to_failure("identity-svc", &self.common, arguments).await
    }

    /// All settings of the first of each process, as one environment.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let listeners = [
            ("EDGE_LISTEN", self.edges[0].authority()),
            ("EDGE_INTERNAL_LISTEN", self.internals[0].authority()),
            ("IDENTITY_LISTEN", &self.identity[0]),
            ("IDENTITY_INTERNAL_LISTEN", self.identity_internals[0].authority()),
            ("SUBSCRIPTION_LISTEN", &self.subscription[0]),
            ("SUBSCRIPTION_INTERNAL_LISTEN", self.subscription_internals[0].authority()),
        ];
        let listeners = listeners.map(|(name, place)| (name, place.to_owned()));
        self.common.iter().cloned().chain(listeners).collect()
    }

    /// Runs `persona` on the first edge as somebody, or as nobody.
    pub async fn persona(&self, token: Option<&str>, arguments: &[&str], input: &str) -> Ended {
        let mut settings = vec![("PERSONA_EDGE", format!("http://{}", self.edge().authority()))];
        settings.extend(token.map(|token| ("PERSONA_TOKEN", token.to_owned())));
        Process::end("persona", &settings, arguments, input).await
    }

    /// Waits until every edge is ready and sees all that it depends on.
    pub async fn ready(&mut self) {
        for place in 0..self.internals.len() {
            let internal = self.internals[place].clone();
            until("an edge is ready", async || {
                let all = self.edge_processes.iter_mut().chain(&mut self.identity_processes);
                all.chain(&mut self.subscription_processes).for_each(Process::must_run);
                let get = |path| internal.try_send(http::Method::GET, path, None, &[], None);
                let ready = get("/readyz").await.is_some_and(|reply| reply.status.is_success());
                ready && get("/internal/health").await.is_some_and(|reply| reply.body["status"] == "healthy")
            })
            .await;
        }
    }

    /// The first edge.
    pub fn edge(&self) -> &Client {
        &self.edges[0]
    }

    /// The mail server, where mails are planned.
    pub fn mail(&self) -> &Mail {
        self.mail.as_ref().expect("`mail: true` in the plan")
    }

    /// Starts a replica of identity-svc again, at its old place, and waits until an edge is ready with it.
    pub async fn restart_identity(&mut self, place: usize) {
        self.identity_processes[place].kill();
        self.identity_processes[place] = self.identity_process(place);
        self.ready().await;
    }

    /// Ends every replica of identity-svc, as a crash would.
    pub fn stop_identity(&mut self) {
        self.identity_processes.iter_mut().for_each(Process::kill);
    }

    /// Starts every replica of identity-svc at its old place, after [`Sandbox::stop_identity`].
    pub async fn start_identity(&mut self) {
        for place in 0..self.identity_processes.len() {
            self.identity_processes[place] = self.identity_process(place);
        }
        self.ready().await;
    }

    /// Gives what is started from now on another setting.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.common.retain(|(known, _)| *known != name);
        self.common.push((name, value.into()));
    }

    /// Starts an edge again, at its old place, and waits until it is ready.
    pub async fn restart_edge(&mut self, place: usize) {
        self.edge_processes[place].kill();
        self.edge_processes[place] = self.edge_process(place);
        self.ready().await;
    }

    /// Starts a replica of subscription-svc again, at its old place, without waiting for it.
    pub fn restart_subscription(&mut self, place: usize) {
        self.subscription_processes[place].kill();
        self.subscription_processes[place] = self.subscription_process(place);
    }

    /// Stops a replica of subscription-svc where it stands.
    pub fn freeze_subscription(&self, place: usize) {
        self.subscription_processes[place].freeze();
    }

    /// Lets a frozen replica of subscription-svc go on.
    pub fn thaw_subscription(&self, place: usize) {
        self.subscription_processes[place].thaw();
    }

    /// Starts the stand-in for core-manager again, at its old place.
    pub fn restart_stub(&mut self) {
        self.stub_process.kill();
        self.stub_process = start_stub(&self.stub_address);
    }

    /// A new account of the client `web`.
    pub async fn register(&self) -> User {
        let email = format!("{}@example.com", Uuid::now_v7().simple());
        let body = json!({ "email": email, "password": PASSWORD, "client_id": "web" });
        let tokens = self.edge().open_post("/api/v1/auth/register", body).await.must_be(201);
        User::of(&tokens, email)
    }

    /// A new administrator.
    pub async fn administrator(&self) -> User {
        let user = self.register().await;
        let mut connection = self.connection().await;
        sqlx::query("UPDATE users SET role = 'admin' WHERE id = ?")
            .bind(&user.id)
            .execute(&mut connection)
            .await
            .expect("promoted");
        self.log_in(&user).await
    }

    /// The account with the tokens of a new session.
    pub async fn log_in(&self, user: &User) -> User {
        let body = json!({ "email": user.email, "password": user.password });
        let tokens = self.edge().open_post("/api/v1/auth/login", body).await.must_be(200);
        User::of(&tokens, user.email.clone())
    }

    /// A new project of the user.
    pub async fn project(&self, user: &User) -> String {
        let made = self
            .edge()
            .post("/api/v1/projects", &user.token, json!({ "name": "a project" }))
            .await
            .must_be(201);
        made["id"].as_str().expect("an id").to_owned()
    }

    /// The user's socket on the first edge.
    pub async fn socket(&self, user: &User) -> Socket {
        Socket::connect(self.edge().authority(), &user.token).await
    }

    /// A connection to the platform's own schema, past the door.
    pub async fn connection(&self) -> MySqlConnection {
        let options = self.admin.clone().database(&self.schema);
        MySqlConnection::connect_with(&options).await.expect("the test database")
    }

    /// A connection whose transaction holds the user's sessions: who refreshes or ends one waits for it.
    pub async fn holding_sessions_of(&self, user: &User) -> MySqlConnection {
        let mut connection = self.connection().await;
        connection.execute("BEGIN").await.expect("begun");
        sqlx::query("SELECT id FROM sessions WHERE user_id = ? FOR UPDATE")
            .bind(&user.id)
            .fetch_one(&mut connection)
            .await
            .expect("locked");
        connection
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.edge_processes.clear();
        self.subscription_processes.clear();
        self.identity_processes.clear();
        // Behind a door that a test froze, the server does not see them gone: what they hold in an open transaction
        // would keep the schema for the day that a lock is waited for.
        self.database.set_open(false);
        let (admin, schema) = (self.admin.clone(), self.schema.clone());
        // Dropping cannot wait for a future of the test's own runtime.
        let cleared = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut connection = MySqlConnection::connect_with(&admin).await?;
                connection.execute(AssertSqlSafe(format!("DROP DATABASE {schema}"))).await
            })
        });
        if let Ok(Err(error)) = cleared.join() {
            eprintln!("a test schema was left behind: {error}");
        }
    }
}

fn start_stub(address: &str) -> Process {
    Process::start("core-manager-stub", &[("CORE_MANAGER_LISTEN", address.to_owned())])
}

/// Waits for something that must come true.
pub async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_true().await {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
