//! Settings from the environment. One struct per process reads them all through an [`Env`], which collects every
//! fault before it stops the start, and from which the table in the docs is printed.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use secrecy::SecretString;

mod survey;

pub use survey::{Origin, Setting, Survey, Value, survey, without_passwords};

/// Shortest secret that is accepted, in bytes (RFC 7518 section 3.2 for HS256).
pub const MIN_SECRET_BYTES: usize = 32;

/// Every fault of the environment at once, one a line.
#[derive(Debug, thiserror::Error)]
pub struct Faults(Vec<String>);

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings are not usable:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

struct Variable {
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    is_secret: bool,
}

/// The environment as it is being read.
pub struct Env {
    values: HashMap<String, String>,
    faults: Vec<String>,
    variables: Vec<Variable>,
}

/// Reads a settings struct from the environment of the process.
///
/// # Errors
/// All faults at once.
pub fn load<S>(read: impl FnOnce(&mut Env) -> S) -> Result<S, Faults> {
    // Values that are not UTF-8 cannot be meant for us.
    let values =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    load_from(values, read)
}

/// Reads a settings struct from given variables.
///
/// # Errors
/// All faults at once.
pub fn load_from<S>(
    values: impl IntoIterator<Item = (String, String)>,
    read: impl FnOnce(&mut Env) -> S,
) -> Result<S, Faults> {
    let mut env = Env::of(values);
    let settings = read(&mut env);
    if env.faults.is_empty() { Ok(settings) } else { Err(Faults(env.faults)) }
}

/// The settings as rows of a Markdown table: name, default, meaning.
pub fn table<S>(read: impl FnOnce(&mut Env) -> S) -> String {
    let mut env = Env::of([]);
    read(&mut env);
    let row = |v: &Variable| format!("| `{}` | {} | {} |\n", v.name, v.default, v.meaning);
    env.variables.iter().map(row).collect()
}

impl Env {
    fn of(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Env { values: values.into_iter().collect(), faults: Vec::new(), variables: Vec::new() }
    }

    /// A value with a default. On a fault the default stands in until the start is stopped.
    pub fn value<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        default: &'static str,
        meaning: &'static str,
    ) -> T {
        self.note(name, default, meaning);
        let given = self.lookup(name);
        self.parse(name, given, default)
    }

    /// A value without which the process does not start; `example` stands in until then.
    pub fn required<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        example: &'static str,
        meaning: &'static str,
    ) -> T {
        self.note(name, "*required*", meaning);
        let given = self.lookup(name);
        if given.is_none() {
            self.faults.push(format!("{name} is not set ({meaning}; for example {example})"));
        }
        self.parse(name, given, example)
    }

    /// A value that may be absent.
    pub fn optional<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
    ) -> Option<T> {
        self.note(name, "*unset*", meaning);
        let given = self.lookup(name)?;
        match given.parse() {
            Ok(value) => Some(value),
            Err(fault) => {
                self.faults.push(format!("{name}: {fault}"));
                None
            }
        }
    }

    /// A number of seconds, milliseconds or pieces with a default, within bounds: whoever reads it may calculate with it.
    pub fn number(
        &mut self,
        name: &'static str,
        default: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
        meaning: &'static str,
    ) -> u64 {
        let value = self.value(name, default, meaning);
        if bounds.contains(&value) {
            return value;
        }
        self.faults.push(format!("{name}: must be {} to {}", bounds.start(), bounds.end()));
        self.parse(name, None, default)
    }

    /// A comma-separated list; spaces around the commas do not count, empty entries are dropped.
    pub fn list<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        default: &'static str,
        meaning: &'static str,
    ) -> Vec<T> {
        let text: String = self.value(name, default, meaning);
        let mut values = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(value) => values.push(value),
                Err(fault) => self.faults.push(format!("{name}: {:?}: {fault}", without_passwords(part))),
            }
        }
        values
    }

    /// The replicas of a service: a comma-separated list of URLs, at least one.
    pub fn replicas(&mut self, name: &'static str, default: &'static str, meaning: &'static str) -> Vec<Uri> {
        let replicas: Vec<Uri> = self.list(name, default, meaning);
        let usable = |uri: &Uri| uri.scheme().is_some() && uri.authority().is_some();
        if replicas.is_empty() || !replicas.iter().all(usable) {
            self.fault(format!("{name}: must be a list of URLs such as {default}"));
        }
        replicas
    }

    /// A key that others must not guess: required, at least [`MIN_SECRET_BYTES`] long, and no placeholder.
    pub fn secret(&mut self, name: &'static str, meaning: &'static str) -> SecretString {
        self.note(name, "*required, 32 bytes or more*", meaning);
        self.conceal(name);
        let secret = self.lookup(name).unwrap_or_default();
        if let Some(fault) = secret_fault(&secret) {
            self.faults.push(format!("{name} {fault}"));
        }
        secret.into()
    }

    /// A key as [`secret`](Env::secret) demands it, that may be absent.
    pub fn optional_secret(&mut self, name: &'static str, meaning: &'static str) -> Option<SecretString> {
        self.note(name, "*unset*", meaning);
        self.conceal(name);
        let secret = self.lookup(name)?;
        if let Some(fault) = secret_fault(&secret) {
            self.faults.push(format!("{name} {fault}"));
        }
        Some(secret.into())
    }

    /// A comma-separated list of keys as [`secret`](Env::secret) demands them; none by default.
    pub fn secrets(&mut self, name: &'static str, meaning: &'static str) -> Vec<SecretString> {
        let secrets: Vec<String> = self.list(name, "", meaning);
        self.conceal(name);
        for fault in secrets.iter().filter_map(|secret| secret_fault(secret)) {
            self.faults.push(format!("{name} {fault}"));
        }
        secrets.into_iter().map(SecretString::from).collect()
    }

    /// A password that another system chose; required, of any length.
    pub fn password(&mut self, name: &'static str, meaning: &'static str) -> SecretString {
        self.note(name, "*required*", meaning);
        self.conceal(name);
        let password = self.lookup(name);
        if password.is_none() {
            self.faults.push(format!("{name} is not set ({meaning})"));
        }
        password.unwrap_or_default().into()
    }

    /// The file that a setting comes from, when it comes from one: what stands in it may change later.
    pub fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.values.get(&format!("{name}_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Marks a setting that was read as one whose value nobody may see.
    pub fn conceal(&mut self, name: &str) {
        for variable in self.variables.iter_mut().filter(|variable| variable.name == name) {
            variable.is_secret = true;
        }
    }

    /// Reports a fault that only several values together show.
    pub fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    fn note(&mut self, name: &'static str, default: &'static str, meaning: &'static str) {
        self.variables.push(Variable {
            name,
            default: if default.is_empty() { "*empty*" } else { default },
            meaning,
            is_secret: false,
        });
    }

    fn parse<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        given: Option<String>,
        stand_in: &'static str,
    ) -> T {
        let parsed = given.as_deref().map(str::parse::<T>);
        match parsed {
            Some(Ok(value)) => return value,
            Some(Err(fault)) => self.faults.push(format!("{name}: {fault}")),
            None => {}
        }
        stand_in.parse().unwrap_or_else(|fault| unreachable!("{name}: the stand-in {stand_in:?}: {fault}"))
    }

    /// The variable itself, or the content of the file that NAME_FILE names; an empty value counts as unset.
    fn lookup(&mut self, name: &str) -> Option<String> {
        let plain = self.values.get(name).filter(|value| !value.is_empty()).cloned();
        let file = self.values.get(&format!("{name}_FILE")).filter(|path| !path.is_empty()).cloned();
        match (plain, file) {
            (Some(_), Some(_)) => {
                self.faults.push(format!("{name} and {name}_FILE are both set; one of them must go"));
                None
            }
            (None, Some(path)) => match content(&path) {
                Ok(content) => Some(content),
                Err(fault) => {
                    self.faults.push(format!("{name}_FILE: {path}: {fault}"));
                    None
                }
            },
            (plain, None) => plain,
        }
    }
}

