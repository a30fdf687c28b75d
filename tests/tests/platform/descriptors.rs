//! An edge that may have few files open still says how it is.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::{Process, Sandbox, until};
use http::StatusCode;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::floods::{Http2, bites, large};

const SOON: Duration = Duration::from_secs(2);

/// The edge of a sandbox with these limits of open files.
async fn with_files(soft: usize, hard: usize) -> Sandbox {
    let mut sandbox = Sandbox::start().await;
    sandbox.edge_processes[0].kill();
    sandbox.edge_processes[0] = Process::start_with_files("edge", &sandbox.settings(), soft, hard);
    sandbox.ready().await;
    sandbox
}

/// Connections that say nothing, from an address of this machine.
async fn idle(sandbox: &Sandbox, from: [u8; 4], count: usize) -> Vec<TcpStream> {
    let edge = sandbox.edge().authority().parse().expect("an address");
    let mut streams = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((from, 0))).expect("an address of this machine");
        streams.push(socket.connect(edge).await.expect("a connection"));
    }
    streams
}

async fn must_live(sandbox: &Sandbox) {
    for path in ["/livez", "/readyz", "/internal/health"] {
        let answer = timeout(SOON, sandbox.internals[0].open_get(path)).await;
        assert_eq!(answer.expect("an answer in time").status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn more_idle_connections_than_there_are_files_for_leave_an_edge_answering() {
    let sandbox = with_files(64, 256).await;
    let said = sandbox.edge_processes[0].said();
    assert_eq!(said.matches("the limit of open files is too low").count(), 1, "{said}");
    // Neither one address …
    let mut all = idle(&sandbox, [127, 0, 0, 2], 300).await;
    until("who has too many is sent away", async || bites(&sandbox, "per_address").await >= 200).await;
    let health = timeout(SOON, sandbox.edge().open_get("/health")).await.expect("an answer in time");
    assert_eq!(health.status, StatusCode::OK);
    must_live(&sandbox).await;
    // … nor many.
    for last in 3..13 {
        all.extend(idle(&sandbox, [127, 0, 0, last], 30).await);
    }
    until("there is no place left", async || bites(&sandbox, "connections").await > 0).await;
    must_live(&sandbox).await;
    assert_eq!(bites(&sandbox, "descriptors").await, 0);
    drop(all);
    sandbox.edge().open_get("/health").await.must_be(200);
}

#[tokio::test]
async fn connections_that_find_no_file_are_counted() {
    let sandbox = Sandbox::start().await;
    let edge = &sandbox.edge_processes[0];
    // Connected beforehand: to be asked, it needs a file, too.
    sandbox.internals[0].open_get("/livez").await.must_be(200);
    edge.limit_descriptors(edge.descriptors());
    let all = idle(&sandbox, [127, 0, 0, 2], 10).await;
    until("they are counted", async || bites(&sandbox, "descriptors").await > 0).await;
    edge.limit_descriptors(4096);
    drop(all);
    sandbox.edge().open_get("/health").await.must_be(200);
}

#[tokio::test]
async fn more_answers_that_nobody_reads_than_there_are_files_for_leave_an_edge_answering() {
    let sandbox = with_files(256, 256).await;
    let honest = sandbox.register().await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let user = sandbox.register().await;
        let mut client = Http2::connect_with(&sandbox, 16_384).await;
        for _ in 0..15 {
            unread.push(client.send(large(&sandbox, &user)).await.expect("an answer"));
        }
    }
    must_live(&sandbox).await;
    let personas = sandbox.edge().get("/api/v1/personas/instances", &honest.token);
    timeout(SOON, personas).await.expect("an answer in time").must_be(200);
    assert_eq!(bites(&sandbox, "descriptors").await, 0);
    let open = sandbox.edge_processes[0].descriptors();
    assert!(open < 256 - 64, "{open} files are open");
}
