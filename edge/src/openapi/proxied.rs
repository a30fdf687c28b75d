//! The routes to core-manager, from the gateway's table. Their bodies are not ours to describe.

use http::Method;
use serde_json::{Map, Value, json};

use crate::gateway::{Route, RouteTable, Who};

/// Adds the routes of a table. Where two have one path and method the first counts, as in the table.
pub fn add(paths: &mut Map<String, Value>, table: &RouteTable) {
    for route in table.routes() {
        let path = route.label().template().replace("{*", "{");
        let item = paths.entry(path.as_str()).or_insert_with(|| json!({}));
        for method in route.methods() {
            let name = method.as_str().to_ascii_lowercase();
            if item.get(&name).is_none() {
                item[name] = operation(route, method, &path);
            }
        }
    }
}

fn operation(route: &Route, method: &Method, path: &str) -> Value {
    let counts = route.counts().map(|resource| resource.name());
    let quota = match (counts, method) {
        (Some(resource), &Method::POST) => format!(" Counts against the quota `{resource}`."),
        (Some(resource), &Method::DELETE) => format!(" Frees its place in the quota `{resource}`."),
        _ => String::new(),
    };
    let (who, forbidden) = match route.who() {
        Who::Admin => ("administrators", Some("AUTH004")),
        Who::User => ("any user", None),
    };
    let refused = (counts.is_some() && method == Method::POST).then_some("SUB002");
    let errors: Vec<&str> = ["502 GW001"].into_iter().chain(forbidden).chain(refused).collect();
    let place = path.trim_start_matches("/api/v1/");
    let id: String = place.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mut operation = json!({
        "operationId": format!("{}_{}", method.as_str().to_ascii_lowercase(), id.trim_end_matches('_')),
        "summary": format!("{method} {place} at core-manager"),
        "description": format!("For {who}.{quota} Bodies and core-manager's own answers pass as they are."),
        "responses": answers(method),
        "x-errors": errors,
    });
    let parameters = parameters(path);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        operation["requestBody"] = json!({
            "content": { "application/json": { "schema": {}, "example": { "name": "Guide" } } },
        });
    }
    operation
}

/// What core-manager usually answers, and that it may answer anything.
fn answers(method: &Method) -> Value {
    let usual = |about: &str| {
        let example = json!({ "id": "7", "name": "Guide" });
        json!({ "description": about, "content": { "*/*": { "schema": {}, "example": example } } })
    };
    let mut answers = json!({ "default": { "description": "Any other answer of core-manager" } });
    match *method {
        Method::POST => answers["201"] = usual("What was made"),
        Method::DELETE => answers["204"] = json!({ "description": "It is gone" }),
        _ => answers["200"] = usual("What is there"),
    }
    answers
}

/// One for each name in braces.
fn parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let described = names.map(|name| {
        let schema = json!({ "type": "string", "pattern": "^[A-Za-z0-9_~-]+$", "example": "7" });
        json!({ "name": name, "in": "path", "required": true, "description": "As core-manager knows it", "schema": schema })
    });
    described.collect()
}
