//! Traces: one id from the client to MySQL.

use std::time::Duration;

use e2e::{Collector, Plan, Sandbox, Traced, until};
use http::Method;
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn traced(endpoint: String) -> Sandbox {
    let settings = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("LOG_LEVEL", "warn".to_owned()),
    ];
    Sandbox::planned(Plan { settings, ..Plan::default() }).await
}

#[tokio::test]
async fn one_trace_shows_a_request_from_the_client_to_mysql() {
    let collector = Collector::start().await;
    let sandbox = traced(collector.url()).await;
    let user = sandbox.register().await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let body = json!({ "name": "a traced project" });
    let headers = [("traceparent", traceparent.as_str())];
    let made = sandbox
        .edge()
        .try_send(Method::POST, "/api/v1/projects", Some(&user.token), &headers, Some(&body))
        .await;
    made.expect("an answer").must_be(201);

    let of_trace = || {
        let spans = collector.spans().into_iter();
        spans.filter(|traced| hex(&traced.span.trace_id) == TRACE).collect::<Vec<Traced>>()
    };
    let find = |service: &str, name: &str| {
        of_trace().into_iter().find(|traced| traced.service == service && traced.span.name == name)
    };
    let request = ("edge", "POST /api/v1/projects");
    let call = ("identity-svc", "persona.identity.v1.ProjectService/CreateProject");
    let check = ("subscription-svc", "persona.subscription.v1.UsageService/CheckQuota");
    until("the spans have come", async || {
        [request, call, check].into_iter().all(|(service, name)| find(service, name).is_some())
    })
    .await;

    let request = find(request.0, request.1).expect("it has come");
    assert_eq!(hex(&request.span.parent_span_id), PARENT);
    assert_eq!(request.text("http.route"), "/api/v1/projects");
    // A call that a service makes in turn is of the trace too.
    let nested = ("identity-svc", "persona.identity.v1.ProjectService/CountProjects");
    until("the nested call has come", async || find(nested.0, nested.1).is_some()).await;
    let nested = find(nested.0, nested.1).expect("it has come");
    assert_eq!(nested.text("request_id"), request.text("request_id"));
    for (service, name) in [call, check] {
        let call = find(service, name).expect("it has come");
        assert_eq!(call.span.parent_span_id, request.span.span_id, "{name}");
        assert_eq!(call.text("request_id"), request.text("request_id"), "{name}");
    }
    // Its statements are those of a transaction, and those of a call without one are its own.
    let create = find(call.0, call.1).expect("it has come");
    let transaction = of_trace().into_iter().find(|inner| inner.span.parent_span_id == create.span.span_id);
    let transaction = transaction.expect("a transaction");
    assert_eq!(transaction.text("db.system.name"), "mysql");
    let check = find(check.0, check.1).expect("it has come");
    for at in [&transaction, &check] {
        assert!(!at.span.events.is_empty(), "no statement under {}", at.span.name);
    }
}

#[tokio::test]
async fn core_manager_gets_the_span_of_the_edge_as_its_parent() {
    let collector = Collector::start().await;
    let sandbox = traced(collector.url()).await;
    let user = sandbox.register().await;
    let echoed = sandbox.edge().get("/api/v1/echo/trace", &user.token).await.must_be(200);
    let headers = echoed["headers"].as_array().expect("headers");
    let traceparent = headers.iter().find(|header| header[0] == "traceparent").expect("a traceparent");
    until("the span has come", async || {
        collector.spans().iter().any(|traced| {
            let (trace, span) = (hex(&traced.span.trace_id), hex(&traced.span.span_id));
            traced.service == "edge" && traceparent[1] == format!("00-{trace}-{span}-01")
        })
    })
    .await;
}

#[tokio::test]
async fn no_secret_is_in_a_trace() {
    let collector = Collector::start().await;
    let sandbox = traced(collector.url()).await;
    let user = sandbox.log_in(&sandbox.register().await).await;
    let refresh = json!({ "refresh_token": user.refresh_token });
    let refreshed = sandbox.edge().open_post("/api/v1/auth/refresh", refresh).await.must_be(200);
    until("the spans have come", async || {
        collector.spans().iter().any(|traced| traced.span.name.ends_with("/Refresh"))
    })
    .await;
    let all = format!("{:?}", collector.spans());
    let fresh = refreshed["access_token"].as_str().expect("a token");
    for secret in [user.password, &user.token, &user.refresh_token, fresh, &user.email] {
        assert!(!all.contains(secret), "{secret} is in a trace");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up() {
    // Nothing listens on the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let mut sandbox = traced(format!("http://{gone}")).await;
    let user = sandbox.register().await;
    sandbox.edge().get("/api/v1/user/profile", &user.token).await.must_be(200);
    let ended = tokio::time::timeout(Duration::from_secs(10), sandbox.edge_processes[0].terminate());
    assert_eq!(ended.await.expect("it ends in time"), Some(0));
}
