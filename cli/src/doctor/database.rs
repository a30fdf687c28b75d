//! Whether the services can use their database.

use std::time::{Duration, Instant, SystemTime};

use chassis::mysql;
use chrono::NaiveDateTime;
use secrecy::ExposeSecret;
use sqlx::MySqlConnection;

use super::clocks::Clock;
use super::{migrations, privileges};
use crate::deployment::{Member, Process};
use crate::http::root_cause;
use crate::report::{Check, names};

pub const SUBJECT: &str = "database";
/// How long the database may take for all that it is asked.
const LIMIT: Duration = Duration::from_secs(5);
/// The oldest that are supported.
const MYSQL: (u32, u32) = (8, 4);
const MARIADB: (u32, u32) = (10, 11);

/// What came of looking.
#[derive(Default)]
pub struct Look {
    pub checks: Vec<Check>,
    pub clocks: Vec<Clock>,
    migrations: Vec<migrations::State>,
    privileges: Vec<privileges::State>,
}

/// Services that sign in as the same user are looked at together.
pub async fn look(members: &[Member]) -> Look {
    let services = members.iter().filter(|member| member.process != Process::Edge);
    let mut logins: Vec<(Vec<String>, Vec<&Member>)> = Vec::new();
    let mut look = Look::default();
    for member in services {
        if member.survey.is_faulty("AUTH_DB_") {
            let says = format!("{}: needs the settings that are named above", member.process);
            look.checks.push(Check::skipped(SUBJECT, says));
            continue;
        }
        let login = login(member);
        match logins.iter_mut().find(|(known, _)| *known == login) {
            Some((_, who)) => who.push(member),
            None => logins.push((login, vec![member])),
        }
    }
    for (_, who) in &logins {
        look.examine(who).await;
    }
    let Look { checks, migrations, privileges, .. } = &mut look;
    checks.extend(migrations::check(migrations));
    checks.extend(privileges::check(privileges));
    look
}

/// All that makes one login another.
fn login(member: &Member) -> Vec<String> {
    let texts = ["AUTH_DB_HOST", "AUTH_DB_PORT", "AUTH_DB_USER", "AUTH_DB_NAME", "AUTH_DB_TLS", "AUTH_DB_CA"];
    let mut login: Vec<String> = texts.iter().map(|name| member.survey.text(name).to_owned()).collect();
    login
        .extend(member.survey.secret("AUTH_DB_PASSWORD").map(|password| password.expose_secret().to_owned()));
    login
}

impl Look {
    async fn examine(&mut self, who: &[&Member]) {
        let Some(first) = who.first() else { return };
        let processes: Vec<&str> = who.iter().map(|member| member.process.name()).collect();
        let processes = names(&processes);
        let text = |name| first.survey.text(name);
        let place = format!("{}:{}", text("AUTH_DB_HOST"), text("AUTH_DB_PORT"));
        let account = format!("{} at {place}, schema {}", text("AUTH_DB_USER"), text("AUTH_DB_NAME"));
        let outcome = match tokio::time::timeout(LIMIT, self.ask(first, who)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::Silent),
        };
        let check = match outcome {
            Ok(version) => Check::ok(SUBJECT, format!("{processes}: {version}, as {account}")),
            Err(trouble) => {
                let (says, remedy) = trouble.told(&place);
                Check::fault(SUBJECT, format!("{processes}, as {account}: {says}"), remedy)
            }
        };
        self.checks.push(check);
    }

    /// Gives the version of the server.
    async fn ask(&mut self, first: &Member, who: &[&Member]) -> Result<String, Trouble> {
        // Only services are looked at here.
        let user = first.process.database_user().unwrap_or_default();
        let settings = first.read(|env| mysql::Settings::read(env, user)).map_err(Trouble::Said)?;
        let mut connection = mysql::connect(&settings).await?;
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut connection).await?;
        if !is_supported(&version) {
            return Err(Trouble::Old(version));
        }
        let mode: String = sqlx::query_scalar("SELECT @@SESSION.sql_mode").fetch_one(&mut connection).await?;
        if !mode.contains("STRICT_TRANS_TABLES") && !mode.contains("STRICT_ALL_TABLES") {
            return Err(Trouble::Lax);
        }
        self.clocks.push(clock(&mut connection).await?);
        for member in who {
            self.migrations.extend(migrations::State::of(member.process, &mut connection).await?);
            self.privileges.extend(privileges::State::of(member.process, &mut connection).await?);
        }
        Ok(version)
    }
}

