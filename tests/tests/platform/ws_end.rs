//! How sockets end: by the token, the logout, the client, the process; and what they hold until then.

use std::time::{Duration, Instant};

use e2e::{Plan, Sandbox, Socket, User, until};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

async fn open_sockets(sandbox: &Sandbox) -> String {
    let metrics = sandbox.internals[0].open_get("/internal/metrics").await.text();
    let line = metrics.lines().find(|line| line.starts_with("edge_websockets_open ")).unwrap_or_default();
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

/// Has core-manager send more than a client that does not read can be given.
async fn fill(socket: &mut Socket) {
    let flood = json!({ "count": 400, "bytes": 60_000 });
    socket.send(json!({ "type": "stub.flood", "id": "1", "data": flood })).await;
    socket.next().await;
    // As much as goes; too little would only make the test easier.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_socket_ends_with_its_token_however_much_its_client_says() {
    let settings =
        vec![("ACCESS_TOKEN_TTL_SECONDS", "2".to_owned()), ("WS_EXPIRY_GRACE_SECONDS", "1".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    let ping = json!({ "type": "ping", "id": "p" });
    let closing = socket.closed_in_spite_of(&ping, Duration::from_millis(200));
    let code = timeout(Duration::from_secs(6), closing).await.expect("the token has ended long ago");
    assert_eq!(code, 4401);
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    assert_eq!(sandbox.socket(&user).await.leave(1000).await, 1000);
    let mut busy = sandbox.socket(&user).await;
    busy.send(json!({ "type": "hello", "id": "1" })).await;
    busy.next().await;
    assert_eq!(busy.leave(3001).await, 3001);
}

#[tokio::test]
async fn every_socket_hears_of_the_end_of_its_edge() {
    const SOCKETS: usize = 250;
    let settings = vec![("WS_CONNECTIONS_PER_USER", SOCKETS.to_string())];
    let mut sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut sockets: Vec<Socket> = join_all((0..SOCKETS).map(|_| sandbox.socket(&user))).await;
    // Two have more before them than the connection holds.
    fill(&mut sockets[0]).await;
    fill(&mut sockets[1]).await;
    let codes = join_all(sockets.iter_mut().map(Socket::closed));
    let (codes, exit) = tokio::join!(codes, sandbox.edge_processes[0].terminate());
    assert_eq!(codes, [1001; SOCKETS]);
    assert_eq!(exit, Some(0));
}

#[tokio::test]
async fn the_sockets_of_an_edge_do_not_all_end_at_once() {
    const SOCKETS: usize = 200;
    let settings = vec![("WS_CONNECTIONS_PER_USER", SOCKETS.to_string())];
    let mut sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut sockets: Vec<Socket> = join_all((0..SOCKETS).map(|_| sandbox.socket(&user))).await;
    let started = Instant::now();
    let all = async {
        let codes = join_all(sockets.iter_mut().map(Socket::closed)).await;
        (codes, started.elapsed())
    };
    let ((codes, took), exit) = tokio::join!(all, sandbox.edge_processes[0].terminate());
    assert_eq!((codes, exit), (vec![1001; SOCKETS], Some(0)));
    // Five every 20 ms: the last of them have their turn 780 ms after the first.
    assert!(took >= Duration::from_millis(780), "all ended within {took:?}");
}

#[tokio::test]
async fn clients_that_do_not_read_hold_up_no_drain() {
    let settings = vec![("DRAIN_LIMIT_SECONDS", "20".to_owned())];
    let mut sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let _silent = sandbox.socket(&user).await;
    let started = Instant::now();
    assert_eq!(sandbox.edge_processes[0].terminate().await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_socket_holds_its_place_among_the_connections() {
    const PLACES: usize = 8;
    let settings = vec![("EDGE_CONNECTIONS", PLACES.to_string())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut sockets = Vec::new();
    while let Ok(socket) = timeout(Duration::from_secs(1), sandbox.socket(&user)).await {
        sockets.push(socket);
        assert!(sockets.len() <= PLACES, "more sockets than places");
    }
    let waiting = sandbox.socket(&user);
    let last = sockets.pop().expect("some have got a place");
    let (_, code) = tokio::join!(waiting, last.leave(1000));
    assert_eq!(code, 1000);
}

#[tokio::test]
async fn a_logout_ends_a_socket_while_core_manager_hangs() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let behaviour = json!({ "path_prefix": "/ws", "hang": true });
    sandbox.stub.open_post("/stub/behaviour", behaviour).await.must_be(204);
    let mut socket = sandbox.socket(&user).await;
    socket.send(json!({ "type": "hello", "id": "1" })).await;
    until("core-manager has been called", async || {
        sandbox.stub.open_get("/stub/requests").await.text().contains("\"/ws\"")
    })
    .await;
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    let started = Instant::now();
    assert_eq!(socket.closed().await, 4403);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_logout_ends_a_socket_whose_client_does_not_read() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    fill(&mut socket).await;
    sandbox.edge().post("/api/v1/auth/logout", &user.token, json!({})).await.must_be(200);
    let started = Instant::now();
    until("the socket is gone", async || open_sockets(&sandbox).await == "0").await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_core_manager_may_send_arrives_and_what_it_may_not_has_a_reason_of_its_own() {
    let settings = vec![("WS_MAX_MESSAGE_BYTES", "1024".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    let flood = |bytes| json!({ "type": "stub.flood", "id": "1", "data": { "count": 3, "bytes": bytes } });
    socket.send(flood(1_048_000)).await;
    for number in 1..=3 {
        assert_eq!(socket.next().await["data"]["number"], number);
    }
    socket.send(flood(1_048_576)).await;
    assert_eq!(socket.closed().await, 1011);
    until("it is in the log", async || {
        sandbox.edge_processes[0].said().contains("core-manager sent what cannot be passed on")
    })
    .await;
}

async fn change_tier(sandbox: &Sandbox, admin: &User, user: &User, tier: &str) {
    let path = format!("/api/v1/admin/subscriptions/{}", user.id);
    sandbox.edge().put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
}

/// Has the edge open a leg in the tier that the socket was just told of.
async fn open_leg(socket: &mut Socket) {
    assert_eq!(socket.next().await["type"], "auth.changed");
    socket.send(json!({ "type": "hello", "id": "leg" })).await;
    while socket.next().await["type"] != "echo" {}
}

#[tokio::test]
async fn changes_leave_no_connection_to_core_manager_behind_on_which_nothing_runs() {
    let settings = vec![("WS_HEARTBEAT_SECONDS", "1".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let (user, admin) = (sandbox.register().await, sandbox.administrator().await);
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    let endless = super::ws::start("w", &project, json!({ "steps": 1, "step_ms": 600_000 }));
    socket.send(endless).await;
    assert_eq!(socket.next().await["type"], "workflow_status");
    for tier in ["basic", "premium"].into_iter().cycle().take(12) {
        change_tier(&sandbox, &admin, &user, tier).await;
        open_leg(&mut socket).await;
    }
    // Pings of the server must be answered meanwhile.
    until("only the leg of the workflow and the current one are open", async || {
        socket.send(json!({ "type": "ping", "id": "p" })).await;
        assert_eq!(socket.next().await["type"], "pong");
        sandbox.stub.open_get("/stub/state").await.must_be(200)["sockets"] == 2
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_former_connection_ends_what_runs_there_and_not_the_socket() {
    let sandbox = Sandbox::start().await;
    let (user, admin) = (sandbox.register().await, sandbox.administrator().await);
    let project = sandbox.project(&user).await;
    let mut socket = sandbox.socket(&user).await;
    let endless = |id| super::ws::start(id, &project, json!({ "steps": 1, "step_ms": 600_000 }));
    socket.send(endless("former")).await;
    assert_eq!(socket.next().await["type"], "workflow_status");
    change_tier(&sandbox, &admin, &user, "basic").await;
    open_leg(&mut socket).await;
    socket.send(endless("current")).await;
    assert_eq!(socket.next().await["type"], "workflow_status");
    let closed = sandbox.stub.send(http::Method::DELETE, "/stub/sockets?tier=free", None, &[], None).await;
    closed.must_be(204);
    let lost = socket.next().await;
    assert_eq!(
        (&lost["correlation_id"], &lost["error"]["code"]),
        (&json!("former"), &json!("GW001")),
        "{lost}"
    );
    socket.send(json!({ "type": "hello", "id": "after" })).await;
    assert_eq!(socket.next().await["correlation_id"], "after");
    let closed = sandbox.stub.send(http::Method::DELETE, "/stub/sockets?tier=basic", None, &[], None).await;
    closed.must_be(204);
    assert_eq!(socket.closed().await, 1012);
}

#[tokio::test]
async fn no_socket_is_opened_when_nobody_knows_whether_the_session_stands() {
    let settings =
        vec![("LIVE_CLAIMS_STALE_SECONDS", "2".to_owned()), ("LIVE_CLAIMS_GRACE_SECONDS", "0".to_owned())];
    let sandbox = Sandbox::planned(Plan { settings, ..Plan::default() }).await;
    let user = sandbox.register().await;
    sandbox.identity_processes[0].freeze();
    let bearer = format!("Bearer {}", user.token);
    let authority = sandbox.edge().authority();
    until("the socket is refused", async || {
        match Socket::open(authority, &[("authorization", &bearer)]).await {
            Ok(socket) => socket.leave(1000).await == 0,
            Err(status) => status == 503,
        }
    })
    .await;
    sandbox.identity_processes[0].thaw();
    until("it is opened again", async || {
        Socket::open(authority, &[("authorization", &bearer)]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_open_circuit_spares_core_manager_the_sockets_too() {
    let mut sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let mut socket = sandbox.socket(&user).await;
    sandbox.stub_process.kill();
    let mut last = json!(null);
    for one in 0..11 {
        socket.send(json!({ "type": "hello", "id": one.to_string() })).await;
        last = socket.next().await;
        assert_eq!(last["error"]["code"], "GW001", "{last}");
    }
    assert_eq!(last["error"]["details"]["circuit"], "open", "{last}");
    sandbox.restart_stub();
    until("the circuit closes", async || {
        socket.send(json!({ "type": "hello", "id": "again" })).await;
        socket.next().await["type"] == "echo"
    })
    .await;
}
