//! An example for each body, put together from the examples of its fields.

use serde_json::{Map, Value, json};

/// Adds an example to each request and answer that has none of its own.
pub fn add(paths: &mut Map<String, Value>, components: &Map<String, Value>) {
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations {
        let body = operation.get_mut("requestBody").and_then(|body| body.get_mut("content"));
        body.into_iter().for_each(|content| of_content(content, components));
        let answers = operation.get_mut("responses").and_then(Value::as_object_mut);
        let answers = answers.into_iter().flat_map(Map::values_mut);
        answers
            .filter_map(|answer| answer.get_mut("content"))
            .for_each(|content| of_content(content, components));
    }
}

fn of_content(content: &mut Value, components: &Map<String, Value>) {
    for media in content.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if media.get("example").is_none() {
            media["example"] = of_schema(&media["schema"], components);
        }
    }
}

fn of_schema(schema: &Value, components: &Map<String, Value>) -> Value {
    if let Some(example) = schema.get("example").or_else(|| schema["examples"].get(0)) {
        return example.clone();
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return components.get("schemas").map_or(Value::Null, |all| of_schema(&all[name], components));
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let one = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    if let Some(one) = one.and_then(|all| all.iter().find(|schema| schema["type"] != "null")) {
        return of_schema(one, components);
    }
    let is = |name: &str| schema["type"] == name || schema["type"].get(0).is_some_and(|first| first == name);
    match &schema["properties"] {
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), of_schema(field, components))).collect()
        }
        _ if is("array") => json!([of_schema(&schema["items"], components)]),
        _ if is("boolean") => json!(false),
        _ if is("integer") || is("number") => json!(1),
        _ if is("string") => json!("a text"),
        _ => json!({}),
    }
}
