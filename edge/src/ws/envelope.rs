//! The messages of the socket.

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
const KEYS: [&str; 3] = ["type", "id", "data"];
const KEYS_OF_A_START: [&str; 4] = ["workflow_type", "agent_instance_id", "project_id", "parameters"];

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

/// The answer to a start that was sent again: where the workflow stands, as far as that is known.
pub fn repeated(correlation_id: &str, mut state: Value) -> String {
    state["repeated"] = true.into();
    message("workflow_status", Some(correlation_id), Some(state))
}

/// The refusal of a message.
pub fn error(correlation_id: Option<&str>, failure: &Failure) -> String {
    let mut error = json!({ "code": failure.code().name(), "message": failure.message() });
    let body = crate::answer::body(failure, "");
    if let Some(details) = body["error"].get("details") {
        error["details"] = details.clone();
    }
    write(Reply { kind: "error", id: Uuid::now_v7(), correlation_id, data: None, error: Some(error) })
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
        ] {
            assert!(Envelope::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            let _ = Envelope::parse(&text);
        }
    }
}
