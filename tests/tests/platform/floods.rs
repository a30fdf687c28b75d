//! Clients that want more than their share: connections, headers, and what HTTP/2 lets one connection do.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use e2e::{Plan, Sandbox, User, until};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);
const INSTANCES: &str = "/api/v1/personas/instances";

async fn with(settings: &[(&'static str, &str)]) -> Sandbox {
    let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Sandbox::planned(Plan { settings, ..Plan::default() }).await
}

async fn connect(sandbox: &Sandbox) -> TcpStream {
    TcpStream::connect(sandbox.edge().authority()).await.expect("a connection")
}

/// How often clients ran into a limit.
pub async fn bites(sandbox: &Sandbox, limit: &str) -> u64 {
    let metrics = sandbox.internals[0].open_get("/internal/metrics").await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let metrics = metrics.text();
    let begin = format!("edge_limits_total{{limit=\"{limit}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&begin));
    count.map_or(0, |count| count.parse().expect("a number"))
}

/// A client of HTTP/2.
pub struct Http2(SendRequest<Empty<Bytes>>);

impl Http2 {
    async fn connect(sandbox: &Sandbox) -> Http2 {
        Self::connect_with(sandbox, 1 << 20).await
    }

    /// With so many bytes of each answer that it lets be sent before it has read them.
    pub async fn connect_with(sandbox: &Sandbox, window: u32) -> Http2 {
        let io = TokioIo::new(connect(sandbox).await);
        let mut builder = Builder::new(TokioExecutor::new());
        let builder = builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(io).await.expect("HTTP/2");
        tokio::spawn(connection);
        Http2(sender)
    }

    pub fn request(sandbox: &Sandbox, path: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
        let uri: Uri = format!("http://{}{path}", sandbox.edge().authority()).parse().expect("a URL");
        let mut request = Request::get(uri).version(Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).expect("a request")
    }

    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    /// Sends a request and gives it up as soon as core-manager has it.
    async fn give_up(&mut self, sandbox: &Sandbox, user: &User) -> hyper::Result<()> {
        let token = format!("Bearer {}", user.token);
        let headers = [("authorization", token.as_str()), ("x-stub-delay-ms", "60000")];
        self.0.ready().await?;
        let before = asked(sandbox).await;
        let mut answer = pin!(self.0.send_request(Self::request(sandbox, INSTANCES, &headers)));
        loop {
            let early = poll_fn(|context| std::task::Poll::Ready(answer.as_mut().poll(context))).await;
            if let std::task::Poll::Ready(answer) = early {
                return answer.map(drop);
            }
            if asked(sandbox).await > before {
                return Ok(());
            }
        }
    }
}

/// How many requests core-manager was sent.
async fn asked(sandbox: &Sandbox) -> usize {
    let seen = sandbox.stub.open_get("/stub/requests").await.body;
    seen.as_array().expect("a list").len()
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_back_what_it_closes() {
    // One of them is the sandbox's own.
    let sandbox = with(&[("EDGE_PER_ADDRESS", "3")]).await;
    sandbox.edge().open_get("/health").await.must_be(200);
    let is_served = async |stream: &mut TcpStream| {
        let sent = stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = [0; 12];
        sent.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer == *b"HTTP/1.1 200"
    };
    let (mut one, mut two, mut three) =
        (connect(&sandbox).await, connect(&sandbox).await, connect(&sandbox).await);
    assert!(is_served(&mut one).await && is_served(&mut two).await);
    assert!(!is_served(&mut three).await, "a fourth connection is served");
    assert_eq!(bites(&sandbox, "per_address").await, 1);
    drop(one);
    until("its place is free", async || is_served(&mut connect(&sandbox).await).await).await;
}

#[tokio::test]
async fn behind_a_proxy_the_requests_and_sockets_of_each_address_that_it_names_are_counted() {
    let sandbox = with(&[("EDGE_PER_ADDRESS", "2"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let user = sandbox.register().await;
    let ask = async |client: &str, delay: &str| {
        let headers = [("x-forwarded-for", client), ("x-stub-delay-ms", delay)];
        sandbox.edge().send(http::Method::GET, INSTANCES, Some(&user.token), &headers, None).await
    };
    let (first, second, refused, other) = tokio::join!(
        ask("192.0.2.1", "3000"),
        ask("9.9.9.9, 192.0.2.1", "3000"),
        async {
            until("two run", async || asked(&sandbox).await >= 2).await;
            ask("192.0.2.1", "0").await
        },
        ask("192.0.2.2", "0")
    );
    refused.must_fail(503, "GW003");
    assert!(refused.headers.contains_key("retry-after"));
    for answered in [first, second, other, ask("192.0.2.1", "0").await] {
        assert_eq!(answered.status, 200);
    }

    // A socket holds its place for as long as it is open.
    let sockets = [sandbox.socket(&user).await, sandbox.socket(&user).await];
    sandbox.edge().open_get("/health").await.must_fail(503, "GW003");
    drop(sockets);
    until("their places are free", async || sandbox.edge().open_get("/health").await.status == 200).await;
}

#[tokio::test]
async fn behind_a_proxy_a_request_that_asks_for_an_upgrade_counts_like_any_other() {
    let sandbox = with(&[("EDGE_PER_ADDRESS", "3"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let user = sandbox.register().await;
    let ask = async |delay: &str| {
        let upgrade = [("connection", "upgrade"), ("upgrade", "foo")];
        let headers =
            [&upgrade[..], &[("x-forwarded-for", "192.0.2.1"), ("x-stub-delay-ms", delay)]].concat();
        sandbox.edge().send(http::Method::GET, INSTANCES, Some(&user.token), &headers, None).await
    };
    let (first, second, third, refused) = tokio::join!(ask("3000"), ask("3000"), ask("3000"), async {
        until("three run", async || asked(&sandbox).await >= 3).await;
        ask("0").await
    });
    refused.must_fail(503, "GW003");
    for answered in [first, second, third, ask("0").await] {
        assert_eq!(answered.status, 200);
    }
}

#[tokio::test]
async fn behind_a_proxy_nobody_is_taken_for_the_proxy_whatever_they_send() {
    let sandbox = with(&[("EDGE_PER_ADDRESS", "1"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let user = sandbox.register().await;
    let (head, end) = (format!("GET {INSTANCES} HTTP/1.1\r\nhost: a\r\nx-stub-hang: true\r\n"), "\r\n\r\n");
    let head = format!("{head}authorization: Bearer {}\r\nx-forwarded-for: ", user.token);
    let mut stream = connect(&sandbox).await;
    stream
        .write_all(&[head.as_bytes(), b"\xff, 192.0.2.1:50000", end.as_bytes()].concat())
        .await
        .expect("sent");
    until("it runs", async || asked(&sandbox).await >= 1).await;
    let ask = async |client: &str| {
        let headers = [("x-forwarded-for", client)];
        sandbox.edge().send(http::Method::GET, "/health", None, &headers, None).await
    };
    ask("192.0.2.1").await.must_fail(503, "GW003");
    ask("127.0.0.1").await.must_be(200);
}

#[tokio::test]
async fn headers_that_are_too_many_or_too_large_are_refused_alike_over_both_protocols() {
    let sandbox = Sandbox::start().await;
    let names: Vec<String> = (0..120).map(|number| format!("x-many-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let large = "x".repeat(40_000);
    let large = [("x-large", large.as_str())];
    for headers in [many.as_slice(), &large] {
        let reply = sandbox.edge().send(http::Method::GET, "/health", None, headers, None).await;
        reply.must_fail(431, "REQ003");
        let mut client = Http2::connect(&sandbox).await;
        let answer = client.send(Http2::request(&sandbox, "/health", headers)).await.expect("an answer");
        assert_eq!(answer.status(), 431);
        let id = answer.headers()["x-request-id"].to_str().expect("an id").to_owned();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (body["error"]["code"].as_str(), body["request_id"].as_str()),
            (Some("REQ003"), Some(&*id))
        );
        // The connection is as good as before.
        let answer = client.send(Http2::request(&sandbox, "/health", &[])).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    until("all four are counted", async || bites(&sandbox, "header_size").await == 4).await;
}

#[tokio::test]
async fn who_gives_up_more_requests_than_it_lets_be_answered_loses_the_connection() {
    let sandbox = with(&[("EDGE_HTTP2_RESETS", "5")]).await;
    let user = sandbox.register().await;
    let mut honest = Http2::connect(&sandbox).await;
    for _ in 0..20 {
        honest.give_up(&sandbox, &user).await.expect("still served");
        let answer = honest.send(Http2::request(&sandbox, "/health", &[])).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(bites(&sandbox, "http2_resets").await, 0);

    let mut hostile = Http2::connect(&sandbox).await;
    let mut given_up = 0;
    while hostile.give_up(&sandbox, &user).await.is_ok() {
        given_up += 1;
        assert!(given_up < 20, "the connection goes on");
    }
    assert_eq!(bites(&sandbox, "http2_resets").await, 1);
    assert!(honest.send(Http2::request(&sandbox, "/health", &[])).await.is_ok());
}

#[tokio::test]
async fn who_lets_nothing_be_sent_over_http2_loses_the_connection_and_who_reads_slowly_does_not() {
    let mut settings =
        vec![("EDGE_HEADER_TIMEOUT_SECONDS", "1"), ("EDGE_IDLE_SECONDS", "60"), ("EDGE_STALL_SECONDS", "1")];
    settings.extend([("EDGE_PER_ADDRESS", "2"), ("TRUSTED_PROXY_HOPS", "1")]);
    let sandbox = with(&settings).await;
    let user = sandbox.register().await;
    let token = format!("Bearer {}", user.token);
    let asking = |client: &str, bytes: &str| {
        let headers =
            [("authorization", &*token), ("x-forwarded-for", client), ("x-stub-stream-bytes", bytes)];
        Http2::request(&sandbox, INSTANCES, &headers)
    };

    // Pings are answered by the library.
    let mut shut = Http2::connect_with(&sandbox, 0).await;
    let held = (
        shut.send(asking("192.0.2.1", "100000000")).await.expect("an answer"),
        shut.send(asking("192.0.2.1", "1")).await.expect("an answer"),
    );
    assert!(held.0.status() == 200 && held.1.status() == 200);
    let mut other = Http2::connect(&sandbox).await;
    assert_eq!(other.send(asking("192.0.2.1", "1")).await.expect("an answer").status(), 503);
    assert!(timeout(LONG, held.0.into_body().collect()).await.expect("it holds its place").is_err());
    until("what they held is free", async || {
        other.send(asking("192.0.2.1", "1")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    assert_eq!(bites(&sandbox, "stall").await, 1);

    // Much longer than a stall, and for one piece of core-manager's, too.
    let mut slow = Http2::connect_with(&sandbox, 2_048).await;
    let mut body = slow.send(asking("192.0.2.2", "200000")).await.expect("an answer").into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.expect("still served").data_ref().map_or(0, Bytes::len);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((read, bites(&sandbox, "stall").await), (200_000, 1));
}

/// Asks for much more than fits into a client's window.
pub fn large(sandbox: &Sandbox, user: &User) -> Request<Empty<Bytes>> {
    let token = format!("Bearer {}", user.token);
    Http2::request(sandbox, INSTANCES, &[("authorization", &token), ("x-stub-stream-bytes", "4000000")])
}

#[tokio::test]
async fn answers_that_nobody_reads_give_way_to_those_of_others_and_a_user_has_a_share_of_them() {
    const PLACES: usize = 16;
    let sandbox = with(&[("GATEWAY_CONCURRENCY", "16")]).await;
    let honest = sandbox.register().await;
    let mut client = Http2::connect_with(&sandbox, 16_384).await;
    let mut unread = Vec::new();
    let before = sandbox.edge_processes[0].descriptors();
    for _ in 0..PLACES + 4 {
        let user = sandbox.register().await;
        let answer = client.send(large(&sandbox, &user)).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        unread.push((user, answer));
    }
    assert_eq!(bites(&sandbox, "answers").await, 4);
    let held = sandbox.edge_processes[0].descriptors() - before;
    assert!(held < PLACES + 4, "{held} more files are open");
    sandbox.edge().get(INSTANCES, &honest.token).await.must_be(200);

    // Whoever holds the most pushes out the own ones, and at last does not reach core-manager.
    let (user, _first) = unread.pop().expect("the last one");
    let mut more = Vec::new();
    for _ in 0..3 {
        let answer = client.send(large(&sandbox, &user)).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        more.push(answer);
    }
    assert_eq!(bites(&sandbox, "answers").await, 7);
    let sent = asked(&sandbox).await;
    assert_eq!(client.send(large(&sandbox, &user)).await.expect("an answer").status(), 503);
    assert_eq!(asked(&sandbox).await, sent);
    // The first of all has lost its place, the last comes whole, and its user is served again.
    let (_, first) = unread.swap_remove(0);
    assert!(timeout(LONG, first.into_body().collect()).await.expect("an end").is_err());
    let last = more.pop().expect("the last one");
    let whole = timeout(LONG, last.into_body().collect()).await.expect("an end").expect("whole");
    assert_eq!(whole.to_bytes().len(), 4_000_000);
    sandbox.edge().get(INSTANCES, &user.token).await.must_be(200);
}

#[tokio::test]
async fn large_answers_that_are_there_at_once_give_way_as_others_do() {
    let sandbox = with(&[("GATEWAY_CONCURRENCY", "16")]).await;
    // After a long one so much is read at once that each of the others is one part.
    let user = sandbox.register().await;
    let mut reader = Http2::connect_with(&sandbox, 1 << 20).await;
    let long = reader.send(large(&sandbox, &user)).await.expect("an answer").into_body();
    assert_eq!(long.collect().await.expect("whole").to_bytes().len(), 4_000_000);
    let mut client = Http2::connect_with(&sandbox, 0).await;
    let mut unread = Vec::new();
    for _ in 0..16 + 4 {
        let user = sandbox.register().await;
        let persona = serde_json::json!({ "name": "x".repeat(20_000), "template_id": "t" });
        sandbox.edge().post(INSTANCES, &user.token, persona).await.must_be(201);
        let token = format!("Bearer {}", user.token);
        let request = Http2::request(&sandbox, INSTANCES, &[("authorization", &token)]);
        let answer = client.send(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.body().size_hint().lower() > 20_000, "{answer:?}");
        unread.push(answer);
    }
    assert_eq!(bites(&sandbox, "answers").await, 4);
}

#[tokio::test]
async fn who_asks_for_more_at_once_than_one_may_hold_pushes_out_nobody_else() {
    let sandbox = with(&[("GATEWAY_CONCURRENCY", "16")]).await;
    let (other, user) = (sandbox.register().await, sandbox.register().await);
    let mut client = Http2::connect_with(&sandbox, 16_384).await;
    let others = client.send(large(&sandbox, &other)).await.expect("an answer");
    let mut answers = Vec::new();
    for _ in 0..2 {
        // All are admitted before the first is answered.
        let asking = (0..8).map(|_| slow(&client, large(&sandbox, &user)));
        answers.extend(try_join_all(asking).await.expect("answers"));
    }
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(bites(&sandbox, "answers").await, 1);
    let whole = timeout(LONG, others.into_body().collect()).await.expect("an end").expect("whole");
    assert_eq!(whole.to_bytes().len(), 4_000_000);
    let read = answers.into_iter().map(|answer| timeout(LONG, answer.into_body().collect()));
    let ends = join_all(read).await.into_iter().map(|end| end.expect("an end").is_ok());
    assert_eq!(ends.filter(|&is_whole| is_whole).count(), 15);
}

/// Has core-manager think about a request for a second.
fn slow(
    client: &Http2,
    mut request: Request<Empty<Bytes>>,
) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
    let mut sender = client.0.clone();
    request.headers_mut().insert("x-stub-delay-ms", 1000.into());
    async move {
        sender.ready().await?;
        sender.send_request(request).await
    }
}

#[tokio::test]
async fn a_user_who_asks_for_much_at_once_leaves_places_at_core_manager_to_others() {
    let sandbox = with(&[("GATEWAY_CONCURRENCY", "16")]).await;
    let (other, user) = (sandbox.register().await, sandbox.register().await);
    let token = format!("Bearer {}", user.token);
    let client = Http2::connect(&sandbox).await;
    let asking = (0..12).map(|_| {
        let request = Http2::request(&sandbox, INSTANCES, &[("authorization", &token)]);
        slow(&client, request)
    });
    let mut asking: FuturesUnordered<_> = asking.collect();
    for _ in 0..4 {
        let refused = asking.next().await.expect("one more").expect("an answer");
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (503, &"1".parse().expect("a value"))
        );
    }
    sandbox.edge().get(INSTANCES, &other.token).await.must_be(200);
    while let Some(answer) = asking.next().await {
        assert_eq!(answer.expect("an answer").status(), 200, "half of the places are anybody's");
    }
}

#[tokio::test]
async fn answers_that_are_there_at_once_hold_no_connection_however_late_they_are_read() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let token = format!("Bearer {}", user.token);
    let mut client = Http2::connect_with(&sandbox, 0).await;
    let mut unread = Vec::new();
    let before = sandbox.edge_processes[0].descriptors();
    for _ in 0..40 {
        let request = Http2::request(&sandbox, INSTANCES, &[("authorization", &token)]);
        unread.push(client.send(request).await.expect("an answer"));
    }
    let held = sandbox.edge_processes[0].descriptors() - before;
    assert!(held < 8, "{held} more files are open");
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn endless_frames_of_http2_end_the_connection() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;
    let sandbox = Sandbox::start().await;
    // A header without an index, of one byte and no value; nothing says that it is the last one.
    let header = [0, 1, b'a', 0];
    let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let floods = [
        ("headers that never end", frame(HEADERS, 0, 1, &header), frame(CONTINUATION, 0, 1, &header)),
        ("empty ones", frame(HEADERS, 0, 1, &[]), frame(CONTINUATION, 0, 1, &[])),
    ];
    for (flood, first, again) in floods {
        let before = bites(&sandbox, "http2_frames").await;
        let mut stream = connect(&sandbox).await;
        stream.write_all(&[greeting.clone(), first].concat()).await.expect("sent");
        let end = async { while stream.write_all(&again).await.is_ok() {} };
        timeout(LONG, end).await.unwrap_or_else(|_| panic!("{flood}: the connection goes on"));
        until("it is counted", async || bites(&sandbox, "http2_frames").await == before + 1).await;
    }
    sandbox.edge().open_get("/health").await.must_be(200);
}
