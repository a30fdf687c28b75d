//! `/openapi.json`, and `/docs` over it.

use std::collections::BTreeSet;

use e2e::{Plan, Sandbox};
use http::Method;
use serde_json::{Value, json};

use crate::credentials::{ROUTES, Who};

/// A path with nothing in its braces: what a place is called there is nobody's promise.
fn nameless(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// Who may use an operation, as the document says it.
fn who(operation: &Value) -> Who {
    if operation.get("security").is_some() {
        return Who::Anybody;
    }
    let forbidden = operation["responses"]["403"]["$ref"].as_str().unwrap_or_default();
    let is_for_all = operation["operationId"] == "open_socket" || operation["x-people-only"] == true;
    if forbidden.contains("AUTH004") && !is_for_all { Who::Admin } else { Who::User }
}

#[tokio::test]
async fn every_route_is_in_the_document_and_the_document_has_no_other() {
    let sandbox = Sandbox::start().await;
    let document = sandbox.edge().open_get("/openapi.json").await.must_be(200);
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    // What the sandbox itself adds is no route of the platform.
    let paths = document["paths"].as_object().expect("paths").iter();
    for (path, item) in paths.filter(|(path, _)| !path.starts_with("/api/v1/echo/")) {
        for (method, operation) in item.as_object().expect("operations") {
            described.insert((method.to_uppercase(), nameless(path), who(operation)));
        }
    }
    // Pages of the console are for people alone.
    let routes = ROUTES.into_iter().filter(|(_, path, _)| !path.starts_with("/console"));
    let routes = routes.map(|(method, path, who)| (method.to_owned(), nameless(path), who));
    assert_eq!(described, routes.collect());
}

/// A route that the document has is one of the edge, and a method that it has not is none.
#[tokio::test]
async fn a_method_that_the_document_does_not_have_is_refused_with_those_that_it_has() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let document = edge.open_get("/openapi.json").await.must_be(200);
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods: BTreeSet<String> = item.as_object().expect("operations").keys().cloned().collect();
        let path = path.replace("{file}", "start.js").replace("{name}", "*");
        let path = path.replace("{id}", "7").replace("{user_id}", "7");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE] {
            if methods.contains(&method.as_str().to_lowercase()) {
                continue;
            }
            let reply = edge.send(method, &path, None, &[], None).await;
            reply.must_fail(405, "REQ002");
            let allowed = reply.headers["allow"].to_str().expect("a text").to_lowercase();
            let allowed: BTreeSet<String> = allowed.split(',').map(|name| name.trim().to_owned()).collect();
            let heads = methods.contains("get").then(|| "head".to_owned());
            assert_eq!(allowed, methods.iter().cloned().chain(heads).collect(), "{path}");
        }
    }
}

#[tokio::test]
async fn what_an_operator_adds_is_in_the_document() {
    let routes = "GET+POST /api/v1/things/{id} user,DELETE /api/v1/files/{*rest} admin".to_owned();
    let plan = Plan { settings: vec![("GATEWAY_ROUTES", routes)], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    let document = sandbox.edge().open_get("/openapi.json").await.must_be(200);
    let things = &document["paths"]["/api/v1/things/{id}"];
    assert_eq!(who(&things["get"]), Who::User);
    assert_eq!(things["post"]["parameters"][0]["name"], "id");
    assert_eq!(who(&document["paths"]["/api/v1/files/{rest}"]["delete"]), Who::Admin);
}

#[tokio::test]
async fn the_browser_of_the_document_needs_nothing_from_elsewhere() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let page = edge.open_get("/docs").await;
    let policy = page.headers["content-security-policy"].to_str().expect("a text");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let html = page.text();
    assert!(!html.contains("//") && !html.contains("<style"), "{html}");
    let parts: Vec<&str> = html.split('"').filter(|text| text.starts_with("docs/")).collect();
    assert_eq!(parts.len(), 3, "{html}");
    for part in parts {
        let reply = edge.open_get(&format!("/{part}")).await;
        assert!(reply.status == 200 && reply.bytes.len() > 100, "{part}: {reply:?}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    }
    for other in ["/docs/", "/docs/index.html", "/docs/start.js/x", "/docsx"] {
        edge.open_get(other).await.must_fail(404, "REQ002");
    }
}

#[tokio::test]
async fn an_operator_can_leave_the_document_out() {
    let plan = Plan { settings: vec![("EDGE_DOCS", "false".to_owned())], ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    for path in ["/openapi.json", "/docs", "/docs/start.js"] {
        sandbox.edge().open_get(path).await.must_fail(404, "REQ002");
    }
    assert_eq!(sandbox.edge().open_get("/health").await.must_be(200)["status"], json!("healthy"));
}
