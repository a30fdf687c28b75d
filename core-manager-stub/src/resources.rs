//! Templates and persona instances, in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::identity::{header, received};
use crate::recorder::Seen;
use crate::server::{Stub, refusal};

/// Things by their id, which grows with time.
pub type Collection = BTreeMap<String, Map<String, Value>>;

pub fn lock(all: &Mutex<Collection>) -> MutexGuard<'_, Collection> {
    all.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn routes() -> Router<Stub> {
    Router::new()
        .route("/api/v1/templates", get(list_templates).post(create_template))
        .route(
            "/api/v1/templates/{id}",
            get(template).put(change_template).delete(remove_template),
        )
        .route(
            "/api/v1/personas/instances",
            get(list_instances).post(create_instance),
        )
        .route(
            "/api/v1/personas/instances/{id}",
            get(instance)
                .put(change_instance)
                .patch(change_instance)
                .delete(remove_instance),
        )
}

fn now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}", since.as_secs())
}

fn created(mut body: Map<String, Value>, headers: &HeaderMap) -> (String, Map<String, Value>) {
    let id = Uuid::now_v7().to_string();
    body.insert("id".to_owned(), id.clone().into());
    body.insert("created_at".to_owned(), now().into());
    body.insert("owner_id".to_owned(), header(headers, "x-user-id").into());
    body.insert("client_id".to_owned(), header(headers, "x-client-id").into());
    body.entry("status").or_insert("active".into());
    (id, body)
}

fn gone() -> Response {
    refusal(404, "not found").into_response()
}

type Body1 = Json<Map<String, Value>>;

async fn list_templates(State(stub): State<Stub>) -> Json<Value> {
    let all: Vec<_> = lock(&stub.0.templates).values().cloned().collect();
    Json(json!({ "templates": all, "count": all.len() }))
}

async fn create_template(State(stub): State<Stub>, headers: HeaderMap, Json(body): Body1) -> Response {
    let (id, body) = created(body, &headers);
    lock(&stub.0.templates).insert(id, body.clone());
    (StatusCode::CREATED, Json(body)).into_response()
}

async fn template(State(stub): State<Stub>, Path(id): Path<String>) -> Response {
    lock(&stub.0.templates)
        .get(&id)
        .map_or_else(gone, |body| Json(body.clone()).into_response())
}

async fn change_template(State(stub): State<Stub>, Path(id): Path<String>, Json(body): Body1) -> Response {
    let mut all = lock(&stub.0.templates);
    let Some(known) = all.get_mut(&id) else {
        return gone();
    };
    known.extend(body.into_iter().filter(|(name, _)| name != "id"));
    Json(known.clone()).into_response()
}

async fn remove_template(State(stub): State<Stub>, Path(id): Path<String>) -> Response {
    lock(&stub.0.templates)
        .remove(&id)
        .map_or_else(gone, |_| StatusCode::NO_CONTENT.into_response())
}

/// `?echo=1` adds the identity headers to the answer.
#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    echo: u8,
}

fn with_echo(mut body: Map<String, Value>, options: &Options, headers: &HeaderMap) -> Json<Value> {
    if options.echo == 1 {
        body.insert("echo".to_owned(), json!({ "headers": received(headers) }));
    }
    Json(Value::Object(body))
}

fn is_mine(body: &Map<String, Value>, headers: &HeaderMap) -> bool {
    body["owner_id"] == header(headers, "x-user-id") && body["client_id"] == header(headers, "x-client-id")
}

async fn list_instances(
    State(stub): State<Stub>,
    headers: HeaderMap,
    Query(options): Query<Options>,
) -> Json<Value> {
    let all = lock(&stub.0.instances);
    let mine: Vec<_> = all
        .values()
        .filter(|body| is_mine(body, &headers))
        .cloned()
        .collect();
    let body = Map::from_iter([
        ("count".to_owned(), mine.len().into()),
        ("instances".to_owned(), mine.into()),
    ]);
    with_echo(body, &options, &headers)
}

async fn create_instance(
    State(stub): State<Stub>,
    headers: HeaderMap,
    Query(options): Query<Options>,
    Json(body): Body1,
) -> Response {
    let (id, body) = created(body, &headers);
    lock(&stub.0.instances).insert(id, body.clone());
    (StatusCode::CREATED, with_echo(body, &options, &headers)).into_response()
}

async fn instance(
    State(stub): State<Stub>,
    headers: HeaderMap,
    Query(options): Query<Options>,
    Path(id): Path<String>,
) -> Response {
    let found = lock(&stub.0.instances)
        .get(&id)
        .filter(|body| is_mine(body, &headers))
        .cloned();
    found.map_or_else(gone, |body| with_echo(body, &options, &headers).into_response())
}

async fn change_instance(
    State(stub): State<Stub>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(body): Body1,
) -> Response {
    let mut all = lock(&stub.0.instances);
    let Some(known) = all.get_mut(&id).filter(|body| is_mine(body, &headers)) else {
        return gone();
    };
    known.extend(
        body.into_iter()
            .filter(|(name, _)| !matches!(name.as_str(), "id" | "owner_id" | "client_id")),
    );
    Json(known.clone()).into_response()
}

async fn remove_instance(State(stub): State<Stub>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let mut all = lock(&stub.0.instances);
    if !all.get(&id).is_some_and(|body| is_mine(body, &headers)) {
        return gone();
    }
    all.remove(&id);
    StatusCode::NO_CONTENT.into_response()
}

/// Says what came: method, path and headers as on the wire, and the body's length and, in part, text. The body is
/// read in pieces and not kept beyond 64 KiB.
pub async fn echo(request: Request) -> Json<Value> {
    let seen = Seen::of(&request);
    let (mut text, mut length) = (Vec::new(), 0);
    let mut body: axum::body::BodyDataStream = Body::into_data_stream(request.into_body());
    while let Some(Ok(chunk)) = body.next().await {
        length += chunk.len();
        let room = (64 * 1024usize).saturating_sub(text.len()).min(chunk.len());
        text.extend_from_slice(&chunk[..room]);
    }
    Json(json!({
        "method": seen.method,
        "path": seen.path,
        "headers": seen.headers,
        "body": String::from_utf8_lossy(&text),
        "body_length": length,
    }))
}

/// `X-Stub-Echo: 1` makes any route an echo.
pub async fn echo_on_request(request: Request, next: Next) -> Response {
    if request.headers().contains_key("x-stub-echo") {
        return echo(request).await.into_response();
    }
    next.run(request).await
}
