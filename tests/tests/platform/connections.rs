//! Clients that take a place and do not use it (slowloris and its relatives).

use std::time::{Duration, Instant};

use e2e::{Plan, Sandbox, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::floods::bites;

const LONG: Duration = Duration::from_secs(10);

async fn impatient() -> Sandbox {
    let seconds = ["EDGE_HEADER_TIMEOUT_SECONDS", "EDGE_IDLE_SECONDS", "EDGE_STALL_SECONDS"];
    let settings = seconds.map(|name| (name, "1".to_owned())).into();
    Sandbox::planned(Plan { settings, ..Plan::default() }).await
}

/// Sends `text` and reads until the edge closes the connection.
async fn left_alone(sandbox: &Sandbox, text: &str) -> String {
    let mut stream = TcpStream::connect(sandbox.edge().authority()).await.expect("a connection");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut answer)).await;
    end.unwrap_or_else(|_| panic!("{text:?} holds its place")).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn who_sends_no_request_loses_the_connection() {
    let sandbox = impatient().await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /health HTTP/1.1\r\nhost: a\r\nx-slow: "]
    {
        assert!(!left_alone(&sandbox, begun).await.contains("200 OK"), "{begun:?}");
    }
    assert_eq!((bites(&sandbox, "header_time").await, bites(&sandbox, "idle").await), (4, 0));
    let answer = left_alone(&sandbox, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    until("it is counted", async || bites(&sandbox, "idle").await == 1).await;
}

#[tokio::test]
async fn who_stops_in_the_middle_of_a_body_is_refused() {
    let sandbox = impatient().await;
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let answer = left_alone(&sandbox, &format!("{head}content-length: 99\r\n\r\n{{")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("REQ001"), "{answer}");
    assert_eq!(bites(&sandbox, "stall").await, 1);
}

#[tokio::test]
async fn who_reads_no_more_of_an_answer_loses_the_connection_and_who_is_slow_does_not() {
    let sandbox = impatient().await;
    let user = sandbox.register().await;
    let head =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n", user.token);
    // Longer than any of the times above, with pauses in which nothing goes over the wire.
    let slow = format!("{}x-stub-slow-body-ms: 300\r\n\r\n", head("/api/v1/personas/instances"));
    let answer = left_alone(&sandbox, &slow).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\r\n0\r\n"), "{answer}");

    let mut stream = TcpStream::connect(sandbox.edge().authority()).await.expect("a connection");
    let much = format!("{}x-stub-stream-bytes: 100000000\r\n\r\n", head("/api/v1/personas/instances"));
    stream.write_all(much.as_bytes()).await.expect("sent");
    // A closed connection answers what comes after it with a reset.
    until("the connection is closed", async || stream.write_all(b"x").await.is_err()).await;
    until("it is counted", async || bites(&sandbox, "stall").await == 1).await;
}

#[tokio::test]
async fn a_connection_rests_between_requests_for_longer_than_headers_may_take() {
    let settings =
        vec![("EDGE_HEADER_TIMEOUT_SECONDS", "1".to_owned()), ("EDGE_IDLE_SECONDS", "5".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let mut stream = TcpStream::connect(sandbox.edge().authority()).await.expect("a connection");
    let mut answer = [0; 4096];
    for half in ["", "GET /health HT"] {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        assert!(stream.read(&mut answer).await.is_ok_and(|count| count > 0), "{half:?}");
        stream.write_all(half.as_bytes()).await.expect("sent");
        let since = Instant::now();
        let ended = timeout(Duration::from_secs(3), stream.read(&mut answer)).await;
        assert_eq!(ended.is_ok(), !half.is_empty(), "{half:?} after {:?}", since.elapsed());
    }
}
