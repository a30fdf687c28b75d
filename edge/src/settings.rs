//! Every setting of the edge.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use chassis::settings::Env;
use chassis::{drain, grpc, logs};
use http::Uri;

use crate::claims::{KeySettings, Staleness};
use crate::front::Origins;
use crate::gateway::{Route, Signer, UpstreamUrl};
use crate::rate::{Limits, Shared, SharedUrl};

pub struct Settings {
    pub listen: SocketAddr,
    pub internal_listen: SocketAddr,
    pub logs: logs::Settings,
    pub drain: drain::Settings,
    pub internal: grpc::Settings,
    pub identity: Vec<Uri>,
    pub subscription: Vec<Uri>,
    pub keys: KeySettings,
    /// What the edge is called in the audit log.
    pub name: String,
    pub staleness: Staleness,
    pub origins: Origins,
    pub rate: RateSettings,
    pub gateway: GatewaySettings,
    pub sockets: SocketSettings,
    pub front: FrontSettings,
    pub pages: Pages,
}

/// A name that identity-svc takes.
struct EdgeName(String);

impl FromStr for EdgeName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if contract::is_edge_name(text) {
            Ok(EdgeName(text.to_owned()))
        } else {
            Err(contract::EDGE_NAME_RULE)
        }
    }
}

/// What is there for people who look at it in a browser.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// `/console`.
    pub console: bool,
    /// `/openapi.json` and `/docs`.
    pub docs: bool,
}

/// How many requests users may send.
pub struct RateSettings {
    pub limits: Limits,
    redis: Option<SharedUrl>,
    redis_deadline: Duration,
}

/// How requests reach core-manager.
pub struct GatewaySettings {
    pub core_manager: UpstreamUrl,
    pub timeout: Duration,
    pub concurrency: usize,
    /// After how long a reserved place that nobody renews is free again.
    pub reservation_life: Duration,
    pub signer: Option<Signer>,
    pub pass_authorization: bool,
    pub extra_routes: Vec<Route>,
}

/// The public listener.
#[derive(Clone)]
pub struct FrontSettings {
    pub connections: usize,
    /// What one address may hold at once; nought is any number.
    pub per_address: usize,
    pub patience: Patience,
    /// Largest header list, in bytes.
    pub header_limit: usize,
    pub http2: Http2,
    pub json_limit: usize,
    pub import_limit: usize,
    pub trusted_hops: usize,
}

/// What a client of HTTP/2 may do on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Requests at once.
    pub streams: u32,
    /// Requests that it gives up, beyond those that it lets us answer.
    pub resets: u32,
}

/// How long a connection may be of no use.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the headers of a request have arrived.
    pub headers: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Until the next bytes of a body come, or of an answer are taken.
    pub stall: Duration,
}

/// Limits of a WebSocket.
#[derive(Clone)]
pub struct SocketSettings {
    pub heartbeat: Duration,
    pub pong_timeout: Duration,
    pub max_message_bytes: usize,
    pub messages_per_second: u32,
    pub per_user: usize,
    /// How long a socket outlives its token, for `auth.refresh` to come.
    pub expiry_grace: Duration,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        let internal = grpc::Settings::read(env);
        Settings {
            listen: env.value("EDGE_LISTEN", "0.0.0.0:8081", "Address of the public listener"),
            internal_listen: env.value(
                "EDGE_INTERNAL_LISTEN",
                "0.0.0.0:9081",
                "Address of the internal listener",
            ),
            logs: logs::Settings::read(env),
            drain: drain::Settings::read(env),
            identity: internal.replicas(
                env,
                "IDENTITY_URL",
                "http://127.0.0.1:50051",
                "identity-svc, one URL for each replica",
            ),
            subscription: internal.replicas(
                env,
                "SUBSCRIPTION_URL",
                "http://127.0.0.1:50052",
                "subscription-svc, one URL for each replica",
            ),
            keys: KeySettings {
                secrets: chassis::settings::token_secrets(env),
                audience: env.value("JWT_AUDIENCE", "persona-platform", "`aud` of access tokens"),
            },
            name: env
                .optional("EDGE_NAME", "What this edge is called in the audit log; made up by default")
                .unwrap_or_else(|| EdgeName(format!("edge {}", uuid::Uuid::now_v7())))
                .0,
            staleness: Staleness {
                limit: Duration::from_secs(env.number(
                    "LIVE_CLAIMS_STALE_SECONDS",
                    "10",
                    2..=3600,
                    "Seconds without a word from identity-svc after which it is asked for each request",
                )),
                grace: Duration::from_secs(env.number(
                    "LIVE_CLAIMS_GRACE_SECONDS",
                    "60",
                    0..=3600,
                    "Seconds after that in which reads go on when it does not answer either",
                )),
            },
            origins: Origins::new(env.list(
                "ALLOWED_ORIGINS",
                "",
                "Origins of browsers that may call, such as `https://app.example.com`; none by default",
            )),
            rate: RateSettings::read(env),
            gateway: GatewaySettings::read(env),
            sockets: SocketSettings::read(env),
            front: FrontSettings::read(env),
            pages: Pages::read(env),
            internal,
        }
    }
}

