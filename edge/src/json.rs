//! JSON bodies: read within a limit, refused with the name of the field that is wrong, and never with two values for
//! one key, which two readers could take differently. Who sends one is looked at again when all of it is there.

use std::collections::HashSet;
use std::fmt;

use axum::extract::{FromRef, FromRequest, FromRequestParts, Query, Request};
use contract::{ErrorCode, Failure, NOT_AN_ID, Outcome, is_canonical_id};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::answer::Refusal;
use crate::body::Room;
use crate::claims::{Authenticator, Caller};
use crate::front::{Limit, RequestContext};

/// The largest JSON body, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimit(pub usize);

/// How deep arrays and objects may nest.
const MAX_DEPTH: usize = 32;

/// What keys begin with by which serde_json tells itself that a text is to be read as something else.
const RESERVED: &str = "$serde_json::private::";

/// A JSON body.
pub struct Json<T>(pub T);

impl<S, T> FromRequest<S> for Json<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
    JsonLimit: FromRef<S>,
    Room: FromRef<S>,
    Authenticator: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let JsonLimit(limit) = JsonLimit::from_ref(state);
        must_be_json(request.headers())?;
        let (parts, body) = request.into_parts();
        let client = RequestContext::of(&parts.extensions)?.client();
        let bytes = Room::from_ref(state).take_in(body, limit, client).await?;
        if let Some(caller) = parts.extensions.get::<Caller>() {
            Authenticator::from_ref(state).confirm_again(caller).await?;
        }
        Ok(Json(parse(&bytes)?))
    }
}

fn must_be_json(headers: &HeaderMap) -> Outcome<()> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Unacceptable)
        .with_http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        .saying("The body must be application/json"))
}

/// Reads a JSON object.
///
/// # Errors
/// REQ001, which names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    parse_unmistakably(bytes, &[])
}

/// Reads a JSON object that is also passed on as it is: none of its keys may be another spelling of a known one, as
/// readers that compare keys without case would take its value for that of the known one.
///
/// # Errors
/// REQ001, which names the field.
pub fn parse_unmistakably<T: DeserializeOwned>(bytes: &[u8], known: &[&str]) -> Outcome<T> {
    // serde would take the items of an array for the fields of a structure.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::field("body", "must be a JSON object"));
    }
    let mut strict = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0, known }
        .deserialize(&mut strict)
        .and_then(|()| strict.end())
        .map_err(|e| fault("body", &e))?;
    let mut typed = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut typed).map_err(|error| {
        let path = error.path().to_string();
        fault(if path == "." { "body" } else { &path }, error.inner())
    })
}

/// serde says a missing field in its message alone.
fn fault(path: &str, error: &serde_json::Error) -> Failure {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    match text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((name, _)) if path == "body" => Failure::field(name, "is required"),
        Some((name, _)) => Failure::field(format!("{path}.{name}"), "is required"),
        None => Failure::field(path, in_words(text)),
    }
}

/// What serde expected, without the names of our types.
fn in_words(text: &str) -> String {
    match text.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => text.to_owned(),
    }
}

/// Whether some reader may take a word for this one, which is in ASCII lower case: whatever has it for its upper or lower
/// case, and what Unicode folds to it, also where one letter folds to several (`ﬂ`).
pub fn is_read_as(key: &str, known: &str) -> bool {
    let plain = |letter| match letter {
        '\u{212a}' => 'k',
        'İ' => 'i',
        letter => letter,
    };
    let upper = key.chars().map(plain).flat_map(char::to_uppercase);
    upper.map(|letter| letter.to_ascii_lowercase()).eq(known.chars())
}

/// Walks a JSON text and refuses repeated keys and deep nesting, and at its top other spellings of known keys.
struct Strict<'k> {
    depth: usize,
    known: &'k [&'k str],
}

impl Strict<'_> {
    fn deeper<E: Error>(&self) -> Result<Strict<'static>, E> {
        if self.depth == MAX_DEPTH {
            Limit::JsonDepth.bites();
            Err(E::custom("nests too deeply"))
        } else {
            Ok(Strict { depth: self.depth + 1, known: &[] })
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if let Some(known) = self.known.iter().find(|known| key != **known && is_read_as(&key, known)) {
                return Err(A::Error::custom(format!("has the key {key:?}, which may be read as {known:?}")));
            }
            if key.starts_with(RESERVED) {
                return Err(A::Error::custom(format!("has the key {key:?}, which is reserved")));
            }
            entries.next_value_seed(self.deeper()?)?;
            if let Some(key) = keys.replace(key) {
                return Err(A::Error::custom(format!("has the key {key:?} twice")));
            }
        }
        Ok(())
    }
}

