//! What the settings of a process are and where each comes from, for those who look at it from outside.

use std::collections::HashMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::Env;

/// The settings of a process as it would read them.
pub struct Survey {
    pub settings: Vec<Setting>,
    /// Why it would not start; each names its settings.
    pub faults: Vec<String>,
}

/// One setting with what was given for it.
pub struct Setting {
    pub name: &'static str,
    /// As the table of the docs has it: the default, or in asterisks that there is none.
    pub default: &'static str,
    pub meaning: &'static str,
    pub origin: Origin,
    pub value: Value,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was given under its name.
    Given,
    /// It stands in the file that `NAME_FILE` names.
    File(PathBuf),
    /// Nobody gave it.
    Default,
}

/// What a setting comes to. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub enum Value {
    Unset,
    Plain(String),
    Secret(SecretString),
}

/// Reads the settings of a process from given variables without stopping at what is wrong with them.
pub fn survey<S>(
    values: impl IntoIterator<Item = (String, String)>,
    read: impl FnOnce(&mut Env) -> S,
) -> Survey {
    let mut env = Env::of(values);
    read(&mut env);
    let settings = env.variables.iter().map(|variable| {
        let given = given(&env.values, variable.name);
        let origin = match &given {
            None => Origin::Default,
            Some((None, _)) => Origin::Given,
            Some((Some(path), _)) => Origin::File(path.clone()),
        };
        let default = Some(variable.default.to_owned()).filter(|text| !text.starts_with('*'));
        let value = match given.and_then(|(_, value)| value).or(default) {
            None => Value::Unset,
            Some(value) if variable.is_secret => Value::Secret(value.into()),
            Some(value) => Value::Plain(value),
        };
        let (name, default, meaning) = (variable.name, variable.default, variable.meaning);
        Setting { name, default, meaning, origin, value }
    });
    Survey { settings: settings.collect(), faults: env.faults }
}

/// The file, if it comes from one, and the value, if that can be read: why it cannot is one of the faults.
fn given(values: &HashMap<String, String>, name: &str) -> Option<(Option<PathBuf>, Option<String>)> {
    let set = |name: &str| values.get(name).filter(|value| !value.is_empty());
    if let Some(value) = set(name) {
        return Some((None, Some(value.clone())));
    }
    let path = set(&format!("{name}_FILE"))?;
    Some((Some(path.into()), super::content(path).ok()))
}

impl Survey {
    /// A setting by its name.
    pub fn find(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// The value of a setting that is no secret, its default included; empty when it has none.
    pub fn text(&self, name: &str) -> &str {
        match self.find(name).map(|setting| &setting.value) {
            Some(Value::Plain(text)) => text,
            _ => "",
        }
    }

    /// The value of a secret that is set.
    pub fn secret(&self, name: &str) -> Option<&SecretString> {
        match &self.find(name)?.value {
            Value::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// Whether a fault names a setting whose name begins so.
    pub fn is_faulty(&self, name: &str) -> bool {
        self.faults.iter().any(|fault| {
            fault.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word.starts_with(name))
        })
    }
}

impl Value {
    /// As it may be shown: of a secret only how long it is, and no password of a URL.
    pub fn shown(&self) -> String {
        match self {
            Value::Unset => "(not set)".to_owned(),
            Value::Secret(secret) => format!("(set, {} characters)", secret.expose_secret().chars().count()),
            // A certificate.
            Value::Plain(text) if text.contains('\n') => format!("(set, {} lines)", text.lines().count()),
            Value::Plain(text) => without_passwords(text),
        }
    }
}

/// Leaves out what stands between the scheme and the host of each URL in a text, whatever characters it has.
pub fn without_passwords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        // A password may have what divides a list: the next URL alone ends this one.
        let end = after
            .find("://")
            .map_or(after.len(), |next| after[..next].rfind([',', ' ']).unwrap_or(after.len()));
        let (url, more) = after.split_at(end);
        shown.push_str(before);
        match url.rsplit_once('@') {
            Some((_, host)) => shown.extend(["[redacted]@", host]),
            None => shown.push_str(url),
        }
        rest = more;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &mut Env) -> (String, SecretString, Option<String>) {
        let url = env.optional("URL", "where");
        env.conceal("URL");
        (env.value("LISTEN", "127.0.0.1:1", "where"), env.secret("KEY", "what for"), url)
    }

    fn surveyed(pairs: &[(&str, &str)]) -> Survey {
        survey(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), read)
    }

    #[test]
    fn each_setting_says_its_value_and_where_it_comes_from() {
        let survey = surveyed(&[("KEY", "0123456789abcdef0123456789abcdef"), ("URL_FILE", "/nonexistent")]);
        let shown = |name| {
            let setting = survey.find(name).expect("a setting");
            (setting.value.shown(), setting.origin.clone())
        };
        assert_eq!(shown("LISTEN"), ("127.0.0.1:1".to_owned(), Origin::Default));
        assert_eq!(shown("KEY"), ("(set, 32 characters)".to_owned(), Origin::Given));
        assert_eq!(shown("URL"), ("(not set)".to_owned(), Origin::File("/nonexistent".into())));
        assert!(survey.faults.len() == 1 && survey.is_faulty("URL") && !survey.is_faulty("KEY"));
    }

    #[test]
    fn a_secret_is_never_shown_and_neither_is_a_password_in_a_url() {
        let survey = surveyed(&[
            ("KEY", "canary"),
            ("URL", "smtp://user:canary@host"),
            ("LISTEN", "x://u:canary@h/,y://v:c/@na,ry na@ry@i, z://w:ca,nary@j"),
        ]);
        let numbers = |env: &mut Env| env.list::<u16>("NUMBERS", "1", "which");
        let refused = super::survey([("NUMBERS".to_owned(), "http://u:canary@h".to_owned())], numbers);
        assert!(refused.faults[0].contains("[redacted]@h"), "{:?}", refused.faults);
        for setting in &survey.settings {
            let shown = setting.value.shown();
            assert!(!["canary", "nary", "ry@"].iter().any(|part| shown.contains(part)), "{shown}");
            assert!(!format!("{:?}", setting.value).contains("smtp"), "{}", setting.name);
        }
        assert_eq!(
            survey.find("LISTEN").expect("it").value.shown(),
            "x://[redacted]@h/,y://[redacted]@i, z://[redacted]@j"
        );
    }
}