async fn clock(connection: &mut MySqlConnection) -> Result<Clock, sqlx::Error> {
    let (asked, since) = (SystemTime::now(), Instant::now());
    let told: NaiveDateTime = sqlx::query_scalar("SELECT UTC_TIMESTAMP(6)").fetch_one(connection).await?;
    Ok(Clock::told("the database", told.and_utc(), asked, since.elapsed()))
}

/// Such as `8.4.7` and `10.11.19-MariaDB-ubu2204`; in front MariaDB may say `5.5.5-` for old clients.
fn is_supported(version: &str) -> bool {
    let is_mariadb = version.contains("MariaDB");
    let version = version.strip_prefix("5.5.5-").filter(|_| is_mariadb).unwrap_or(version);
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    (major, minor) >= if is_mariadb { MARIADB } else { MYSQL }
}

/// Why the database cannot be used.
enum Trouble {
    Silent,
    Said(String),
    Old(String),
    Lax,
    Server(sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Trouble::Server(error)
    }
}

impl Trouble {
    /// What is wrong, and what to do.
    fn told(&self, place: &str) -> (String, String) {
        let (says, remedy): (String, &str) = match self {
            Trouble::Silent => (
                format!("no answer within {} s", LIMIT.as_secs()),
                "look whether it hangs, or something between drops packets",
            ),
            Trouble::Said(what) => (what.clone(), "correct the settings"),
            Trouble::Old(version) => {
                (format!("{version} is too old"), "use MySQL 8.4 or MariaDB 10.11, or later")
            }
            Trouble::Lax => {
                ("sql_mode is not strict".to_owned(), "add STRICT_TRANS_TABLES to sql_mode of the server")
            }
            Trouble::Server(error) => return told_by(error, place),
        };
        (says, remedy.to_owned())
    }
}

fn told_by(error: &sqlx::Error, place: &str) -> (String, String) {
    let says = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => root_cause(error),
    };
    let remedy = match mysql::server_code(error) {
        Some(1045 | 1698) => {
            "set AUTH_DB_USER and AUTH_DB_PASSWORD to those of the service (docs/operations.md, \"Database\")"
        }
        Some(1044 | 1049) => {
            "make the schema, or set AUTH_DB_NAME to the one there is; then deploy/database/grants.sql"
        }
        Some(1040 | 1203) => "raise max_connections of the server, or lower AUTH_DB_CONNECTIONS",
        Some(_) => "look at the log of the server",
        None if is_of_a_stranger(error) => {
            "set AUTH_DB_CA_FILE to the certificates of the authority that signed the server's, and for verify_identity \
             AUTH_DB_HOST to a name that stands in it"
        }
        None if matches!(error, sqlx::Error::Tls(_)) => "set AUTH_DB_TLS to what the server can do",
        None => {
            return (
                says,
                format!(
                    "start the server, or set AUTH_DB_HOST and AUTH_DB_PORT to where it is instead of {place}"
                ),
            );
        }
    };
    (says, remedy.to_owned())
}

/// Whether the server has a certificate that is not believed.
fn is_of_a_stranger(error: &sqlx::Error) -> bool {
    let fault = match error {
        sqlx::Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref()),
        sqlx::Error::Tls(error) => error.downcast_ref(),
        _ => None,
    };
    matches!(fault, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn who_does_not_believe_the_certificate_is_told_of_the_authority() {
        let fault = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let (says, remedy) = told_by(&sqlx::Error::Io(io::Error::other(fault)), "db:3306");
        assert!(says.contains("UnknownIssuer") && remedy.contains("AUTH_DB_CA"), "{says}: {remedy}");
    }

    #[test]
    fn supported_servers_are_told_from_older_ones() {
        for good in
            ["8.4.0", "9.7.4-commercial", "10.11.19-MariaDB", "5.5.5-11.4.2-MariaDB-log", "12.0.1-MariaDB"]
        {
            assert!(is_supported(good), "{good}");
        }
        for old in ["8.0.36", "5.7.44", "10.6.1-MariaDB", "5.5.5-10.5.1-MariaDB", "?"] {
            assert!(!is_supported(old), "{old}");
        }
    }
}