/// A query string. Unknown parameters are ignored, like unknown JSON fields.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Parameters(parameters)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text =
                    text.rsplit_once("deserialize query string: ").map_or(text.as_str(), |(_, cause)| cause);
                Err(query_fault(text))
            }
        }
    }
}

/// serde says the name of a parameter before the fault, or in backquotes within it.
fn query_fault(text: &str) -> Refusal {
    let quoted = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.split_once('`'));
    let (name, fault) = if let Some((name, _)) = quoted("missing field `") {
        (name, "is required")
    } else if let Some((name, _)) = quoted("duplicate field `") {
        (name, "must stand once")
    } else {
        text.split_once(": ").unwrap_or(("query", text))
    };
    Failure::field(name, in_words(fault)).into()
}

/// A UUID in its canonical form: lower-case, hyphenated.
#[derive(Debug)]
pub struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        is_canonical_id(&text).then_some(Id(text)).ok_or_else(|| D::Error::custom(NOT_AN_ID))
    }
}

/// The one parameter of a path, `{id}`.
pub struct PathId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        match path {
            Ok(axum::extract::Path(text)) if is_canonical_id(&text) => Ok(PathId(text)),
            _ => Err(Failure::field("id", NOT_AN_ID).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Login {
        email: String,
        #[serde(default)]
        tags: Vec<u8>,
    }

    fn fields(text: &str) -> String {
        let failure = parse::<Login>(text.as_bytes()).expect_err("refused");
        assert_eq!(failure.code(), ErrorCode::InvalidRequest);
        failure.fields().iter().map(|(field, fault)| format!("{field}: {fault}")).collect()
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        assert_eq!(fields("{}"), "email: is required");
        assert!(fields(r#"{"email": 1}"#).starts_with("email: invalid type"));
        assert!(fields(r#"{"email": "a", "tags": [1, "x"]}"#).starts_with("tags[1]: "));
        assert!(fields("{").starts_with("body: "));
        for other in [r#"["a"]"#, "1", r#""a""#, "null", ""] {
            assert_eq!(fields(other), "body: must be a JSON object", "{other}");
        }
        assert!(fields(r#"{"email": "a"} x"#).starts_with("body: "));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_even_if_unknown_or_escaped() {
        for text in [
            r#"{"x":1,"x":2,"email":"a"}"#,
            r#"{"email":"a","\u0065mail":"b"}"#,
            r#"{"email":"a","o":{"k":1,"k":2}}"#,
        ] {
            assert!(fields(text).contains("twice"), "{text}");
        }
    }

    #[test]
    fn no_key_makes_a_text_be_read_as_something_else() {
        for key in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
            let text = format!(r#"{{"email":"a","o":{{"{key}":"{{\"k\":1,\"k\":2}}"}}}}"#);
            assert!(fields(&text).contains("reserved"), "{text}");
        }
    }

    #[test]
    fn another_spelling_of_a_known_key_is_refused_where_it_could_be_read_as_it() {
        let known = ["task", "id", "flow"];
        let parse = |text: &str| parse_unmistakably::<serde_json::Value>(text.as_bytes(), &known);
        for spelling in ["Task", "TASK", "taſk", "tas\u{212a}", "\\u0054ask", "ID", "iD", "ıd", "İd", "ﬂow"]
        {
            let failure = parse(&format!(r#"{{"task":1,"{spelling}":2}}"#)).expect_err(spelling);
            assert!(failure.fields().iter().any(|(_, fault)| fault.contains("may be read as")), "{spelling}");
        }
        assert!(parse(r#"{"task":{"Task":1},"tasks":1,"t":1,"id":1,"ids":1}"#).is_ok());
    }

    #[test]
    fn unknown_fields_are_ignored_and_deep_nesting_is_refused() {
        let login: Login = parse(br#"{"email":"a","more":{"x":[1,2]}}"#).expect("read");
        assert_eq!((login.email.as_str(), login.tags.len()), ("a", 0));
        let deep = format!(r#"{{"email":"a","x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
        assert!(fields(&deep).contains("too deeply"));
    }

    #[test]
    fn only_the_canonical_form_of_a_uuid_is_an_id() {
        assert!(is_canonical_id("0199c0de-0000-7000-8000-000000000001"));
        for other in ["0199C0DE-0000-7000-8000-000000000001", "0199c0de000070008000000000000001", "", "1"] {
            assert!(!is_canonical_id(other), "{other}");
        }
    }
}
