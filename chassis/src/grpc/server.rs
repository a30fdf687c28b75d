use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use contract::Outcome;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Instrument;
use tracing::field::Empty;

use super::call::Call;
use super::handshakes::Door;
use super::tls::Tls;
use super::{REQUEST_ID, Settings, meters};
use crate::drain::Drain;
use crate::health::{Health, State};
use crate::traces;

/// How long a call may take when the caller sets no shorter deadline.
const CALL_LIMIT: Duration = Duration::from_secs(30);
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// What the methods of health checks begin with.
pub(super) const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";

/// Serves `services` with health and, when their descriptors are given, reflection (v1, and v1alpha which older grpcurl
/// speaks) until the drain. Every call but health needs the token, those to unknown methods included.
///
/// # Errors
/// When the descriptors or the listener fail.
pub async fn serve(
    listener: TcpListener,
    services: Routes,
    descriptors: Option<&'static [u8]>,
    settings: &Settings,
    health: Health,
    drain: Drain,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let services = match descriptors {
        Some(descriptors) => with_reflection(services, descriptors)?,
        None => services,
    };
    let (reporter, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(report(reporter, health, drain.clone()));
    let expected: Arc<str> = settings.token.authorization().into();
    let admitted = services
        .add_service(health_service)
        .into_axum_router()
        .layer(middleware::from_fn_with_state(expected, admit));
    let server = Server::builder()
        .timeout(CALL_LIMIT)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(Some(1024));
    let routes = Routes::from(admitted);
    let serving = async {
        if settings.tls.server().is_some() {
            return serve_trusted(listener, &server, &routes, &settings.tls, &drain).await;
        }
        // Small answers must not wait for an acknowledgement.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let until = drain.stop_accepting();
        Ok(server.clone().add_routes(routes).serve_with_incoming_shutdown(incoming, until).await?)
    };
    tokio::select! {
        outcome = serving => outcome,
        // Streams that never end by themselves must not hold the process back.
        () = overdue(&drain) => Ok(()),
    }
}

/// Serves until the drain, with one server after the other: when an authority is believed no more, the callers of the
/// former one are told to connect again, and end what they have begun.
async fn serve_trusted(
    listener: TcpListener,
    server: &Server,
    routes: &Routes,
    tls: &Tls,
    drain: &Drain,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    tls.keep_current();
    let door = Door::open(listener, tls.clone());
    let mut servers = JoinSet::new();
    let mut is_over = false;
    while !is_over {
        let (trust, end) = (tls.trust(), CancellationToken::new());
        let until = end.clone().cancelled_owned();
        let served = server.clone().add_routes(routes.clone());
        servers.spawn(served.serve_with_incoming_shutdown(door.callers(), until));
        tokio::select! {
            () = drain.stop_accepting() => is_over = true,
            () = trust.cancelled() => {}
        }
        end.cancel();
        while let Some(ended) = servers.try_join_next() {
            ended??;
        }
    }
    // What would otherwise go on accepting for nobody.
    drop(door);
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Keeps `grpc.health.v1` true: the whole is served from ready until the drain, and each dependency stands under its
/// own name, so that a caller can tell "identity-svc is away" from "its database is".
async fn report(reporter: HealthReporter, health: Health, drain: Drain) {
    let serving = |yes| {
        if yes { ServingStatus::Serving } else { ServingStatus::NotServing }
    };
    loop {
        reporter.set_service_status("", serving(health.is_ready() && !drain.is_ending())).await;
        for (name, state) in health.dependencies() {
            reporter.set_service_status(name, serving(state != State::Unhealthy)).await;
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
            () = drain.ending(), if !drain.is_ending() => {}
        }
    }
}

async fn overdue(drain: &Drain) {
    drain.stop_accepting().await;
    tokio::time::sleep(drain.limit()).await;
}

fn with_reflection(
    services: Routes,
    descriptors: &'static [u8],
) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl can print the details of a refusal.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(services.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

async fn admit(
    axum::extract::State(expected): axum::extract::State<Arc<str>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let given = request.headers().get(http::header::AUTHORIZATION);
    if !path.starts_with(HEALTH_PREFIX) && !same(given.map(|v| v.as_bytes()), expected.as_bytes()) {
        let refusal: http::Response<tonic::body::Body> =
            Status::unauthenticated("the internal token is missing or wrong").into_http();
        return refusal.into_response();
    }
    // Probes would drown everything else.
    if path.starts_with(HEALTH_PREFIX) {
        return next.run(request).await;
    }
    let (path, since) = (path.to_owned(), Instant::now());
    let request_id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let logged = tracing::info_span!("call", rpc = path.as_str(), request_id);
    let traced = tracing::info_span!(
        target: traces::TARGET,
        "call",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.grpc.status_code = Empty,
        request_id
    );
    traces::continue_from(&traced, request.headers());
    let call = Call::new(request.headers(), traced.clone());
    let response = call.serve(next.run(request).instrument(logged).instrument(traced.clone())).await;
    meters::served(&path, response.headers(), since);
    if let Some(status) = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()) {
        traced.record("rpc.grpc.status_code", status);
    }
    response
}

/// Compares without an early exit, so that the time taken says nothing about the token.
fn same(given: Option<&[u8]>, expected: &[u8]) -> bool {
    let Some(given) = given.filter(|given| given.len() == expected.len()) else {
        return false;
    };
    given.iter().zip(expected).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Turns what a rule came to into the answer of a call. The one place where a service logs a failure of its own.
///
/// # Errors
/// The failure as it crosses gRPC.
pub fn answer<T>(outcome: Outcome<T>) -> Result<tonic::Response<T>, Status> {
    outcome.map(tonic::Response::new).map_err(|failure| {
        let status = failure.to_status();
        match status.code() {
            Code::Internal => tracing::error!(cause = ?failure.cause(), "{failure}"),
            Code::Unavailable | Code::DeadlineExceeded => {
                tracing::warn!(cause = ?failure.cause(), "{failure}")
            }
            _ => tracing::debug!("{failure}"),
        }
        status
    })
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn only_the_exact_token_is_the_same() {
        assert!(same(Some(b"Bearer abc"), b"Bearer abc"));
        for wrong in [None, Some(&b""[..]), Some(b"Bearer ab"), Some(b"Bearer abd"), Some(b"Bearer abcd")] {
            assert!(!same(wrong, b"Bearer abc"));
        }
    }
}
