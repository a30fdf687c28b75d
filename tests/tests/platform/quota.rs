use std::time::{Duration, Instant};

use contract::subscription::usage_service_client::UsageServiceClient;
use contract::subscription::{CommitRequest, ReportUsageRequest, ReserveRequest};
use e2e::{Client, Plan, Reply, Sandbox, Socket, User, until};
use futures_util::future::join_all;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

const INSTANCES: &str = "/api/v1/personas/instances";

async fn create(edge: &Client, user: &User, headers: &[(&str, &str)]) -> Option<Reply> {
    let body = json!({ "name": "p" });
    edge.try_send(Method::POST, INSTANCES, Some(&user.token), headers, Some(&body)).await
}

async fn held(sandbox: &Sandbox, user: &User) -> Vec<String> {
    let list = sandbox.edge().get(INSTANCES, &user.token).await.must_be(200);
    let instances = list["instances"].as_array().expect("a list");
    instances.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

async fn usage(sandbox: &Sandbox, user: &User) -> Value {
    sandbox.edge().get("/api/v1/subscription/usage", &user.token).await.must_be(200)
}

async fn put_on(sandbox: &Sandbox, user: &User, tier: &str) {
    let admin = sandbox.administrator().await;
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    sandbox.edge().put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
}

/// How often the races are run: a few times, or as often as `QUOTA_ROUNDS` says.
pub fn rounds() -> usize {
    std::env::var("QUOTA_ROUNDS").map_or(3, |rounds| rounds.parse().expect("QUOTA_ROUNDS is a number"))
}

/// Has processes that have just started open their connections to the database, which takes a debug build on a busy
/// machine longer than a request waits for one.
pub async fn open_pools(sandbox: &Sandbox, user: &User) {
    let looks = (0..40).map(|one| sandbox.edges[one % 2].get("/api/v1/subscription/usage", &user.token));
    join_all(looks).await;
}

#[tokio::test]
async fn of_many_creations_at_once_over_two_edges_exactly_the_limit_is_admitted() {
    const AT_ONCE: usize = 200;
    const LIMIT: usize = 5;
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "basic").await;
    open_pools(&sandbox, &user).await;
    let started = Instant::now();
    for round in 0..rounds() {
        let tries = (0..AT_ONCE).map(|one| create(&sandbox.edges[one % 2], &user, &[]));
        let replies: Vec<Reply> = join_all(tries).await.into_iter().flatten().collect();
        assert_eq!(replies.len(), AT_ONCE);
        let admitted = replies.iter().filter(|reply| reply.status == 201).count();
        assert_eq!(admitted, LIMIT, "round {round}");
        for refused in replies.iter().filter(|reply| reply.status != 201) {
            refused.must_fail(403, "SUB002");
            let details = &refused.body["error"]["details"];
            assert_eq!(details, &json!({ "resource": "personas", "limit": LIMIT, "used": LIMIT }));
        }
        let instances = held(&sandbox, &user).await;
        assert_eq!(instances.len(), LIMIT);
        assert_eq!(usage(&sandbox, &user).await["personas_count"], LIMIT);
        let gone = instances.iter().map(|id| {
            let path = format!("{INSTANCES}/{id}");
            let (edge, token) = (sandbox.edge(), &user.token);
            async move { edge.delete(&path, token).await.must_be(204) }
        });
        join_all(gone).await;
        assert_eq!(usage(&sandbox, &user).await["personas_count"], 0);
    }
    println!("{} rounds of {AT_ONCE} creations at once took {:?}", rounds(), started.elapsed());
}

fn start_of(id: &str, project: &str) -> Value {
    json!({
        "type": "start_workflow", "id": id,
        "data": {
            "workflow_type": "t", "agent_instance_id": "a", "project_id": project,
            "parameters": { "steps": 1, "step_ms": 1 },
        },
    })
}

/// Starts a workflow and gives whether it was admitted, once it is over.
async fn starts(socket: &mut Socket, id: &str, project: &str) -> bool {
    socket.send(start_of(id, project)).await;
    loop {
        let message = socket.next().await;
        assert_eq!(message["correlation_id"], id, "{message}");
        match (message["type"].as_str(), message["data"]["status"].as_str()) {
            (Some("error"), _) => {
                assert_eq!(message["error"]["code"], "SUB002", "{message}");
                return false;
            }
            (_, Some("completed")) => return true,
            _ => {}
        }
    }
}

