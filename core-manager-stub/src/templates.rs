//! Persona templates. They belong to nobody; the gateway lets administrators alone come here.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use crate::app::App;
use crate::identity::Identity;
use crate::shelf::{Document, Sent, complete, found, removed, replace};

/// Fields that a body cannot set.
const FIXED: [&str; 3] = ["id", "created_at", "created_by"];
/// Fields that every template has.
const FIELDS: [&str; 2] = ["name", "description"];

/// `/api/v1/templates`.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/templates", get(list).post(create))
        .route("/api/v1/templates/{id}", get(read).put(update).delete(delete))
}

async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let templates = app.templates.list(&());
    Json(json!({ "count": templates.len(), "templates": templates }))
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Sent(mut template): Sent,
) -> (StatusCode, Json<Document>) {
    complete(&mut template, &FIELDS);
    template.insert("created_by".to_owned(), caller.user_id.into());
    (StatusCode::CREATED, Json(app.templates.add((), template)))
}

async fn read(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    found(app.templates.get((), id))
}

async fn update(State(app): State<Arc<App>>, Path(id): Path<String>, Sent(mut sent): Sent) -> Response {
    complete(&mut sent, &FIELDS);
    found(app.templates.change((), id, |template| replace(template, sent, &FIXED)))
}

async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    removed(app.templates.remove((), id))
}
