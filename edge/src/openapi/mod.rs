//! What the public listener offers, as OpenAPI 3.1. Each route describes itself where its handler is; here is what they
//! have in common: refusals from the error table, headers, examples, and the routes to core-manager.

mod browser;
mod examples;
pub mod kinds;
mod proxied;
mod refusals;

use contract::ErrorCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::gateway::RouteTable;
use crate::idempotency;

pub use browser::{PLACES, described, when_asked};

/// What all paths that begin so are about.
const TAGS: [(&str, &str, &str); 8] = [
    ("/api/v1/auth", "auth", "Signing in and out, sessions, what goes by mail"),
    ("/api/v1/user", "user", "The own account"),
    ("/api/v1/projects", "projects", "Projects"),
    ("/api/v1/subscription", "subscription", "Subscriptions, usage, payment"),
    ("/webhooks", "subscription", ""),
    ("/api/v1/admin", "admin", "For administrators"),
    ("/api/v1", "gateway", "What core-manager serves, for callers that are known"),
    ("", "platform", "The service itself"),
];

const DESCRIPTION: &str = "The front door of the AI Persona Platform.

Every answer has an `X-Request-ID`; every error has the one shape `Error`. A path that is not described is REQ002 with \
404, a method that a path does not have is REQ002 with 405 and `Allow`. Unknown JSON fields and query parameters are \
ignored; a key that stands twice in an object is REQ001, as is nesting of more than 32 levels. A GET may be sent as a \
HEAD. Ids are UUIDs in lower case, times are in UTC.";

/// An operation of the document, and where it stands.
struct Operation<'d> {
    method: &'d str,
    path: &'d str,
    fields: &'d mut Map<String, Value>,
}

impl Operation<'_> {
    /// Whether it needs no token.
    fn is_public(&self) -> bool {
        self.fields.contains_key("security")
    }

    fn is_proxied(&self) -> bool {
        self.tag() == "gateway"
    }

    fn is_repeatable(&self) -> bool {
        self.method == "post" && (self.is_proxied() || idempotency::is_honoured(self.path))
    }

    fn tag(&self) -> &'static str {
        let found = TAGS.iter().find(|(place, ..)| self.path.starts_with(place));
        found.map_or("platform", |(_, tag, _)| tag)
    }

    fn has_body(&self) -> bool {
        self.fields.contains_key("requestBody")
    }
}

/// The whole document: our own routes as they describe themselves, and those of the gateway's table.
pub fn document(ours: OpenApi, table: &RouteTable) -> Value {
    let mut document = json!(ours);
    document["info"] = json!({
        "title": "AI Persona Platform",
        "description": DESCRIPTION,
        "version": chassis::VERSION,
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["security"] = json!([{ "bearer": [] }]);
    document["tags"] = tags();
    let mut paths = take(&mut document, "paths");
    proxied::add(&mut paths, table);
    let mut components = take(&mut document, "components");
    let mut responses = Map::new();
    for (path, item) in &mut paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let Some(fields) = operation.as_object_mut() else { continue };
            complete(Operation { method, path, fields }, &mut responses);
        }
    }
    responses.insert("MethodNotAllowed".to_owned(), refusals::other_method());
    components.insert("responses".to_owned(), Value::Object(responses));
    components.insert("headers".to_owned(), headers());
    components.insert("parameters".to_owned(), parameters());
    components.insert("securitySchemes".to_owned(), security());
    if let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) {
        schemas.extend(kinds::all().into_iter().map(|(name, kind)| (name.to_owned(), json!(kind))));
        schemas.insert("Error".to_owned(), refusals::shape());
    }
    examples::add(&mut paths, &components);
    document["paths"] = Value::Object(paths);
    document["components"] = Value::Object(components);
    document
}

