//! Whether `docs/asyncapi.yaml` says of the socket what the code does: the same messages, fields and close codes.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::{ErrorCode, Failure};
use serde_json::{Value, json};

use super::envelope::{self, Envelope, KEYS, KEYS_OF_A_START, StartWorkflow, kind};
use super::session::close;

fn document() -> Value {
    yaml_serde::from_str(include_str!("../../../docs/asyncapi.yaml")).expect("YAML")
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// What a message adds to the envelope.
fn own<'d>(document: &'d Value, kind: &str) -> &'d Value {
    &document["components"]["messages"][kind]["payload"]["allOf"][1]
}

fn data<'d>(document: &'d Value, kind: &str) -> &'d Value {
    &own(document, kind)["properties"]["data"]
}

/// Whether the document has the fields of what a message of ours is about.
pub fn must_be_described(text: &str) {
    let document = document();
    let message: Value = serde_json::from_str(text).expect("JSON");
    let kind = message["type"].as_str().expect("a type");
    assert_eq!(keys(&message["data"]), keys(&data(&document, kind)["properties"]), "{kind}");
}

#[test]
fn the_document_of_the_socket_has_the_messages_and_close_codes_of_the_code() {
    let document = document();
    let known: BTreeSet<&str> =
        kind::OF_THE_CLIENT.iter().chain(kind::OURS).copied().chain(["other"]).collect();
    assert_eq!(keys(&document["components"]["messages"]), known);
    assert_eq!(keys(&document["channels"]["socket"]["messages"]), known);
    for (operation, kinds) in [("talk", kind::OF_THE_CLIENT), ("answer", kind::OURS)] {
        let messages = document["operations"][operation]["messages"].as_array().expect("messages");
        let names = messages.iter().filter_map(|message| message["$ref"].as_str()?.rsplit('/').next());
        let names: BTreeSet<&str> = names.filter(|name| *name != "other").collect();
        assert_eq!(names, kinds.iter().copied().collect(), "{operation}");
    }
    for kind in kind::OF_THE_CLIENT.iter().chain(kind::OURS) {
        assert_eq!(own(&document, kind)["properties"]["type"]["const"], *kind);
    }
    let codes: BTreeSet<String> = close::ALL.iter().map(u16::to_string).collect();
    let told = keys(&document["channels"]["socket"]["x-close-codes"]);
    assert_eq!(told, codes.iter().map(String::as_str).collect());
}

#[test]
fn the_document_of_the_socket_has_the_fields_that_a_client_sends() {
    let document = document();
    assert_eq!(keys(&document["components"]["schemas"]["fromClient"]["properties"]), KEYS.into());
    let start = data(&document, kind::START_WORKFLOW);
    assert_eq!(keys(&start["properties"]), KEYS_OF_A_START.into());
    assert_eq!(start["required"], json!(KEYS_OF_A_START));
    for kind in kind::OF_THE_CLIENT.iter().copied().chain(["other"]) {
        let example = &document["components"]["messages"][kind]["examples"][0]["payload"];
        let envelope = Envelope::parse(&example.to_string()).expect("an envelope");
        match kind {
            kind::START_WORKFLOW => {
                envelope.data::<StartWorkflow>().and_then(|start| start.check()).expect("a start");
            }
            kind::AUTH_REFRESH => {
                envelope.data::<envelope::AuthRefresh>().map(drop).expect("a refresh");
                assert_eq!(keys(&data(&document, kind)["properties"]), ["access_token"].into());
            }
            _ => {}
        }
    }
}

#[test]
fn the_document_of_the_socket_has_the_fields_that_the_server_sends() {
    let document = document();
    let envelope = &document["components"]["schemas"]["fromServer"]["properties"];
    let failure = Failure::field("id", "is required");
    let sent = [
        envelope::connected("s", "u", Duration::from_secs(25), 65536),
        envelope::error(Some("1"), &failure),
        envelope::repeated("1", json!({ "status": "completed", "step": "", "progress": 1.0, "result": {} })),
    ];
    let mut fields = BTreeSet::new();
    for text in &sent {
        let message: Value = serde_json::from_str(text).expect("JSON");
        let kind = message["type"].as_str().expect("a type");
        fields.extend(keys(&message).into_iter().map(str::to_owned));
        if message.get("data").is_some() {
            must_be_described(text);
        } else {
            assert_eq!(keys(&message["error"]), keys(&envelope["error"]["properties"]), "{kind}");
        }
    }
    assert_eq!(fields.iter().map(String::as_str).collect::<BTreeSet<_>>(), keys(envelope));
    let code =
        document["components"]["messages"]["error"]["examples"][0]["payload"]["error"]["code"].as_str();
    assert_eq!(code.expect("a code").parse(), Ok(ErrorCode::QuotaExceeded));
}