/// Reserves and commits content as an internal service does, and gives whether it was admitted.
async fn counts(mut service: UsageServiceClient<Channel>, user: &User, key: String) -> bool {
    let reserve = ReserveRequest {
        user_id: user.id.clone(),
        resource: "content".to_owned(),
        idempotency_key: key.clone(),
        ttl_seconds: 60,
    };
    if let Err(refused) = service.reserve(super::grpc::call(reserve, e2e::INTERNAL_TOKEN)).await {
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        return false;
    }
    let commit = CommitRequest { user_id: user.id.clone(), idempotency_key: key };
    service.commit(super::grpc::call(commit, e2e::INTERNAL_TOKEN)).await.expect("committed");
    true
}

async fn usage_services(sandbox: &Sandbox) -> Vec<UsageServiceClient<Channel>> {
    let connect =
        sandbox.subscription.iter().map(|place| UsageServiceClient::connect(format!("http://{place}")));
    join_all(connect).await.into_iter().map(|connected| connected.expect("a connection")).collect()
}

/// Workflows by sockets of two edges and content by calls to two subscription-svcs, all at once, on one counter.
#[tokio::test]
async fn sockets_and_services_that_count_content_together_are_admitted_up_to_the_limit() {
    const LIMIT: usize = 10;
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let services = usage_services(&sandbox).await;
    for round in 0..rounds() {
        let user = sandbox.register().await;
        let project = sandbox.project(&user).await;
        let open = (0..4).map(|one| Socket::connect(sandbox.edges[one % 2].authority(), &user.token));
        let sockets = join_all(open).await.into_iter().enumerate().map(async |(socket, mut connected)| {
            let mut admitted = 0;
            for one in 0..5 {
                admitted += usize::from(starts(&mut connected, &format!("{socket}-{one}"), &project).await);
            }
            admitted
        });
        let calls = (0..4).map(async |caller| {
            let mut admitted = 0;
            for one in 0..5 {
                let key = format!("call {caller}-{one}");
                admitted += usize::from(counts(services[caller % 2].clone(), &user, key).await);
            }
            admitted
        });
        let (by_sockets, by_calls) = futures_util::future::join(join_all(sockets), join_all(calls)).await;
        let (by_sockets, by_calls): (usize, usize) =
            (by_sockets.into_iter().sum(), by_calls.into_iter().sum());
        println!("round {round}: {by_sockets} by sockets, {by_calls} by calls");
        assert_eq!(by_sockets + by_calls, LIMIT, "round {round}");
        until("all are counted", async || usage(&sandbox, &user).await["content_count"] == LIMIT).await;
    }
}

#[tokio::test]
async fn a_start_that_is_sent_again_starts_nothing_new() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let project = sandbox.project(&user).await;
    let start = json!({
        "type": "start_workflow", "id": "once",
        "data": { "workflow_type": "t", "agent_instance_id": "a", "project_id": project, "parameters": {} },
    });
    let mut first = sandbox.socket(&user).await;
    first.send(start.clone()).await;
    assert_eq!(first.next().await["type"], "workflow_status");
    let mut second = sandbox.socket(&user).await;
    second.send(start).await;
    let told = second.next().await;
    assert_eq!(
        (&told["correlation_id"], &told["data"]["repeated"]),
        (&json!("once"), &json!(true)),
        "{told}"
    );
    until("it counts once", async || usage(&sandbox, &user).await["content_count"] == 1).await;
}

/// The headers that an answer has for what it says; others tell of the one request, or of its connection.
fn of_the_answer(reply: &Reply) -> HeaderMap {
    let mut headers = reply.headers.clone();
    for own in ["x-request-id", "date", "idempotency-replayed"] {
        headers.remove(own);
    }
    headers
}

#[tokio::test]
async fn one_idempotency_key_sent_twenty_times_at_once_makes_one_thing_and_gives_one_answer() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    for path in [INSTANCES, "/api/v1/projects"] {
        let body = json!({ "name": "one" });
        let send = |one: usize, key: &'static str, body: Value| {
            let (edge, token) = (&sandbox.edges[one % 2], &user.token);
            async move {
                let place = ("x-stub-response-header", "location=/api/v1/personas/instances/one");
                let headers = [("idempotency-key", key), place];
                edge.send(Method::POST, path, Some(token), &headers, Some(&body)).await
            }
        };
        let replies = join_all((0..20).map(|one| send(one, path, body.clone()))).await;
        for reply in &replies {
            assert_eq!((reply.status.as_u16(), &reply.bytes), (201, &replies[0].bytes));
            assert_eq!(of_the_answer(reply), of_the_answer(&replies[0]));
        }
        let replayed =
            replies.iter().filter(|reply| reply.headers.contains_key("idempotency-replayed")).count();
        assert_eq!(replayed, 19);
        if path == INSTANCES {
            assert_eq!(replies[0].headers["location"], "/api/v1/personas/instances/one");
        }
        send(0, path, json!({ "name": "another" })).await.must_fail(400, "REQ001");
    }
    assert_eq!(held(&sandbox, &user).await.len(), 1);
    let projects = sandbox.edge().get("/api/v1/projects", &user.token).await.must_be(200);
    assert_eq!(projects["count"], 1);
    let key = [("idempotency-key", "")];
    create(sandbox.edge(), &user, &key).await.expect("an answer").must_fail(400, "REQ001");
}