fn take(document: &mut Value, name: &str) -> Map<String, Value> {
    match document[name].take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Adds what follows from where an operation stands.
fn complete(operation: Operation<'_>, responses: &mut Map<String, Value>) {
    let refusals = refusals::of(&operation);
    let (is_public, is_repeatable) = (operation.is_public(), operation.is_repeatable());
    let tag = operation.tag();
    let Operation { fields, .. } = operation;
    fields.remove("x-errors");
    fields.insert("tags".to_owned(), json!([tag]));
    if is_repeatable {
        let parameters = fields.entry("parameters").or_insert_with(|| json!([]));
        let key = json!({ "$ref": "#/components/parameters/IdempotencyKey" });
        parameters.as_array_mut().into_iter().for_each(|all| all.push(key.clone()));
    }
    let summary = fields.get("summary").cloned().unwrap_or_default();
    let Some(answers) = fields.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for answer in answers.values_mut() {
        let mut names = vec![("X-Request-ID", "RequestId")];
        if !is_public {
            names.extend([("RateLimit", "RateLimit"), ("RateLimit-Policy", "RateLimitPolicy")]);
        }
        if is_repeatable {
            names.push(("Idempotency-Replayed", "IdempotencyReplayed"));
        }
        answer["headers"] = refer(&names);
        if answer["description"].as_str().is_none_or(str::is_empty) {
            answer["description"] = summary.clone();
        }
    }
    for (status, codes) in refusals {
        let name = refusals::name(status, &codes);
        answers.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
        responses.entry(name).or_insert_with(|| refusals::answer(status, &codes));
    }
}

/// Headers by name, each described once.
fn refer(names: &[(&str, &str)]) -> Value {
    let refer = |(name, of): &(&str, &str)| {
        ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{of}") }))
    };
    Value::Object(names.iter().map(refer).collect())
}

fn tags() -> Value {
    let told = TAGS.iter().filter(|(_, _, about)| !about.is_empty());
    told.map(|(_, name, about)| json!({ "name": name, "description": about })).collect()
}

fn headers() -> Value {
    let header = |about: &str, schema: Value, is_required: bool| json!({ "description": about, "schema": schema, "required": is_required });
    let text = || json!({ "type": "string" });
    let seconds = json!({ "type": "integer", "minimum": 1 });
    json!({
        "RequestId": header("By which the request is found in all logs", text(), true),
        "RetryAfter": header("Seconds after which it is worth trying again", seconds, false),
        "RateLimit": header("How many more requests are admitted at once (`r`), and the seconds until there is one more \
                             (`t`); absent without a limit", text(), false),
        "RateLimitPolicy": header("The limit of the tier (`q`) in so many seconds (`w`)", text(), false),
        "Allow": header("The methods that the path has", text(), true),
        "WwwAuthenticate": header("What is asked for (RFC 6750)", text(), true),
        "IdempotencyReplayed": header("`true` when it is the answer of an earlier request with the same `Idempotency-Key`",
                                      text(), false),
    })
}

fn parameters() -> Value {
    let about = "Of several requests with one key one runs, and all get its answer. The same key with another body is REQ001.";
    json!({ "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": about,
        "schema": { "type": "string", "minLength": 1, "maxLength": idempotency::MAX_KEY, "pattern": "^[!-~]+$" },
    } })
}

fn security() -> Value {
    let about = "An access token of `/api/v1/auth/login`, or an API key where an operation has no `x-people-only`. Which claims \
         count is looked up anew for each request.";
    json!({ "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": about } })
}

/// A code of the error table by its name.
fn code(name: &str) -> ErrorCode {
    name.parse().unwrap_or_else(|()| unreachable!("{name} is not in the error table"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes;

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        let paths = document["paths"].as_object().expect("paths");
        paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().expect("operations");
            item.iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        let pointer = reference.strip_prefix('#').expect("of this document");
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    fields.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, document)),
                _ => {}
            }
        }
        let document = routes::document(&RouteTable::new(Vec::new()));
        walk(&document, &document);
    }

    #[test]
    fn every_operation_has_its_own_id_a_summary_and_examples() {
        let document = routes::document(&RouteTable::new(Vec::new()));
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{name}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
            let bodies = operation["requestBody"]["content"].as_object();
            let answers = operation["responses"].as_object().expect("responses").values();
            let answers = answers.filter_map(|answer| answer["content"].as_object());
            for (media, content) in bodies.into_iter().chain(answers).flatten() {
                assert!(!content["example"].is_null(), "{name}: {media}");
            }
        }
    }

    #[test]
    fn each_code_of_the_table_is_an_answer_of_some_operation() {
        let document = routes::document(&RouteTable::new(Vec::new())).to_string();
        for code in ErrorCode::all() {
            assert!(document.contains(&format!("{}: {}", code.name(), code.message())), "{code}");
        }
    }
}
