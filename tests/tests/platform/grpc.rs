use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::identity::auth_service_client::AuthServiceClient;
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::{LoginRequest, ValidateTokenRequest, WatchAuthEventsRequest};
use e2e::{Authority, INTERNAL_TOKEN, Plan, Process, Sandbox, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
use tonic_types::StatusExt;

/// A call that carries a token.
pub fn call<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a value");
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn internal_services_sign_users_in_and_look_tokens_up() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let address = format!("http://{}", sandbox.identity[0]);
    let mut client = AuthServiceClient::connect(address).await.expect("a connection");
    let login = |password: &str| LoginRequest {
        email: user.email.clone(),
        password: password.to_owned(),
        device: None,
    };
    let answer =
        client.login(call(login(user.password), INTERNAL_TOKEN)).await.expect("signed in").into_inner();
    let access_token = answer.tokens.expect("tokens").access_token;
    let lookup = ValidateTokenRequest { access_token };
    let known =
        client.validate_token(call(lookup.clone(), INTERNAL_TOKEN)).await.expect("valid").into_inner();
    assert_eq!(known.user.expect("a user").id, user.id);

    let refused = client.login(call(login("wrong"), INTERNAL_TOKEN)).await.expect_err("refused");
    let details = refused.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(
        (refused.code(), info.reason.as_str(), info.domain.as_str()),
        (Code::Unauthenticated, "AUTH001", "persona-platform")
    );

    for request in [Request::new(lookup.clone()), call(lookup, "a wrong token")] {
        let refused = client.validate_token(request).await.expect_err("refused");
        assert_eq!(
            (refused.code(), refused.get_error_details().error_info().is_some()),
            (Code::Unauthenticated, false)
        );
    }
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let sandbox = Sandbox::start().await;
    for (place, own, other) in [
        (&sandbox.identity[0], "persona.identity.", "persona.subscription."),
        (&sandbox.subscription[0], "persona.subscription.", "persona.identity."),
    ] {
        let channel = Endpoint::from_shared(format!("http://{place}")).expect("a URL");
        let mut client = ServerReflectionClient::new(channel.connect().await.expect("a connection"));
        let ask = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        let answers = client.server_reflection_info(call(futures_util::stream::iter([ask]), INTERNAL_TOKEN));
        let answer = answers.await.expect("admitted").into_inner().message().await.expect("an answer");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.and_then(|a| a.message_response)
        else {
            panic!("no list");
        };
        let names: Vec<String> = list.service.into_iter().map(|ServiceResponse { name }| name).collect();
        assert!(names.iter().any(|name| name.starts_with(own)), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with(other)), "{names:?}");
    }
}

fn trust(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.certificate()))
}

fn issued(authority: &Authority) -> Identity {
    let (certificate, key) = authority.issue("127.0.0.1");
    Identity::from_pem(certificate, key)
}

#[tokio::test]
async fn with_mutual_tls_a_caller_needs_a_certificate_of_the_authority() {
    let authority = Arc::new(Authority::default());
    let plan = Plan { authority: Some(authority.clone()), ..Plan::default() };
    let sandbox = Sandbox::planned(plan).await;
    // Through the edge to both services, and from one service to the other.
    let user = sandbox.register().await;
    sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);

    let stranger = Authority::default();
    let look_up = async |scheme: &str, tls: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", sandbox.identity[0])).expect("a URL");
        let endpoint = if scheme == "https" { endpoint.tls_config(tls).expect("usable") } else { endpoint };
        let mut client = AuthServiceClient::new(endpoint.connect_lazy());
        let lookup = ValidateTokenRequest { access_token: user.token.clone() };
        client.validate_token(call(lookup, INTERNAL_TOKEN)).await.is_ok()
    };
    assert!(look_up("https", trust(&authority).identity(issued(&authority))).await);
    assert!(!look_up("https", trust(&authority)).await, "without a certificate");
    assert!(!look_up("https", trust(&authority).identity(issued(&stranger))).await, "a stranger's");
    assert!(!look_up("https", trust(&stranger).identity(issued(&authority))).await, "to a stranger");
    assert!(!look_up("http", ClientTlsConfig::new()).await, "in plain text");
}