#[tokio::test]
async fn what_became_of_a_creation_is_counted_whatever_goes_wrong() {
    let settings =
        vec![("GATEWAY_TIMEOUT_MS", "3000".to_owned()), ("QUOTA_RESERVATION_SECONDS", "5".to_owned())];
    let sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    let edge = sandbox.edges[1].clone();
    for refusal in ["400", "409", "501", "503"] {
        create(&edge, &user, &[("x-stub-status", refusal)]).await.expect("an answer");
        assert_eq!(quota_of(&edge, &user).await, (0, 20), "a refusal gives the place back at once");
    }
    create(&edge, &user, &[("x-stub-status", "500")]).await.expect("an answer");
    assert_eq!(quota_of(&edge, &user).await, (0, 19), "something may have been made before the failure");
    create(&edge, &user, &[("x-stub-hang", "1")]).await.expect("an answer").must_fail(504, "GW002");
    create(&edge, &user, &[("x-stub-reset", "1")]).await.expect("an answer").must_fail(502, "GW001");
    until("what has expired is free again", async || quota_of(&edge, &user).await == (0, 20)).await;
    // The client goes away while core-manager works.
    let gone = {
        let (edge, user) = (sandbox.edges[0].clone(), user.clone());
        tokio::spawn(async move { create(&edge, &user, &[("x-stub-delay-ms", "2000")]).await })
    };
    // A client that goes before core-manager is asked has nothing made, and its place expires.
    until("core-manager works", async || {
        let requests = sandbox.stub.open_get("/stub/requests").await.must_be(200);
        requests.to_string().contains("x-stub-delay-ms")
    })
    .await;
    assert_eq!(quota_of(&edge, &user).await, (0, 19));
    gone.abort();
    assert!(gone.await.is_err_and(|error| error.is_cancelled()), "the client has no answer");
    until("what was made for nobody is counted", async || {
        usage(&sandbox, &user).await["personas_count"] == 1
    })
    .await;
    assert_eq!(held(&sandbox, &user).await.len(), 1);
    until("every place is free or used", async || quota_of(&edge, &user).await == (1, 19)).await;
}

