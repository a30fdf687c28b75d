//! Persona instances: each belongs to a user within a client, and nobody else sees it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::identity::Identity;
use crate::shelf::{Document, Sent, complete, found, merge, removed, replace};

/// Fields that a body cannot set.
const FIXED: [&str; 4] = ["id", "owner_id", "client_id", "created_at"];
/// Fields that every instance has, besides its status.
const FIELDS: [&str; 2] = ["template_id", "name"];

/// Whose an instance is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    client_id: String,
    user_id: String,
}

impl From<&Identity> for Owner {
    fn from(caller: &Identity) -> Self {
        Owner { client_id: caller.client_id.clone(), user_id: caller.user_id.clone() }
    }
}

/// `/api/v1/personas/instances`.
pub fn routes() -> Router<Arc<App>> {
    let one = get(read).put(put).patch(patch).delete(delete);
    Router::new()
        .route("/api/v1/personas/instances", get(list).post(create))
        .route("/api/v1/personas/instances/{id}", one)
}

/// `?echo=1` asks for the identity headers in the answer.
#[derive(Deserialize)]
struct Options {
    echo: Option<String>,
}

impl Options {
    fn add_to(&self, mut instance: Document, caller: &Identity) -> Document {
        if self.echo.as_deref() == Some("1") {
            instance.insert("echo".to_owned(), json!({ "headers": caller.headers }));
        }
        instance
    }
}

async fn list(State(app): State<Arc<App>>, Extension(caller): Extension<Identity>) -> Json<Value> {
    let instances = app.instances.list(&Owner::from(&caller));
    Json(json!({ "count": instances.len(), "instances": instances }))
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Query(options): Query<Options>,
    Sent(mut instance): Sent,
) -> Response {
    shape(&mut instance);
    instance.insert("owner_id".to_owned(), caller.user_id.clone().into());
    instance.insert("client_id".to_owned(), caller.client_id.clone().into());
    let instance = app.instances.add(Owner::from(&caller), instance);
    (StatusCode::CREATED, Json(options.add_to(instance, &caller))).into_response()
}

async fn read(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Query(options): Query<Options>,
    Path(id): Path<String>,
) -> Response {
    let instance = app.instances.get(Owner::from(&caller), id);
    found(instance.map(|instance| options.add_to(instance, &caller)))
}

async fn put(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Path(id): Path<String>,
    Sent(mut sent): Sent,
) -> Response {
    shape(&mut sent);
    let change = |instance: &mut Document| replace(instance, sent, &FIXED);
    found(app.instances.change(Owner::from(&caller), id, change))
}

async fn patch(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Path(id): Path<String>,
    Sent(sent): Sent,
) -> Response {
    let change = |instance: &mut Document| merge(instance, sent, &FIXED);
    found(app.instances.change(Owner::from(&caller), id, change))
}

async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    removed(app.instances.remove(Owner::from(&caller), id))
}

fn shape(instance: &mut Document) {
    complete(instance, &FIELDS);
    instance.entry("status").or_insert("active".into());
}
