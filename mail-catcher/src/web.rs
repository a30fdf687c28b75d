//! `GET /` for people, `GET /messages?to=` for programs, `DELETE /messages`.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mailbox::{Mail, Mailbox};

pub fn routes(mailbox: Mailbox) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/{id}", get(show))
        .route("/{id}/html", get(html))
        .route("/messages", get(messages).delete(clear))
        .with_state(mailbox)
}

#[derive(Template)]
#[template(path = "list.html")]
struct List {
    mails: Vec<Mail>,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Shown {
    mail: Mail,
}

fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn list(State(mailbox): State<Mailbox>) -> Response {
    page(&List { mails: mailbox.mails(None) })
}

async fn show(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Response {
    mailbox.mail(id).map_or_else(gone, |mail| page(&Shown { mail }))
}

/// The HTML of a mail by itself. It may do nothing but look as it does.
async fn html(State(mailbox): State<Mailbox>, Path(id): Path<u64>) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-popups";
    let Some(mail) = mailbox.mail(id) else { return gone() };
    // Links open outside the frame.
    let html = mail.html.replacen("<head>", "<head><base target=\"_blank\">", 1);
    ([(CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}

fn gone() -> Response {
    (StatusCode::NOT_FOUND, "No such mail").into_response()
}

#[derive(Deserialize)]
struct Filter {
    to: Option<String>,
}

async fn messages(State(mailbox): State<Mailbox>, Query(filter): Query<Filter>) -> Json<Value> {
    let mails = mailbox.mails(filter.to.as_deref());
    Json(json!({ "count": mails.len(), "messages": mails }))
}

async fn clear(State(mailbox): State<Mailbox>) -> StatusCode {
    mailbox.clear();
    StatusCode::NO_CONTENT
}
