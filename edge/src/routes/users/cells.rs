//! Accounts as the rows of an export.

use std::borrow::Cow;

use contract::identity::{Profile, User};
use contract::{Failure, Outcome, UserField};
use serde_json::{Map, Value};

use crate::routes::time;
use crate::services::present;

/// Which fields, as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Json,
}

/// Writes accounts, part after part: what begins the document, then rows, then what ends it.
pub struct Writer {
    format: Format,
    fields: Vec<UserField>,
    is_first: bool,
}

impl Writer {
    pub fn new(format: Format, fields: Vec<UserField>) -> Self {
        Writer { format, fields, is_first: true }
    }

    /// # Errors
    /// SRV001 when it cannot be written, which nothing in memory should cause.
    pub fn begin(&self) -> Outcome<Vec<u8>> {
        match self.format {
            Format::Json => Ok(b"[".to_vec()),
            Format::Csv => {
                let mut lines = lines();
                lines
                    .write_record(self.fields.iter().map(|field| field.name()))
                    .map_err(Failure::internal)?;
                lines.into_inner().map_err(|error| Failure::internal(error.to_string()))
            }
        }
    }

    /// # Errors
    /// SRV001 when identity-svc left out a part.
    pub fn rows(&mut self, users: Vec<User>) -> Outcome<Vec<u8>> {
        match self.format {
            Format::Csv => {
                let mut lines = lines();
                for user in users {
                    let values = self.values(user)?;
                    let cells = values.iter().map(|(_, value)| cell(value).into_owned());
                    lines.write_record(cells).map_err(Failure::internal)?;
                }
                lines.into_inner().map_err(|error| Failure::internal(error.to_string()))
            }
            Format::Json => {
                let mut bytes = Vec::new();
                for user in users {
                    bytes.extend_from_slice(if self.is_first { b"\n" } else { b",\n" });
                    self.is_first = false;
                    let values = self.values(user)?;
                    let object: Map<String, Value> =
                        values.into_iter().map(|(field, value)| (field.name().to_owned(), value)).collect();
                    serde_json::to_writer(&mut bytes, &object).map_err(Failure::internal)?;
                }
                Ok(bytes)
            }
        }
    }

    pub fn end(&self) -> Vec<u8> {
        match self.format {
            Format::Csv => Vec::new(),
            Format::Json => b"\n]\n".to_vec(),
        }
    }

    fn values(&self, user: User) -> Outcome<Vec<(UserField, Value)>> {
        let profile = present(user.profile.clone())?;
        Ok(self.fields.iter().map(|field| (*field, value(&user, &profile, *field))).collect())
    }
}

fn value(user: &User, profile: &Profile, field: UserField) -> Value {
    match field {
        UserField::Id => user.id.as_str().into(),
        UserField::Email => user.email.as_str().into(),
        UserField::Role => user.role.as_str().into(),
        UserField::ClientId => user.client_id.as_str().into(),
        UserField::SubscriptionTier => user.subscription_tier.as_str().into(),
        UserField::IsActive => user.is_active.into(),
        UserField::EmailVerified => user.email_verified.into(),
        UserField::CreatedAt => time(user.created_at).into(),
        UserField::UpdatedAt => time(user.updated_at).into(),
        UserField::LastLoginAt => time(user.last_login_at).into(),
        UserField::FirstName => profile.first_name.as_deref().into(),
        UserField::LastName => profile.last_name.as_deref().into(),
        UserField::Company => profile.company.as_deref().into(),
        UserField::Phone => profile.phone.as_deref().into(),
        UserField::AvatarUrl => profile.avatar_url.as_deref().into(),
        UserField::Permissions => user.permissions.clone().into(),
    }
}

/// RFC 4180.
fn lines() -> csv::Writer<Vec<u8>> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new())
}

fn cell(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => harmless(text),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            Cow::Owned(harmless(&names.join(" ")).into_owned())
        }
        other => Cow::Owned(other.to_string()),
    }
}

/// Users choose their names; a spreadsheet runs what begins like a formula (OWASP, CSV Injection). An apostrophe
/// before it makes it text.
fn harmless(text: &str) -> Cow<'_, str> {
    let first = text.chars().next();
    let runs = matches!(
        first,
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '\u{ff1d}' | '\u{ff0b}' | '\u{ff0d}' | '\u{ff20}')
    );
    if runs { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody(first_name: &str) -> User {
        let profile = Profile { first_name: Some(first_name.to_owned()), ..Profile::default() };
        User { id: "1".to_owned(), is_active: true, profile: Some(profile), ..User::default() }
    }

    fn written(format: Format, names: &[&str]) -> String {
        let fields = vec![UserField::Id, UserField::FirstName, UserField::LastName, UserField::IsActive];
        let mut writer = Writer::new(format, fields);
        let mut bytes = writer.begin().expect("a beginning");
        for name in names {
            bytes.extend(writer.rows(vec![somebody(name)]).expect("rows"));
        }
        bytes.extend(writer.end());
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_name_that_a_spreadsheet_would_run_is_text() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\u{ff1d}1"] {
            let text = written(Format::Csv, &[formula]);
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let row = reader.records().next().expect("a row").expect("well-formed");
            assert_eq!(&row[1], format!("'{formula}"));
        }
        assert!(written(Format::Csv, &["a=b"]).contains("\r\n1,a=b,,true\r\n"));
    }

    #[test]
    fn cells_with_separators_are_quoted_and_both_formats_can_be_read_back() {
        let name = "Ada \"the\" first,\nof her name";
        let text = written(Format::Csv, &[name]);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(&reader.records().next().expect("a row").expect("well-formed")[1], name);
        let rows: Value = serde_json::from_str(&written(Format::Json, &[name, "=1"])).expect("JSON");
        assert_eq!((&rows[0]["first_name"], &rows[1]["first_name"]), (&name.into(), &"=1".into()));
        assert_eq!(
            serde_json::from_str::<Value>(&written(Format::Json, &[])).expect("JSON"),
            Value::Array(vec![])
        );
    }
}
