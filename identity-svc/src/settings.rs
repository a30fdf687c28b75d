//! Every setting of identity-svc.

use std::net::SocketAddr;
use std::time::Duration;

use crate::hasher::Cost;
use crate::throttle::Limits;
use crate::{api_keys, keys, mail};
use chassis::settings::Env;
use chassis::{drain, grpc, logs, mysql};

/// The service's own database user, unless it is given another.
pub const DATABASE_USER: &str = "identity_svc";

pub struct Settings {
    pub listen: SocketAddr,
    pub internal_listen: SocketAddr,
    pub logs: logs::Settings,
    pub drain: drain::Settings,
    pub database: mysql::Settings,
    pub internal: grpc::Settings,
    pub reflection: bool,
    pub keys: keys::Settings,
    pub lifetimes: Lifetimes,
    /// Most open sessions of an account.
    pub max_sessions: usize,
    pub passwords: PasswordSettings,
    pub limits: Limits,
    pub api_keys: api_keys::Limits,
    /// `None` for ever.
    pub audit_log_kept: Option<Duration>,
    /// `None` when no mail is sent.
    pub mail: Option<mail::Settings>,
}

/// How long things are good for.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    pub access_token: Duration,
    /// A session that is not refreshed for this long has expired.
    pub session_idle: Duration,
    /// A session is never older than this.
    pub session: Duration,
    /// How long a spent refresh token may be presented again when its answer was lost.
    pub refresh_retry: Duration,
}

pub struct PasswordSettings {
    pub min_length: usize,
    pub cost: Cost,
    pub queue: usize,
    /// Most of those of one address; 0 for any number.
    pub per_address: usize,
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        let internal = grpc::Settings::read(env);
        let lifetimes = Lifetimes::read(env);
        let max_sessions = env.number(
            "SESSIONS_PER_ACCOUNT",
            "100",
            1..=1000,
            "Most open sessions of an account; a sign-in beyond that ends the one seen the longest ago",
        );
        Settings {
            listen: env.value("IDENTITY_LISTEN", "0.0.0.0:50051", "Address of the gRPC listener"),
            internal_listen: env.value(
                "IDENTITY_INTERNAL_LISTEN",
                "0.0.0.0:9051",
                "Address of the internal listener",
            ),
            logs: logs::Settings::read(env),
            drain: drain::Settings::read(env),
            database: mysql::Settings::read(env, DATABASE_USER),
            internal,
            reflection: env.value("GRPC_REFLECTION", "true", "Whether gRPC reflection is served"),
            keys: keys(env),
            lifetimes,
            max_sessions: max_sessions as usize,
            passwords: PasswordSettings::read(env),
            limits: limits(env),
            api_keys: api_keys(env),
            audit_log_kept: audit_log_kept(env),
            mail: mail::Settings::read(env),
        }
    }
}

fn keys(env: &mut Env) -> keys::Settings {
    keys::Settings {
        algorithm: env.value(
            "JWT_ALGORITHM",
            "HS256",
            "How new signing keys sign: `HS256`, or `EdDSA` or `ES256` with public keys at `/.well-known/jwks.json`. \
             `identity-svc keys rotate` moves from one to another",
        ),
        secrets: chassis::settings::token_secrets(env),
        audience: env.value("JWT_AUDIENCE", "persona-platform", "`aud` of access tokens"),
    }
}

fn api_keys(env: &mut Env) -> api_keys::Limits {
    let per_account = env.number("API_KEYS_PER_ACCOUNT", "25", 0..=1000, "Most API keys of an account");
    let days = env.number("API_KEY_MAX_DAYS", "366", 1..=3660, "Longest life of an API key, in days");
    api_keys::Limits { per_account: per_account as i64, longest_life: Duration::from_secs(days * 24 * 3600) }
}

fn audit_log_kept(env: &mut Env) -> Option<Duration> {
    let meaning = "Days after which entries of the audit log are removed; 0: never";
    let days = env.number("AUDIT_LOG_KEPT_DAYS", "0", 0..=36_500, meaning);
    (days > 0).then(|| Duration::from_secs(days * 24 * 3600))
}