#[tokio::test]
async fn an_upload_that_takes_longer_than_a_reservation_keeps_its_place() {
    let settings =
        vec![("GATEWAY_TIMEOUT_MS", "1000".to_owned()), ("QUOTA_RESERVATION_SECONDS", "2".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let mut upload = TcpStream::connect(edge.authority()).await.expect("a connection");
    let head = format!(
        "POST {INSTANCES} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n",
        user.token
    );
    upload.write_all(head.as_bytes()).await.expect("sent");
    until("the place is reserved", async || quota_of(edge, &user).await == (0, 0)).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        upload.write_all(b"1\r\n \r\n").await.expect("sent");
        create(edge, &user, &[]).await.expect("an answer").must_fail(403, "SUB002");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    upload.write_all(b"b\r\n\"name\":\"x\"}\r\n0\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(quota_of(edge, &user).await, (1, 0));
}

/// How many are used, and how many places are left.
async fn quota_of(edge: &Client, user: &User) -> (i64, i64) {
    let quota = edge.get("/api/v1/subscription/check-quota?resource=personas", &user.token).await;
    let number = |name: &str| quota.body[name].as_i64().unwrap_or(-1);
    (number("used"), number("remaining"))
}

#[tokio::test]
async fn the_first_creation_after_the_database_was_away_is_admitted() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    put_on(&sandbox, &user, "basic").await;
    for made in 1..=3 {
        create(edge, &user, &[]).await.expect("an answer").must_be(201);
        until("it is counted", async || quota_of(edge, &user).await == (made, 5 - made)).await;
        // Every connection breaks.
        sandbox.database.set_open(false);
        let refused = Instant::now();
        create(edge, &user, &[]).await.expect("an answer").must_fail(503, "GW001");
        assert!(refused.elapsed() < Duration::from_secs(4), "{:?}", refused.elapsed());
        sandbox.database.set_open(true);
    }
}

#[tokio::test]
async fn what_is_removed_again_and_again_frees_one_place() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    put_on(&sandbox, &user, "basic").await;
    for _ in 0..3 {
        create(edge, &user, &[]).await.expect("an answer").must_be(201);
    }
    let path = format!("{INSTANCES}/{}", held(&sandbox, &user).await[0]);
    let success = [("x-stub-status", "204")];
    for _ in 0..3 {
        edge.send(Method::DELETE, &path, Some(&user.token), &success, None).await.must_be(204);
    }
    assert_eq!(quota_of(edge, &user).await, (2, 3));
}

#[tokio::test]
async fn an_edge_that_is_killed_before_it_could_commit_leaves_no_place_taken_and_what_was_made_is_reported() {
    let settings =
        vec![("GATEWAY_TIMEOUT_MS", "2000".to_owned()), ("QUOTA_RESERVATION_SECONDS", "3".to_owned())];
    let mut sandbox = Sandbox::planned(Plan { replicas: 2, settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "premium").await;
    let lost = {
        let (edge, user) = (sandbox.edges[0].clone(), user.clone());
        tokio::spawn(async move { create(&edge, &user, &[("x-stub-delay-ms", "700")]).await })
    };
    until("the place is reserved", async || quota_of(&sandbox.edges[1], &user).await == (0, 19)).await;
    // From here on no commit can arrive.
    sandbox.database.set_open(false);
    let edge = sandbox.edges[1].clone();
    let really = async || edge.get(INSTANCES, &user.token).await.must_be(200)["count"].as_i64();
    until("core-manager has made it", async || really().await == Some(1)).await;
    sandbox.edge_processes[0].kill();
    sandbox.database.set_open(true);
    // The client may have been answered before the kill, or not.
    let _ = lost.await.expect("joined");
    until("the place that nobody committed is free again", async || quota_of(&edge, &user).await == (0, 20))
        .await;
    assert_eq!(really().await, Some(1));
    // What nobody saw being made, core-manager can report.
    let report = ReportUsageRequest { user_id: user.id.clone(), resource: "personas".to_owned(), used: 1 };
    let mut services = usage_services(&sandbox).await;
    services[0].report_usage(super::grpc::call(report, e2e::INTERNAL_TOKEN)).await.expect("reported");
    assert_eq!(quota_of(&edge, &user).await, (1, 19));
}

#[tokio::test]
async fn what_is_paid_while_the_clock_of_the_database_is_ahead_is_put_right_as_the_docs_say() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    put_on(&sandbox, &user, "basic").await;
    let (gone, lapsed) = (sandbox.register().await, sandbox.register().await);
    for one in [&gone, &lapsed] {
        put_on(&sandbox, one, "premium").await;
    }
    let service = usage_services(&sandbox).await.remove(0);
    assert!(counts(service.clone(), &user, "1".to_owned()).await);
    let mut connection = sandbox.connection().await;
    for ahead in [
        "UPDATE usage_counters SET month_used = 100000, period_start = period_start + INTERVAL 61 DAY,
                                   period_end = period_end + INTERVAL 61 DAY WHERE resource = 'content'",
        "UPDATE subscriptions SET start_date = start_date + INTERVAL 61 DAY",
    ] {
        connection.execute(ahead).await.expect("a month to come");
    }
    // One was canceled then. The other has paid for weeks, cancelled before, and lapsed then.
    for (one, since) in [(&gone, 61), (&lapsed, -1)] {
        let ahead =
            "UPDATE subscriptions SET status = 'canceled', end_date = UTC_TIMESTAMP(6) + INTERVAL 61 DAY,
                            cancelled_at = UTC_TIMESTAMP(6) + INTERVAL ? DAY WHERE user_id = ?";
        sqlx::query(ahead).bind(since).bind(&one.id).execute(&mut connection).await.expect("canceled");
        assert_eq!(quota_of(sandbox.edge(), one).await, (0, 20));
    }
    assert!(!counts(service.clone(), &user, "2".to_owned()).await, "its content is used up");
    let docs = include_str!("../../../docs/operations.md");
    let (_, rest) = docs.split_once("```sql\n").expect("statements");
    let (statements, _) = rest.split_once("```").expect("their end");
    connection.execute(statements).await.expect("statements that run");
    assert!(counts(service, &user, "3".to_owned()).await, "this month's is not");
    let ahead = "SELECT COUNT(*) FROM usage_counters WHERE period_start > UTC_TIMESTAMP(6)";
    let ahead: i64 = sqlx::query_scalar(ahead).fetch_one(&mut connection).await.expect("a count");
    assert_eq!(ahead, 0, "nor does it begin another");
    assert_eq!(usage(&sandbox, &user).await["content_count"], 1);
    assert_eq!(quota_of(sandbox.edge(), &gone).await, (0, 1), "as nobody who pays");
    assert_eq!(quota_of(sandbox.edge(), &lapsed).await, (0, 20), "what is paid for stays");
}
