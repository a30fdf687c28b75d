//! `Idempotency-Key` on every POST that makes something: of several requests with one key one runs, and all get its
//! answer (draft-ietf-httpapi-idempotency-key-header). What was refused has no effect and is not kept. Where nobody knows
//! what came of a request, our own services are asked again under the same operation, and core-manager is not.

mod waiting;

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use contract::subscription::begin_response::Answer as Begun;
use contract::subscription::{
    AbandonRequest, BeginRequest, FinishRequest, Finished, Header, Headers, Proceed,
};
use contract::{ErrorCode, Failure, Outcome};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ring::digest::{Context, SHA256};
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::Refusal;
use crate::claims::Intent;
use crate::front::RequestContext;
use crate::gateway::{OutcomeUnknown, Who, upstream_away};
use crate::routes::{Edge, Public};
use crate::services::{from_subscription, present};

pub use waiting::Waiting;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
pub const MAX_KEY: usize = 200;
/// The largest body of such a request, and of an answer that is kept, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Our own routes that make something. Signing in, registering and making an API key are not among them: their answer is
/// a secret, which must not be kept.
const OURS: [(&str, Who); 3] = [
    ("/api/v1/projects", Who::User),
    ("/api/v1/subscription/checkout", Who::User),
    ("/api/v1/admin/subscriptions", Who::Admin),
];
/// Whether a POST to this path of ours heeds the header.
pub fn is_honoured(path: &str) -> bool {
    OURS.iter().any(|(ours, _)| *ours == path)
}

/// How long a run of ours may take before the next one takes it over.
const OUR_LEASE: Duration = Duration::from_secs(10);
/// How much longer than core-manager's answer a run may take.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a request waits for the run with its key.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause between two questions how that stands; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What a request does, the same for every run of its key; in the extensions of the request.
#[derive(Clone)]
pub struct Operation(pub String);

/// A route that makes something.
#[derive(Clone, Copy)]
struct Making {
    who: Who,
    /// Whether what it makes is made once under one operation, so that a run may be repeated.
    repeatable: bool,
    lease: Duration,
}

impl Making {
    fn of(edge: &Edge, request: &Request) -> Option<Making> {
        if request.method() != Method::POST || !request.headers().contains_key(KEY) {
            return None;
        }
        let path = request.uri().path();
        if let Some((_, who)) = OURS.iter().find(|(ours, _)| *ours == path) {
            return Some(Making { who: *who, repeatable: true, lease: OUR_LEASE });
        }
        let who = edge.gateway.who(request.method(), path)?;
        Some(Making { who, repeatable: false, lease: edge.gateway.timeout() + MARGIN })
    }
}

/// Serves a request, once for each key that comes with it.
pub async fn once(public: &Public, request: Request, context: RequestContext) -> Response {
    let Some(making) = Making::of(public.edge(), &request) else {
        return public.serve(request, context).await;
    };
    match Box::pin(run_once(public, making, request, context)).await {
        Ok(response) => response,
        Err(failure) => Refusal::from(failure).into_response(),
    }
}

async fn run_once(
    public: &Public,
    making: Making,
    request: Request,
    context: RequestContext,
) -> Outcome<Response> {
    let edge = public.edge();
    let key = key(request.headers())?.to_owned();
    // Before an answer is repeated: who may no longer send the request, now or when all of it is there, must not get it.
    let caller = edge.authenticator.caller(request.headers(), &context, Intent::Act).await?;
    if making.who == Who::Admin {
        caller.must_be_admin()?;
    }
    let (parts, body) = request.into_parts();
    let body = edge.room.take_in(body, MAX_BODY, context.client()).await?;
    edge.authenticator.confirm_again(&caller).await?;
    let mut digest = Context::new(&SHA256);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let method = parts.method.as_str().as_bytes();
    for part in [method, b"\n", path.as_bytes(), b"\n", content_type, b"\n", &body] {
        digest.update(part);
    }
    let begin = BeginRequest {
        user_id: caller.user_id().to_owned(),
        idempotency_key: key.clone(),
        fingerprint: digest.finish().as_ref().to_vec(),
        lease_seconds: i32::try_from(making.lease.as_secs()).unwrap_or(i32::MAX),
        repeatable: making.repeatable,
    };
    let Proceed { runner, operation_id } = match begun(edge, &context, begin).await? {
        Begun::Proceed(proceed) => proceed,
        Begun::Finished(finished) => {
            // It may have been waited for.
            edge.authenticator.confirm_again(&caller).await?;
            return replay(finished);
        }
        Begun::Running(_) => return Err(still_running()),
        Begun::Unknown(_) => {
            return Err(upstream_away().saying(
                "What came of the first request with this Idempotency-Key is not known; see whether it took effect \
                 before sending it with another key",
            ));
        }
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(Operation(operation_id));
    let run =
        Run { public: public.clone(), making, context, user_id: caller.user_id().to_owned(), key, runner };
    // On its own: a client that goes away does not take the answer for those after it along.
    tokio::spawn(run.finish(request)).await.map_err(Failure::internal)?
}

fn key(headers: &HeaderMap) -> Outcome<&str> {
    let fault =
        || Failure::field("Idempotency-Key", format!("must be one of 1 to {MAX_KEY} visible characters"));
    let mut values = headers.get_all(KEY).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(fault()) };
    let key = value.to_str().map_err(|_| fault())?;
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible && (1..=MAX_KEY).contains(&key.len()) { Ok(key) } else { Err(fault()) }
}