impl RateSettings {
    fn read(env: &mut Env) -> Self {
        let settings = RateSettings {
            limits: env.value(
                "RATE_LIMITS",
                Limits::DEFAULT,
                "Requests a minute of one user, by tier; `unlimited` for any number, `off` for no limits at all",
            ),
            redis: env.optional(
                "RATE_LIMIT_REDIS_URL",
                "Redis or Valkey in which all edges count together, such as `redis://:password@host:6379/0`; without \
                 it, each edge counts by itself",
            ),
            redis_deadline: Duration::from_millis(env.number(
                "RATE_LIMIT_REDIS_TIMEOUT_MS",
                "5",
                1..=1000,
                "Milliseconds that a request waits for it at most; after that the edge's own count decides",
            )),
        };
        env.conceal("RATE_LIMIT_REDIS_URL");
        settings
    }

    /// The connection to Redis, if there is to be one.
    ///
    /// # Errors
    /// When its URL cannot be used.
    pub fn shared(&self) -> Result<Option<Shared>, redis::RedisError> {
        self.redis.clone().map(|url| Shared::connect(url, self.redis_deadline)).transpose()
    }
}

impl Pages {
    fn read(env: &mut Env) -> Self {
        Pages {
            console: env.value(
                "EDGE_CONSOLE",
                "true",
                "Whether the console for developers and administrators is served at `/console` (`true` or `false`)",
            ),
            docs: env.value(
                "EDGE_DOCS",
                "true",
                "Whether `/openapi.json` and `/docs` are served (`true` or `false`)",
            ),
        }
    }
}

impl GatewaySettings {
    fn read(env: &mut Env) -> Self {
        let settings = GatewaySettings::each(env);
        if settings.reservation_life <= settings.timeout {
            env.fault("QUOTA_RESERVATION_SECONDS must be longer than GATEWAY_TIMEOUT_MS: a place would be free again while \
                       what it is for is being made");
        }
        settings
    }

    fn each(env: &mut Env) -> Self {
        GatewaySettings {
            core_manager: env.required(
                "CORE_MANAGER_URL",
                "http://127.0.0.1:8082",
                "The service behind the gateway",
            ),
            timeout: Duration::from_millis(env.number(
                "GATEWAY_TIMEOUT_MS",
                "30000",
                1..=600_000,
                "Milliseconds until core-manager must have begun its answer",
            )),
            concurrency: env.number(
                "GATEWAY_CONCURRENCY",
                "1024",
                1..=1_000_000,
                "Most requests that wait for core-manager at once, half of them of one user, and most of its answers that \
                 are under way",
            ) as usize,
            reservation_life: Duration::from_secs(env.number(
                "QUOTA_RESERVATION_SECONDS",
                "60",
                1..=3600,
                "Seconds after which a reserved place is free again when its outcome is not known, or its edge is \
                 gone; longer than the gateway's timeout",
            )),
            signer: signer(env),
            pass_authorization: env.value(
                "GATEWAY_PASS_AUTHORIZATION",
                "false",
                "Whether core-manager gets the `Authorization` header (`true` or `false`)",
            ),
            extra_routes: env.list(
                "GATEWAY_ROUTES",
                "",
                "Further routes, comma-separated, each `GET+POST /api/v1/things/{id} user` (or `admin`)",
            ),
        }
    }
}

fn signer(env: &mut Env) -> Option<Signer> {
    let secret = env.optional_secret(
        "GATEWAY_SIGNING_KEY",
        "The secret that requests to core-manager are signed with, for core-manager to know that they are ours; without \
         it they are not signed",
    );
    let id = env.value("GATEWAY_SIGNING_KEY_ID", "1", "What core-manager knows that secret by (`keyid`)");
    secret.map(|secret| Signer::new(id, &secret))
}