/// What stands in the file of a setting.
fn content(path: &str) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|content| content.trim_end_matches(['\r', '\n']).to_owned())
}

fn secret_fault(secret: &str) -> Option<String> {
    if secret.is_empty() {
        return Some("is not set".to_owned());
    }
    if secret.len() < MIN_SECRET_BYTES {
        return Some(format!("is {} bytes long, {MIN_SECRET_BYTES} are needed", secret.len()));
    }
    let lower = secret.to_ascii_lowercase();
    let placeholder = ["changeme", "change-me", "change_me", "your-secret", "your_secret", "example"]
        .iter()
        .any(|word| lower.contains(word));
    let first = secret.as_bytes().first();
    let repeated = secret.as_bytes().iter().all(|byte| Some(byte) == first);
    (placeholder || repeated).then(|| "is a placeholder; make one with `openssl rand -hex 32`".to_owned())
}

/// The secrets of HS256 access tokens: the one that signs, and those whose tokens are still accepted.
pub fn token_secrets(env: &mut Env) -> Vec<SecretString> {
    let signing = env.secret("JWT_SECRET_KEY", "The secret that access tokens are signed with (HS256)");
    let previous = env.secrets(
        "JWT_PREVIOUS_SECRET_KEYS",
        "Former secrets, comma-separated, whose tokens are accepted until they expire",
    );
    std::iter::once(signing).chain(previous).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn read(env: &mut Env) -> (SocketAddr, SecretString, u64) {
        (
            env.value("LISTEN", "127.0.0.1:1", "where"),
            env.secret("KEY", "what for"),
            env.number("TTL", "900", 1..=3600, "seconds"),
        )
    }

    #[test]
    fn one_message_names_every_fault() {
        let given = vars(&[("LISTEN", "nowhere"), ("KEY", "short"), ("TTL", "0")]);
        let message =
            load_from(given, read).map(drop).map_err(|faults| faults.to_string()).expect_err("faults");
        for name in ["LISTEN", "KEY", "TTL"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(!message.contains("short\""), "a secret is never repeated: {message}");
    }

    #[test]
    fn a_placeholder_or_missing_secret_stops_the_start() {
        for secret in ["", "changeme-changeme-changeme-changeme", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(load_from(vars(&[("KEY", secret)]), read).is_err(), "{secret:?}");
        }
        assert!(load_from(vars(&[("KEY", "0123456789abcdef0123456789abcdef")]), read).is_ok());
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_newline() {
        let path = std::env::temp_dir().join(format!("chassis-settings-{}", std::process::id()));
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").expect("a file");
        let given = vars(&[("KEY_FILE", path.to_str().expect("UTF-8"))]);
        let (_, key, _) = load_from(given, read).expect("settings");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(secrecy::ExposeSecret::expose_secret(&key).len(), 32);
    }
}
