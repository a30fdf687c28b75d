//! What an operation can be refused with: the codes that it names itself, and those that follow from what it is. What
//! they say comes from the error table.

use std::collections::{BTreeMap, BTreeSet};

use contract::ErrorCode;
use serde_json::{Map, Value, json};

use super::{Operation, code, refer};

/// Codes by their status.
type Refusals = BTreeMap<u16, BTreeSet<&'static str>>;

/// The refusals of an operation, whose own `x-errors` names codes, each with its status where that is not the usual one.
pub fn of(operation: &Operation<'_>) -> Refusals {
    let own = operation.fields.get("x-errors").and_then(Value::as_array).into_iter().flatten();
    let mut refusals = Refusals::new();
    let mut add = |status: u16, code: ErrorCode| {
        refusals.entry(status).or_default().insert(code.name());
    };
    for told in own.filter_map(Value::as_str) {
        match told.split_once(' ') {
            Some((status, name)) => add(status.parse().unwrap_or_default(), code(name)),
            None => add(code(told).http().as_u16(), code(told)),
        }
    }
    use ErrorCode as E;
    add(400, E::InvalidRequest);
    add(431, E::Unacceptable);
    add(500, E::Internal);
    add(503, E::Overloaded);
    if operation.tag() != "platform" || !operation.is_public() {
        add(503, E::Unavailable);
        add(504, E::Timeout);
    }
    if !operation.is_public() {
        add(401, E::TokenExpired);
        add(401, E::TokenInvalid);
        // Signing out is possible at any rate.
        if operation.path != "/api/v1/auth/logout" {
            add(429, E::RateLimited);
        }
    }
    if operation.tag() == "admin" || operation.fields.contains_key("x-people-only") {
        add(403, E::Forbidden);
    }
    if operation.is_repeatable() || operation.has_body() && !operation.is_proxied() {
        add(413, E::Unacceptable);
    }
    // The gateway passes any body on; the signature of Stripe is over whatever came.
    if operation.has_body() && !operation.is_proxied() && !operation.path.starts_with("/webhooks") {
        add(415, E::Unacceptable);
    }
    refusals
}

/// The name of an answer, the same for all operations that have it.
pub fn name(status: u16, codes: &BTreeSet<&str>) -> String {
    codes.iter().fold(status.to_string(), |name, code| format!("{name}_{code}"))
}

/// The answer with one of these codes.
pub fn answer(status: u16, codes: &BTreeSet<&str>) -> Value {
    let lines: Vec<String> = codes.iter().map(|name| format!("{name}: {}", code(name).message())).collect();
    let mut headers = vec![("X-Request-ID", "RequestId")];
    match status {
        401 => headers.push(("WWW-Authenticate", "WwwAuthenticate")),
        429 | 503 => headers.push(("Retry-After", "RetryAfter")),
        _ => {}
    }
    let names: Vec<&str> = codes.iter().copied().collect();
    let of_these = json!({ "properties": { "error": { "properties": { "code": { "enum": names } } } } });
    json!({
        "description": lines.join("; "),
        "headers": refer(&headers),
        "content": { "application/json": {
            "schema": { "allOf": [{ "$ref": "#/components/schemas/Error" }, of_these] },
            "example": example(names.first().copied().unwrap_or_default()),
        } },
    })
}

fn example(name: &str) -> Value {
    let mut error = Map::new();
    error.insert("code".to_owned(), name.into());
    error.insert("message".to_owned(), code(name).message().into());
    if name == ErrorCode::InvalidRequest.name() {
        error.insert("details".to_owned(), json!({ "fields": { "email": "must be an e-mail address" } }));
    }
    json!({ "error": error, "request_id": "0199c0de-0000-7000-8000-000000000002" })
}

/// The answer to a method that a path does not have.
pub fn other_method() -> Value {
    let mut answer = answer(405, &BTreeSet::from([ErrorCode::NoSuchRoute.name()]));
    answer["headers"] = refer(&[("X-Request-ID", "RequestId"), ("Allow", "Allow")]);
    answer
}

/// The one shape of errors.
pub fn shape() -> Value {
    json!({
        "type": "object",
        "description": "The one shape of errors",
        "required": ["error", "request_id"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "$ref": "#/components/schemas/ErrorCode" },
                    "message": { "type": "string", "description": "For people" },
                    "details": {
                        "type": "object",
                        "description": "What the code is about; `fields` says what is wrong with each field",
                        "properties": {
                            "fields": { "type": "object", "additionalProperties": { "type": "string" } },
                        },
                    },
                },
            },
            "request_id": { "type": "string", "description": "The `X-Request-ID` of the answer" },
        },
    })
}