impl FrontSettings {
    fn read(env: &mut Env) -> Self {
        FrontSettings {
            connections: env.number(
                "EDGE_CONNECTIONS",
                "20000",
                1..=1_000_000,
                "Most connections to the public listener at once",
            ) as usize,
            per_address: env.number(
                "EDGE_PER_ADDRESS",
                "1000",
                0..=1_000_000,
                "Most connections of one address at once (of IPv6: of one /64); behind `TRUSTED_PROXY_HOPS` proxies, most \
                 requests and sockets of an address that they name; 0: any number",
            ) as usize,
            header_limit: env.number(
                "EDGE_HEADER_LIMIT_BYTES",
                "32768",
                8192..=262_144,
                "Largest request line and headers together, in bytes",
            ) as usize,
            http2: Http2 {
                streams: env.number(
                    "EDGE_HTTP2_STREAMS",
                    "100",
                    1..=1000,
                    "Most requests at once on one connection of HTTP/2",
                ) as u32,
                resets: env.number(
                    "EDGE_HTTP2_RESETS",
                    "100",
                    1..=100_000,
                    "Requests of HTTP/2 that a client may give up on a connection, beyond those that it lets be answered, \
                     before the connection is closed",
                ) as u32,
            },
            patience: Patience {
                headers: Duration::from_secs(env.number(
                    "EDGE_HEADER_TIMEOUT_SECONDS",
                    "10",
                    1..=300,
                    "Seconds in which a request's headers must have arrived",
                )),
                idle: Duration::from_secs(env.number(
                    "EDGE_IDLE_SECONDS",
                    "75",
                    1..=3600,
                    "Seconds without a request after which a connection is closed; longer than a load balancer keeps \
                     its own open",
                )),
                stall: Duration::from_secs(env.number(
                    "EDGE_STALL_SECONDS",
                    "30",
                    1..=3600,
                    "Seconds in which a client must send more of a body, or take more of an answer",
                )),
            },
            json_limit: env.number(
                "EDGE_JSON_LIMIT_BYTES",
                "65536",
                1024..=16_777_216,
                "Largest JSON body, in bytes",
            ) as usize,
            import_limit: env.number(
                "EDGE_IMPORT_LIMIT_BYTES",
                "67108864",
                1024..=1_073_741_824,
                "Largest file of users to import, in bytes; it lies in the folder for temporary files meanwhile",
            ) as usize,
            trusted_hops: env.number(
                "TRUSTED_PROXY_HOPS",
                "0",
                0..=16,
                "How many proxies stand before the edge and append to `X-Forwarded-For`",
            ) as usize,
        }
    }
}

impl SocketSettings {
    fn read(env: &mut Env) -> Self {
        SocketSettings {
            heartbeat: Duration::from_millis(
                1000 * env.number(
                    "WS_HEARTBEAT_SECONDS",
                    "25",
                    1..=300,
                    "Seconds between pings of the server",
                ),
            ),
            pong_timeout: Duration::from_millis(env.number(
                "WS_PONG_TIMEOUT_MS",
                "8000",
                100..=60_000,
                "Milliseconds in which a ping must be answered",
            )),
            max_message_bytes: env.number(
                "WS_MAX_MESSAGE_BYTES",
                "65536",
                1024..=1_048_576,
                "Largest message, in bytes",
            ) as usize,
            messages_per_second: env.number(
                "WS_MESSAGES_PER_SECOND",
                "50",
                1..=10_000,
                "Frames a second that a client may send, control frames included, with bursts of twice as many",
            ) as u32,
            per_user: env.number(
                "WS_CONNECTIONS_PER_USER",
                "10",
                1..=10_000,
                "Most sockets of one user at this edge",
            ) as usize,
            expiry_grace: Duration::from_secs(env.number(
                "WS_EXPIRY_GRACE_SECONDS",
                "5",
                0..=60,
                "Seconds that a socket outlives its token, in which nothing but `auth.refresh` is served",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::settings::survey;

    use super::*;

    #[test]
    fn an_edge_that_nobody_would_see_in_the_list_does_not_start() {
        let name = |name: &str| survey([("EDGE_NAME".to_owned(), name.to_owned())], Settings::read);
        for unseen in ["é", "a\tb", &"x".repeat(101)] {
            assert!(name(unseen).is_faulty("EDGE_NAME"), "{unseen:?}");
        }
        for seen in ["", "edge 7", &"x".repeat(100)] {
            assert!(!name(seen).is_faulty("EDGE_NAME"), "{seen:?}");
        }
    }
}
