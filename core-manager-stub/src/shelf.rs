//! JSON documents in memory, and how a request creates and changes one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Bytes};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::answers::detail;
use crate::app::lock;

/// The fields of a document.
pub type Document = Map<String, Value>;

/// Documents by scope and id. Ids grow with time, so the order is that of creation. A document of another scope is
/// as good as absent.
pub struct Shelf<S>(Mutex<BTreeMap<(S, String), Document>>);

impl<S> Default for Shelf<S> {
    fn default() -> Self {
        Shelf(Mutex::default())
    }
}

impl<S: Ord> Shelf<S> {
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    pub fn list(&self, scope: &S) -> Vec<Document> {
        let documents = lock(&self.0);
        let within = documents.iter().filter(|((of, _), _)| of == scope);
        within.map(|(_, document)| document.clone()).collect()
    }

    pub fn get(&self, scope: S, id: String) -> Option<Document> {
        lock(&self.0).get(&(scope, id)).cloned()
    }

    /// Gives the document its id and time.
    pub fn add(&self, scope: S, mut document: Document) -> Document {
        let id = Uuid::now_v7().to_string();
        document.insert("id".to_owned(), id.clone().into());
        document.insert("created_at".to_owned(), now());
        lock(&self.0).insert((scope, id), document.clone());
        document
    }

    pub fn change(&self, scope: S, id: String, change: impl FnOnce(&mut Document)) -> Option<Document> {
        let mut documents = lock(&self.0);
        let document = documents.get_mut(&(scope, id))?;
        change(document);
        document.insert("updated_at".to_owned(), now());
        Some(document.clone())
    }

    pub fn remove(&self, scope: S, id: String) -> bool {
        lock(&self.0).remove(&(scope, id)).is_some()
    }
}

fn now() -> Value {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true).into()
}

/// PUT: what was sent takes the place of what was there, but for the fields that nobody may set.
pub fn replace(document: &mut Document, mut sent: Document, fixed: &[&str]) {
    sent.retain(|name, _| !fixed.contains(&name.as_str()));
    document.retain(|name, _| fixed.contains(&name.as_str()));
    document.append(&mut sent);
}

/// PATCH: what was sent is laid over what was there.
pub fn merge(document: &mut Document, mut sent: Document, fixed: &[&str]) {
    sent.retain(|name, _| !fixed.contains(&name.as_str()));
    document.append(&mut sent);
}

/// Gives each field that was not sent the value `null`, so that a document always has the same shape.
pub fn complete(document: &mut Document, fields: &[&str]) {
    for field in fields {
        document.entry(*field).or_insert(Value::Null);
    }
}

/// A body that must be a JSON object; refused in the service's own format.
pub struct Sent(pub Document);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let unfit = |why: String| detail(StatusCode::UNPROCESSABLE_ENTITY, &why);
        let body = Bytes::from_request(request, state).await.map_err(|e| unfit(e.to_string()))?;
        let document = serde_json::from_slice(&body).map_err(|e| unfit(format!("not a JSON object: {e}")))?;
        Ok(Sent(document))
    }
}

/// The document, or 404.
pub fn found(document: Option<Document>) -> Response {
    document.map_or_else(absent, |document| Json(document).into_response())
}

/// 204, or 404.
pub fn removed(was_there: bool) -> Response {
    match was_there {
        true => StatusCode::NO_CONTENT.into_response(),
        false => absent(),
    }
}

fn absent() -> Response {
    detail(StatusCode::NOT_FOUND, "not found")
}
