//! `Idempotency-Key` on every POST that makes something: of several requests with one key one runs, and all get its
//! answer (draft-ietf-httpapi-idempotency-key-header). What fails has no effect and is not kept.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use contract::subscription::begin_response::Answer as Begun;
use contract::subscription::{AbandonRequest, BeginRequest, FinishRequest, Finished, Header, Headers};
use contract::{ErrorCode, Failure, Outcome};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ring::digest::{Context, SHA256};

use crate::answer::Refusal;
use crate::claims::Intent;
use crate::front::RequestContext;
use crate::routes::{Edge, Public};
use crate::services::{from_subscription, present};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY: usize = 200;
/// The largest body of such a request, and of an answer that is kept, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How long a run may take before another may take it over; longer than any request takes.
const LEASE_SECONDS: i32 = 90;
/// How long a request waits for the run with its key.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(40);

/// Serves a request, once for each key that comes with it. Signing in makes no lasting thing that could be repeated, and its answer, a token, must
/// not be kept.
pub async fn once(public: &Public, request: Request) -> Response {
    let applies = request.method() == Method::POST
        && request.headers().contains_key(KEY)
        && !request.uri().path().starts_with("/api/v1/auth/");
    if !applies {
        return public.serve(request).await;
    }
    match run_once(public, request).await {
        Ok(response) => response,
        Err(failure) => Refusal::from(failure).into_response(),
    }
}

async fn run_once(public: &Public, request: Request) -> Outcome<Response> {
    let edge = public.edge();
    let key = key(request.headers())?.to_owned();
    let context = RequestContext::of(request.extensions())?.clone();
    let caller = edge.authenticator.caller(request.headers(), &context, Intent::Act).await?;
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| {
        Failure::new(ErrorCode::Unacceptable)
            .saying("A request with an Idempotency-Key must be complete and have at most 1 MiB")
    })?;
    let mut digest = Context::new(&SHA256);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [parts.method.as_str().as_bytes(), b"\n", path.as_bytes(), b"\n", &body] {
        digest.update(part);
    }
    let begin = BeginRequest {
        user_id: caller.user_id().to_owned(),
        idempotency_key: key.clone(),
        fingerprint: digest.finish().as_ref().to_vec(),
        lease_seconds: LEASE_SECONDS,
    };
    let runner = match begun(edge, &context, begin).await? {
        Begun::Proceed(proceed) => proceed.runner,
        Begun::Finished(finished) => return replay(finished),
        Begun::Running(_) => {
            return Err(Failure::new(ErrorCode::Overloaded)
                .saying("The first request with this Idempotency-Key is still running")
                .retry_after(Duration::from_secs(1)));
        }
    };
    let run = Run { public: public.clone(), context, user_id: caller.user_id().to_owned(), key, runner };
    // On its own: a client that goes away does not take the answer for those after it along.
    let running = tokio::spawn(run.finish(Request::from_parts(parts, Body::from(body))));
    running.await.map_err(Failure::internal)?
}

fn key(headers: &HeaderMap) -> Outcome<&str> {
    let fault =
        || Failure::field("Idempotency-Key", format!("must be one of 1 to {MAX_KEY} visible characters"));
    let mut values = headers.get_all(KEY).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(fault()) };
    let key = value.to_str().map_err(|_| fault())?;
    if (1..=MAX_KEY).contains(&key.len()) { Ok(key) } else { Err(fault()) }
}

/// Where the request stands; waits while another one with the key runs.
async fn begun(edge: &Edge, context: &RequestContext, begin: BeginRequest) -> Outcome<Begun> {
    let started = tokio::time::Instant::now();
    loop {
        let answer = edge.services.idempotency().begin(context.call(begin.clone())).await;
        let begun = present(from_subscription(answer)?.answer)?;
        if !matches!(begun, Begun::Running(_)) || started.elapsed() > PATIENCE {
            return Ok(begun);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The one run of a key.
struct Run {
    public: Public,
    context: RequestContext,
    user_id: String,
    key: String,
    runner: String,
}

impl Run {
    /// Runs the request and keeps its answer.
    async fn finish(self, request: Request) -> Outcome<Response> {
        let response = self.public.serve(request).await;
        if !response.status().is_success() {
            self.abandon().await;
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, MAX_BODY).await else {
            // Something was made, and its answer broke off or is too long to keep: a repeated request must not make
            // another one, so that the key stays taken.
            return Err(Failure::new(ErrorCode::Unavailable).saying("The answer could not be kept whole"));
        };
        let answer = Finished {
            status: parts.status.as_u16().into(),
            headers: Some(kept(&parts.headers)),
            body: body.to_vec(),
        };
        let request = FinishRequest {
            user_id: self.user_id,
            idempotency_key: self.key,
            runner: self.runner,
            answer: Some(answer),
        };
        if let Err(status) =
            self.public.edge().services.idempotency().finish(self.context.call(request)).await
        {
            tracing::error!(request_id = self.context.id(), %status, "an answer was not kept for its key");
        }
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    async fn abandon(self) {
        let request =
            AbandonRequest { user_id: self.user_id, idempotency_key: self.key, runner: self.runner };
        if let Err(status) =
            self.public.edge().services.idempotency().abandon(self.context.call(request)).await
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
