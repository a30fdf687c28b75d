//! `/openapi.json`, and `/docs`: Swagger UI over it, out of the program itself, so that it works without the internet.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::{ErrorCode, Failure};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::answer::Answer;

/// Where these routes are.
pub const PLACES: [&str; 2] = ["/openapi.json", "/docs"];

/// Nothing from elsewhere, nothing inline, and no other page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The paths in it begin where the page itself is.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>AI Persona Platform</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"#;

/// Tokens stay in the page and are gone with it.
const START: &str = r##"SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
  tryItOutEnabled: true,
});
"##;

const CSS: &str = include_str!(concat!(env!("OUT_DIR"), "/swagger-ui.css"));
const BUNDLE: &str = include_str!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js"));

const FILES: [(&str, &str, &str); 3] = [
    ("swagger-ui.css", "text/css; charset=utf-8", CSS),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8", BUNDLE),
    ("start.js", "text/javascript; charset=utf-8", START),
];

/// The document as it is sent.
type Document = Arc<LazyLock<Bytes, Box<dyn FnOnce() -> Bytes + Send>>>;

/// The document, made when it is first asked for: most edges never are, and a start has better things to do.
pub fn when_asked(make: impl FnOnce() -> Value + Send + 'static) -> Document {
    Arc::new(LazyLock::new(Box::new(move || make().to_string().into())))
}

/// The routes, whose state is the document.
pub fn described() -> OpenApiRouter<Document> {
    OpenApiRouter::default().routes(routes!(document)).routes(routes!(page)).routes(routes!(file))
}

#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    summary = "Get this document",
    responses((status = 200, body = serde_json::Map<String, serde_json::Value>, example = json!({ "openapi": "3.1.0" }))),
    security(()),
)]
async fn document(State(document): State<Document>) -> Response {
    kept("application/json", Bytes::clone(&document))
}

#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    summary = "Browse this document",
    responses((status = 200, body = String, content_type = "text/html", example = "<!DOCTYPE html>")),
    security(()),
)]
async fn page() -> Response {
    let mut response = kept("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[utoipa::path(
    get,
    path = "/docs/{file}",
    operation_id = "docs_file",
    summary = "Get a part of that page",
    params(("file" = String, Path, pattern = r"^(start\.js|swagger-ui\.css|swagger-ui-bundle\.js)$", example = "start.js")),
    responses((status = 200, content(
        (String = "text/css", example = json!("body {}")),
        (String = "text/javascript", example = json!("SwaggerUIBundle({})")),
    ))),
    security(()),
    extensions(("x-errors" = json!(["REQ002"]))),
)]
async fn file(Path(name): Path<String>) -> Answer<Response> {
    let found = FILES.iter().find(|(file, ..)| *file == name);
    let (_, media_type, text) = found.ok_or_else(|| Failure::new(ErrorCode::NoSuchRoute))?;
    Ok(kept(media_type, *text))
}

/// Any cache may keep these for a while: they say nothing of anybody.
fn kept(media_type: &'static str, body: impl Into<Body>) -> Response {
    let cached = HeaderValue::from_static("public, max-age=300");
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(media_type)), (CACHE_CONTROL, cached)];
    (headers, body.into()).into_response()
}
