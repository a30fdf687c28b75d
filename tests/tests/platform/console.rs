use e2e::{Plan, Reply, Sandbox};
use http::Method;
use serde_json::json;

fn header<'r>(reply: &'r Reply, name: &str) -> &'r str {
    reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What a page names of the console, in quotes.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').filter(|part| part.starts_with("/console/") || part.starts_with("./"))
}

#[tokio::test]
async fn the_console_and_all_that_it_names_are_served_to_anybody_under_a_strict_policy() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let mut waiting = vec!["/console".to_owned(), "/console/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = waiting.pop() {
        let reply = edge.open_get(&path).await;
        assert_eq!(reply.status, 200, "{path}");
        let policy = header(&reply, "content-security-policy");
        let forbidden = ["unsafe", "http:", "https:", "*"];
        assert!(!forbidden.iter().any(|word| policy.contains(word)), "{path}: {policy}");
        let directives = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ];
        assert!(directives.iter().all(|directive| policy.contains(directive)), "{path}: {policy}");
        assert_eq!(header(&reply, "x-frame-options"), "DENY");
        assert_eq!(header(&reply, "x-content-type-options"), "nosniff");
        assert_eq!(header(&reply, "referrer-policy"), "no-referrer");
        assert_eq!(header(&reply, "cache-control"), "no-cache");
        let wanted = match path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(header(&reply, "content-type"), wanted, "{path}");
        let text = reply.text();
        for name in named(&text) {
            let name = name.rsplit('/').next().unwrap_or_default();
            let path = format!("/console/{name}");
            if !seen.contains(&path) {
                seen.push(path.clone());
                waiting.push(path);
            }
        }
    }
    assert!(seen.iter().any(|path| path == "/console/user.js"), "{seen:?}");
    assert!(sandbox.stub.open_get("/stub/requests").await.must_be(200) == json!([]));
}

#[tokio::test]
async fn a_browser_that_has_a_file_of_the_console_is_not_sent_it_again() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    let first = edge.open_get("/console/app.js").await;
    let tag = header(&first, "etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 10, "{tag}");
    let ask = async |method: Method, tag: &str| {
        edge.send(method, "/console/app.js", None, &[("if-none-match", tag)], None).await
    };
    let known = ask(Method::GET, &tag).await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
    assert_eq!(header(&known, "etag"), tag);
    assert!(header(&known, "content-security-policy").contains("default-src 'none'"));
    assert_eq!(ask(Method::GET, "\"another\"").await.bytes, first.bytes);
    let head = ask(Method::HEAD, "\"another\"").await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(header(&head, "content-length"), first.bytes.len().to_string());
}

#[tokio::test]
async fn there_is_nothing_else_below_the_console() {
    let sandbox = Sandbox::start().await;
    let edge = sandbox.edge();
    for path in [
        "/console/nothing.js",
        "/console/app.js/",
        "/console/console/app.js",
        "/console/Cargo.toml",
        "/console/%ff",
        "/consoles",
        "/console.html",
    ] {
        edge.open_get(path).await.must_fail(404, "REQ002");
    }
    for path in ["/console/../health", "/console//app.js", "/console/%2e%2e/app.js"] {
        edge.open_get(path).await.must_fail(400, "REQ001");
    }
    for path in ["/console", "/console/", "/console/app.js"] {
        let reply = edge.open_post(path, json!({})).await;
        reply.must_fail(405, "REQ002");
        assert_eq!(header(&reply, "allow"), "GET,HEAD");
    }
}

#[tokio::test]
async fn a_console_that_is_switched_off_is_not_there() {
    let settings = vec![("EDGE_CONSOLE", "false".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    for path in ["/console", "/console/", "/console/app.js"] {
        sandbox.edge().open_get(path).await.must_fail(404, "REQ002");
        sandbox.edge().open_post(path, json!({})).await.must_fail(404, "REQ002");
    }
}