#[tokio::test]
async fn new_certificates_are_taken_over_while_all_run_and_broken_ones_are_not() {
    let (old, new) = (Arc::new(Authority::default()), Authority::default());
    let sandbox = Sandbox::planned(Plan { authority: Some(old.clone()), ..Plan::default() }).await;
    let user = sandbox.register().await;
    let both = [&sandbox.identity[0], &sandbox.subscription[0]];
    // Whether a new connection to each service succeeds.
    let admits = async |tls: ClientTlsConfig| {
        let mut admitted = Vec::new();
        for place in both {
            let endpoint = Endpoint::from_shared(format!("https://{place}")).expect("a URL");
            let channel = endpoint.tls_config(tls.clone()).expect("usable").connect_lazy();
            let check = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
            admitted.push(check.is_ok());
        }
        (admitted[0] == admitted[1]).then_some(admitted[0])
    };
    let metric = async |name: &str| {
        let metrics = sandbox.internals[0].open_get("/internal/metrics").await.text();
        metrics.lines().any(|line| line == name)
    };
    let refused = "grpc_tls_reloads_total{outcome=\"refused\"} 1";

    // What cannot be used changes nothing, and is told.
    sandbox.certificates.write("cert.pem", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n");
    until("the edge complains", async || metric(refused).await && metric("grpc_tls_is_current 0").await)
        .await;
    until("so do the services", async || {
        let all = sandbox.identity_processes.iter().chain(&sandbox.subscription_processes);
        all.into_iter().all(|process| process.said().contains("the former ones stay in use"))
    })
    .await;
    assert_eq!(admits(trust(&old).identity(issued(&old))).await, Some(true));
    sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);

    // A certificate of another authority, while both authorities are believed.
    sandbox.certificates.renew(&new, &[&*old, &new]);
    until("the services show it", async || admits(trust(&new).identity(issued(&old))).await == Some(true))
        .await;
    until("the edge has it", async || metric("grpc_tls_is_current 1").await).await;
    sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);

    // From now on the former authority counts for nothing.
    sandbox.certificates.renew(&new, &[&new]);
    until("the old one is refused", async || admits(trust(&new).identity(issued(&old))).await == Some(false))
        .await;
    assert_eq!(admits(trust(&new).identity(issued(&new))).await, Some(true));
    sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);
    // New connections of the edge are made with the new certificate.
    let mut sandbox = sandbox;
    sandbox.restart_identity(0).await;
    until("the edge has connected again", async || {
        sandbox.edge().get("/api/v1/user/profile", &user.token).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn connections_end_soon_after_the_authority_behind_them_is_believed_no_more_and_no_call_fails() {
    let (old, new) = (Arc::new(Authority::default()), Authority::default());
    let sandbox = Sandbox::planned(Plan { authority: Some(old.clone()), ..Plan::default() }).await;
    let user = sandbox.register().await;
    let endpoint = Endpoint::from_shared(format!("https://{}", sandbox.identity[0])).expect("a URL");
    let tls = trust(&old).identity(issued(&old));
    let channel = endpoint.tls_config(tls).expect("usable").connect().await.expect("a connection");
    let mut client = LiveClaimsServiceClient::new(channel.clone());
    let watching = client.watch_auth_events(call(WatchAuthEventsRequest::default(), INTERNAL_TOKEN)).await;
    let mut stream = watching.expect("a stream").into_inner();
    let taken_over = async |times: usize| {
        until("the service has taken the files over", async || {
            let said = sandbox.identity_processes[0].said();
            said.matches("new certificates of the internal plane are in use").count() == times
        })
        .await;
    };

    // One more authority takes trust from nobody.
    sandbox.certificates.renew(&new, &[&*old, &new]);
    taken_over(1).await;
    for _ in 0..15 {
        stream.message().await.expect("an open stream").expect("a message");
    }
    HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .expect("an open connection");

    sandbox.certificates.renew(&new, &[&new]);
    taken_over(2).await;
    let since = Instant::now();
    let ended = async { while let Ok(Some(_)) = stream.message().await {} };
    let mut ended = std::pin::pin!(ended);
    // The platform serves all the while.
    loop {
        let ask = async {
            sandbox.edge().get("/api/v1/user/profile", &user.token).await.must_be(200);
            sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);
        };
        tokio::select! {
            () = &mut ended => break,
            () = ask => {}
        }
        assert!(since.elapsed() < Duration::from_secs(20), "the stream outlives its authority");
    }
    let again = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert!(again.is_err(), "and no other connection is made with it");
    sandbox
        .edge()
        .post("/api/v1/projects", &user.token, serde_json::json!({ "name": "p" }))
        .await
        .must_be(201);
}

#[tokio::test]
async fn certificates_for_development_work_and_are_renewed_under_one_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let make = async || Process::run("xtask", &[], &["certs", "--folder", path]).await;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a file");
    let said = make().await;
    let (authority, certificate) = (read("ca.pem"), read("edge.pem"));
    make().await;
    assert_eq!(read("ca.pem"), authority);
    assert_ne!(read("edge.pem"), certificate);

    // One after the other each process's certificate, in everybody's hands.
    for process in ["edge", "identity-svc", "subscription-svc"] {
        let names = ["GRPC_TLS_CA_FILE", "GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"];
        let rest = said.split_once(&format!("# {process}\n")).expect("its settings").1;
        let setting = |name: &'static str| {
            let value = rest.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            (name, value.expect("a setting").to_owned())
        };
        let settings = names.map(setting).into();
        let plan = Plan { settings, has_certificates: true, ..Plan::default() };
        Sandbox::planned(plan).await.register().await;
    }
}

