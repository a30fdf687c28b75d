//! The messages of the socket.

use std::time::Duration;

use contract::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::json::{self, Id};

/// The longest `type` and `id` of a message, in bytes.
const MAX_NAME: usize = 128;

/// What the edge reads of a message, and of a start. Both pass on as they came, so that nothing in them may be read as
/// one of these that is another.
pub const KEYS: [&str; 3] = ["type", "id", "data"];
pub const KEYS_OF_A_START: [&str; 4] = ["workflow_type", "agent_instance_id", "project_id", "parameters"];

/// The types of messages that mean something to the edge.
pub mod kind {
    macro_rules! kinds {
        ($(#[doc = $doc:literal])* $all:ident: $($name:ident = $text:literal;)*) => {
            $(pub const $name: &str = $text;)*
            $(#[doc = $doc])*
            #[cfg(test)]
            pub const $all: &[&str] = &[$($name),*];
        };
    }

    kinds! {
        /// Those of the client.
        OF_THE_CLIENT:
        PING = "ping";
        AUTH_REFRESH = "auth.refresh";
        START_WORKFLOW = "start_workflow";
    }

    kinds! {
        /// Those of the server.
        OURS:
        CONNECTED = "connected";
        PONG = "pong";
        AUTH_REFRESHED = "auth.refreshed";
        AUTH_CHANGED = "auth.changed";
        WORKFLOW_STATUS = "workflow_status";
        ERROR = "error";
    }
}

/// A message of the client.
#[derive(Debug, Deserialize)]
pub struct Envelope {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
}

impl Envelope {
    /// Reads a message.
    ///
    /// # Errors
    /// REQ001, which names the field.
    pub fn parse(text: &str) -> Outcome<Envelope> {
        let envelope: Envelope = json::parse_unmistakably(text.as_bytes(), &KEYS)?;
        for (field, value) in [("type", &envelope.kind), ("id", &envelope.id)] {
            if value.is_empty() || value.len() > MAX_NAME {
                return Err(Failure::field(field, format!("must have 1 to {MAX_NAME} bytes")));
            }
        }
        // A reader that is not strict would start a workflow that nobody has counted.
        let is_start = envelope.kind == kind::START_WORKFLOW;
        if !is_start && json::is_read_as(envelope.kind.trim(), kind::START_WORKFLOW) {
            return Err(Failure::field("type", format!("must be written {}", kind::START_WORKFLOW)));
        }
        Ok(envelope)
    }

    /// The `data` of a message as its type wants it.
    ///
    /// # Errors
    /// REQ001, which names the field.
    pub fn data<T: serde::de::DeserializeOwned>(&self) -> Outcome<T> {
        let data = self.data.as_ref().ok_or_else(|| Failure::field("data", "is required"))?;
        json::parse_unmistakably(data.get().as_bytes(), &KEYS_OF_A_START)
    }
}

/// `data` of `start_workflow`.
#[derive(Debug, Deserialize)]
pub struct StartWorkflow {
    workflow_type: String,
    /// Only checked to be there: instances are core-manager's.
    agent_instance_id: String,
    pub project_id: Id,
    #[serde(rename = "parameters")]
    _parameters: Map<String, Value>,
}

impl StartWorkflow {
    /// Whether all that must be said is said.
    ///
    /// # Errors
    /// REQ001, which names the field.
    pub fn check(&self) -> Outcome<()> {
        let texts = [("workflow_type", &self.workflow_type), ("agent_instance_id", &self.agent_instance_id)];
        match texts.iter().find(|(_, text)| text.is_empty()) {
            Some((field, _)) => Err(Failure::field(*field, "must not be empty")),
            None => Ok(()),
        }
    }
}

/// `data` of `auth.refresh`.
#[derive(Deserialize)]
pub struct AuthRefresh {
    pub access_token: String,
}

#[derive(Serialize)]
struct Reply<'m> {
    #[serde(rename = "type")]
    kind: &'m str,
    id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// A message of ours.
pub fn message(kind: &str, correlation_id: Option<&str>, data: Option<Value>) -> String {
    write(Reply { kind, id: Uuid::now_v7(), correlation_id, data, error: None })
}

/// The first message of each socket.
pub fn connected(session_id: &str, user_id: &str, heartbeat: Duration, max_message_bytes: usize) -> String {
    let data = json!({
        "session_id": session_id,
        "user_id": user_id,
        "heartbeat_s": heartbeat.as_secs(),
        "max_message_bytes": max_message_bytes,
    });
    message(kind::CONNECTED, None, Some(data))
}

/// The answer to a start that was sent again: where the workflow stands, as far as that is known.
pub fn repeated(correlation_id: &str, mut state: Value) -> String {
    state["repeated"] = true.into();
    message(kind::WORKFLOW_STATUS, Some(correlation_id), Some(state))
}

/// The refusal of a message.
pub fn error(correlation_id: Option<&str>, failure: &Failure) -> String {
    let mut error = json!({ "code": failure.code().name(), "message": failure.message() });
    let body = crate::answer::body(failure, "");
    if let Some(details) = body["error"].get("details") {
        error["details"] = details.clone();
    }
    write(Reply { kind: kind::ERROR, id: Uuid::now_v7(), correlation_id, data: None, error: Some(error) })
}

fn write(reply: Reply<'_>) -> String {
    serde_json::to_string(&reply).unwrap_or_else(|e| unreachable!("plain JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_needs_a_type_and_an_id() {
        assert!(Envelope::parse(r#"{"type":"ping","id":"1"}"#).is_ok());
        for text in [
            "",
            "1",
            "{}",
            r#"{"type":"ping"}"#,
            r#"{"type":"","id":"1"}"#,
            r#"{"type":1,"id":"1"}"#,
            r#"{"type":"a","type":"b","id":"1"}"#,
            r#"["custom","77",{}]"#,
            r#"{"type":"a","id":"1","Type":"start_workflow"}"#,
            r#"{"type":"a","id":"1","DATA":{}}"#,
            r#"{"type":"Start_Workflow","id":"1"}"#,
            r#"{"type":" start_workflow","id":"1"}"#,
            r#"{"type":"\u017ftart_workflow","id":"1"}"#,
        ] {
            assert!(Envelope::parse(text).is_err(), "{text}");
        }
    }

    /// The entries of an object in their order, however often a key stands there.
    struct Entries(Vec<(String, Value)>);

    impl<'de> Deserialize<'de> for Entries {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Reader;

            impl<'de> serde::de::Visitor<'de> for Reader {
                type Value = Entries;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                    let mut entries = Vec::new();
                    while let Some(entry) = map.next_entry()? {
                        entries.push(entry);
                    }
                    Ok(Entries(entries))
                }
            }

            deserializer.deserialize_map(Reader)
        }
    }

    impl Entries {
        fn of(text: &str) -> Self {
            serde_json::from_str(text).expect("an object")
        }

        /// What readers that ignore case find, of which some take the first value and others the last.
        fn read(&self, key: &str) -> Vec<&Value> {
            let is = |name: &str| name.to_lowercase() == key || name.to_uppercase() == key.to_uppercase();
            self.0.iter().filter(|(name, _)| is(name)).map(|(_, value)| value).collect()
        }
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// What is forwarded is read alike by everybody, in all that decides here.
    fn has_one_reading(text: &str) {
        let Ok(envelope) = Envelope::parse(text) else { return };
        let entries = Entries::of(text);
        assert_eq!(entries.read("type"), [&Value::from(envelope.kind.as_str())]);
        assert_eq!(entries.read("id"), [&Value::from(envelope.id.as_str())]);
        assert!(depth(&serde_json::from_str(text).expect("JSON")) <= 33);
        let data = entries.read("data");
        assert!(data.len() <= 1);
        let Ok(start) = envelope.data::<StartWorkflow>() else { return };
        let entries = Entries::of(envelope.data.as_ref().expect("data").get());
        assert_eq!(entries.read("project_id"), [&Value::from(start.project_id.0)]);
        assert_eq!(entries.read("workflow_type"), [&Value::from(start.workflow_type)]);
        assert_eq!(entries.read("agent_instance_id"), [&Value::from(start.agent_instance_id)]);
        assert_eq!(entries.read("parameters").len(), 1);
    }

    #[test]
    fn whatever_is_passed_on_is_read_alike_by_all_readers() {
        fuzzing::check(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/envelope"), |input| {
            if let Ok(text) = std::str::from_utf8(input) {
                has_one_reading(text);
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            let _ = Envelope::parse(&text);
        }
    }
}