fn limits(env: &mut Env) -> Limits {
    let mut free = |name, default, meaning| env.number(name, default, 0..=1_000_000, meaning) as u32;
    Limits {
        account: free(
            "LOGIN_FAILURES_PER_ACCOUNT",
            "5",
            "Wrong passwords for one account from one address before each makes the next wait longer; 0: any number",
        ),
        address: free(
            "LOGIN_FAILURES_PER_ADDRESS",
            "100",
            "Wrong passwords from one address before each makes the next wait longer; 0: any number",
        ),
        registrations: free(
            "REGISTRATIONS_PER_ADDRESS",
            "100",
            "Registrations from one address before each makes the next wait longer; 0: any number",
        ),
        mails_to_account: free(
            "MAILS_PER_ACCOUNT",
            "3",
            "Mails that somebody asks for to one account before each makes the next wait longer; those that its \
             owner asks for while signed in count by themselves; 0: any number",
        ),
        mails_from_address: free(
            "MAILS_PER_ADDRESS",
            "20",
            "Mails that are asked for from one address before each makes the next wait longer; 0: any number",
        ),
    }
}

impl Lifetimes {
    fn read(env: &mut Env) -> Self {
        let access =
            env.number("ACCESS_TOKEN_TTL_SECONDS", "900", 1..=86_400, "Life of an access token, in seconds");
        let idle = env.number(
            "SESSION_IDLE_TTL_SECONDS",
            "2592000",
            1..=31_536_000,
            "Seconds after which a session that was not refreshed has expired",
        );
        let session = env.number(
            "SESSION_MAX_TTL_SECONDS",
            "7776000",
            1..=315_360_000,
            "Seconds after which a session has expired however often it was refreshed",
        );
        let retry = env.number(
            "REFRESH_RETRY_SECONDS",
            "60",
            0..=600,
            "Seconds in which a spent refresh token may be presented again, as long as nothing shows that the answer \
             has arrived",
        );
        Lifetimes {
            access_token: Duration::from_secs(access),
            session_idle: Duration::from_secs(idle),
            session: Duration::from_secs(session),
            refresh_retry: Duration::from_secs(retry),
        }
    }
}

impl PasswordSettings {
    fn read(env: &mut Env) -> Self {
        let min_length = env.number("PASSWORD_MIN_LENGTH", "8", 8..=64, "Fewest characters of a password");
        let memory = env.number(
            "ARGON2_MEMORY_KIB",
            "19456",
            19_456..=4_194_304,
            "Memory of one Argon2id hash, in KiB",
        );
        let iterations = env.number("ARGON2_ITERATIONS", "2", 2..=100, "Passes of one Argon2id hash");
        let queue = env.number(
            "PASSWORD_HASH_QUEUE",
            "64",
            1..=100_000,
            "Most logins that wait for a hash; further ones are told to come back",
        );
        let per_address = env.number(
            "PASSWORD_HASHES_PER_ADDRESS",
            "8",
            0..=100_000,
            "Most logins, registrations and the like of one address that have a hash made or wait for it, at once; 0: any \
             number",
        );
        PasswordSettings {
            min_length: min_length as usize,
            cost: Cost { memory_kib: memory as u32, iterations: iterations as u32 },
            queue: queue as usize,
            per_address: per_address as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::settings::load_from;

    use super::*;

    /// Marks what must never be shown.
    const CANARY: &str = "Canary7";
    const SECRETS: [&str; 6] = [
        "INTERNAL_GRPC_TOKEN",
        "GRPC_TLS_KEY",
        "AUTH_DB_PASSWORD",
        "JWT_SECRET_KEY",
        "JWT_PREVIOUS_SECRET_KEYS",
        "MAIL_SMTP_URL",
    ];

    /// A line of an environment. A file that it names does not exist, or a target would read whatever is there.
    fn variable(line: &str) -> Option<(String, String)> {
        let (name, value) = line.split_once('=')?;
        let value = match name {
            _ if name.ends_with("_FILE") => format!("/nonexistent/{value}"),
            _ if SECRETS.contains(&name) => format!("{value}{CANARY}"),
            _ => value.to_owned(),
        };
        Some((name.to_owned(), value))
    }

    #[test]
    fn any_environment_is_settings_or_faults_that_show_no_secret() {
        fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/settings"), |input| {
            let Ok(input) = std::str::from_utf8(input) else { return };
            // The search finds the mark out, and puts it where it is no secret.
            if input.contains(CANARY) {
                return;
            }
            let Err(faults) = load_from(input.lines().filter_map(variable), Settings::read).map(drop) else {
                return;
            };
            assert!(!faults.to_string().contains(CANARY), "{faults}");
        });
    }
}