/// Where the request stands; waits while another one with the key runs.
async fn begun(edge: &Edge, context: &RequestContext, begin: BeginRequest) -> Outcome<Begun> {
    let deadline = Instant::now() + PATIENCE;
    let first = ask(edge, context, &begin).await?;
    if !matches!(first, Begun::Running(_)) {
        return Ok(first);
    }
    let seat = edge.waiting.join(&begin.user_id, &begin.idempotency_key).ok_or_else(still_running)?;
    let Ok(_turn) = timeout_at(deadline, seat.turn()).await else { return Ok(first) };
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = ask(edge, context, &begin).await?;
        // Not given up in the middle of a question: the answer may be that this request is the one that runs.
        if !matches!(begun, Begun::Running(_)) || Instant::now() > deadline {
            return Ok(begun);
        }
        sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

async fn ask(edge: &Edge, context: &RequestContext, begin: &BeginRequest) -> Outcome<Begun> {
    let answer = edge.services.idempotency().begin(context.call(begin.clone())).await;
    present(from_subscription(answer)?.answer)
}

fn still_running() -> Failure {
    Failure::new(ErrorCode::Overloaded)
        .saying("The first request with this Idempotency-Key is still running")
        .retry_after(Duration::from_secs(1))
}

/// The one run of a key.
struct Run {
    public: Public,
    making: Making,
    context: RequestContext,
    user_id: String,
    key: String,
    runner: String,
}

impl Run {
    /// Runs the request and keeps its answer.
    async fn finish(self, request: Request) -> Outcome<Response> {
        let response = self.public.serve(request, self.context.clone()).await;
        let status = response.status();
        if !status.is_success() {
            let is_ours = self.making.repeatable && status.is_server_error();
            if is_ours || response.extensions().get::<OutcomeUnknown>().is_some() {
                self.end(None).await;
            } else {
                self.abandon().await;
            }
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, MAX_BODY).await else {
            // Something was made, and its answer broke off or is too long to keep: a repeated request must not make
            // another one.
            self.end(None).await;
            return Err(Failure::new(ErrorCode::Unavailable).saying("The answer could not be kept whole"));
        };
        let answer = Finished {
            status: parts.status.as_u16().into(),
            headers: Some(kept(&parts.headers)),
            body: body.to_vec(),
        };
        self.end(Some(answer)).await;
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    /// Keeps the answer; with none, nobody knows what came of the run.
    async fn end(self, answer: Option<Finished>) {
        let Run { public, context, user_id, key: idempotency_key, runner, .. } = self;
        let request = FinishRequest { user_id, idempotency_key, runner, answer };
        if let Err(status) = public.edge().services.idempotency().finish(context.last_call(request)).await {
            tracing::error!(request_id = context.id(), %status, "an answer was not kept for its key");
        }
    }

    async fn abandon(self) {
        let request =
            AbandonRequest { user_id: self.user_id, idempotency_key: self.key, runner: self.runner };
        if let Err(status) =
            self.public.edge().services.idempotency().abandon(self.context.last_call(request)).await
        {
            tracing::warn!(request_id = self.context.id(), %status, "a key stays taken until its lease ends");
        }
    }
}

/// Those that belong to the connection, or to the body as it was sent, are made anew. What core-manager sent has lost
/// its own before.
const OF_THE_CONNECTION: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE];

fn kept(headers: &HeaderMap) -> Headers {
    let kept = headers.iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(name));
    let kept = kept.map(|(name, value)| Header { name: name.to_string(), value: value.as_bytes().to_vec() });
    Headers { headers: kept.collect() }
}

fn replay(finished: Finished) -> Outcome<Response> {
    let status = u16::try_from(finished.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| Failure::internal("a kept answer without a status"))?;
    let mut response = Response::new(Body::from(finished.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for Header { name, value } in finished.headers.unwrap_or_default().headers {
        let name = HeaderName::try_from(name).map_err(Failure::internal)?;
        headers.append(name, HeaderValue::try_from(value).map_err(Failure::internal)?);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