#[tokio::test]
async fn calls_end_with_their_deadline_and_messages_and_streams_are_bounded() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    let address = format!("http://{}", sandbox.identity[0]);
    let mut client = AuthServiceClient::connect(address).await.expect("a connection");

    // Larger than any message that is meant.
    let large = ValidateTokenRequest { access_token: "a".repeat(5 * 1024 * 1024) };
    let refused = client.validate_token(call(large, INTERNAL_TOKEN)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange);

    // What the server tells a client of HTTP/2 in its first frame (RFC 9113 section 6.5.2).
    for (place, streams) in [(sandbox.edge().authority(), 100), (&*sandbox.identity[0], 1024)] {
        let settings = http2_settings(place).await;
        let most = |id| settings.iter().find(|(known, _)| *known == id).map(|(_, value)| *value);
        const MAX_CONCURRENT_STREAMS: u16 = 3;
        const MAX_HEADER_LIST_SIZE: u16 = 6;
        assert_eq!(most(MAX_CONCURRENT_STREAMS), Some(streams), "{place}");
        assert!(most(MAX_HEADER_LIST_SIZE).is_some_and(|bytes| bytes <= 64 * 1024), "{place}: {settings:?}");
    }

    // The database hangs, and the caller has less patience than the service.
    sandbox.database.freeze();
    let login = LoginRequest { email: user.email.clone(), password: user.password.to_owned(), device: None };
    let mut hurried = call(login, INTERNAL_TOKEN);
    hurried.metadata_mut().insert("grpc-timeout", MetadataValue::from_static("300m"));
    let since = Instant::now();
    let late = client.login(hurried).await.expect_err("late");
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// The pairs of the server's first frame, which must be SETTINGS.
async fn http2_settings(place: &str) -> Vec<(u16, u32)> {
    let mut stream = TcpStream::connect(place).await.expect("a connection");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS");
    let mut pairs = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut pairs).await.expect("its pairs");
    let pair = |pair: &[u8]| {
        let id = u16::from_be_bytes([pair[0], pair[1]]);
        (id, u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]))
    };
    pairs.chunks_exact(6).map(pair).collect()
}
