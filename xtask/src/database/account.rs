//! Who signs in where.

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, MySqlConnection};

use crate::Outcome;
use crate::workspace::setting;

/// Everything that signing in to a schema needs.
#[derive(Clone)]
pub struct Account {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub schema: String,
}

impl Account {
    /// The administrator of the server that AUTH_DB_HOST names, if it names one.
    pub fn from_environment() -> Outcome<Option<Self>> {
        let Some(host) = setting("AUTH_DB_HOST")? else {
            return Ok(None);
        };
        let port = setting("AUTH_DB_PORT")?.unwrap_or_else(|| "3306".to_owned());
        Ok(Some(Account {
            host,
            port: port.parse().map_err(|e| format!("AUTH_DB_PORT: {port}: {e}"))?,
            user: setting("AUTH_DB_USER")?.unwrap_or_else(|| "root".to_owned()),
            password: setting("AUTH_DB_PASSWORD")?.unwrap_or_default(),
            schema: schema()?,
        }))
    }

    pub fn with_schema(&self, schema: &str) -> Self {
        Account { schema: schema.to_owned(), ..self.clone() }
    }

    /// Another user of the same schema.
    pub fn with_user(&self, user: &str, password: &str) -> Self {
        Account { user: user.to_owned(), password: password.to_owned(), ..self.clone() }
    }

    pub fn url(&self) -> String {
        let (user, password) = (encoded(&self.user), encoded(&self.password));
        format!("mysql://{user}:{password}@{}:{}/{}", self.host, self.port, self.schema)
    }

    /// Signs in and selects the schema.
    pub async fn connect(&self) -> sqlx::Result<MySqlConnection> {
        self.options().database(&self.schema).connect().await
    }

    /// Signs in without a schema, which may not exist yet.
    pub async fn connect_to_server(&self) -> sqlx::Result<MySqlConnection> {
        self.options().connect().await
    }

    fn options(&self) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new().host(&self.host).port(self.port);
        options.username(&self.user).password(&self.password).disable_statement_logging()
    }
}

/// The name of the schema, which must do without quoting in SQL and in a URL.
pub fn schema() -> Outcome<String> {
    let name = setting("AUTH_DB_NAME")?.unwrap_or_else(|| "auth_db".to_owned());
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Ok(name)
    } else {
        Err(format!("AUTH_DB_NAME: {name}: only letters, digits and _ are possible").into())
    }
}

fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Account {
        /// The server that `cargo xtask test` provides.
        pub fn of_the_test_server() -> Self {
            let url =
                std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL; `cargo xtask test` sets it");
            let rest = url.strip_prefix("mysql://").expect("a mysql URL");
            let (credentials, place) = rest.rsplit_once('@').expect("credentials");
            let (user, password) = credentials.split_once(':').expect("a password");
            let (address, schema) = place.split_once('/').expect("a schema");
            let (host, port) = address.rsplit_once(':').expect("a port");
            Account {
                host: host.to_owned(),
                port: port.parse().expect("a number"),
                user: decoded(user),
                password: decoded(password),
                schema: schema.to_owned(),
            }
        }
    }

    fn decoded(text: &str) -> String {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_password_with_reserved_characters_stays_inside_its_part_of_the_url() {
        assert_eq!(encoded("a@b:c/d?é"), "a%40b%3Ac%2Fd%3F%C3%A9");
        assert_eq!(decoded(&encoded("a@b:c/d?é")), "a@b:c/d?é");
    }
}
