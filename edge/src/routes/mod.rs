//! The public routes of the edge itself. Each route stands with its types and its handler.

mod api_keys;
mod asked;
mod audit;
mod auth;
mod billing;
mod edges;
mod email;
mod projects;
mod subscription;
mod subscriptions;
mod user;
mod users;

use std::sync::Arc;

use axum::extract::{FromRef, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use chrono::{DateTime, SecondsFormat, Utc};
use contract::identity::Device;
use contract::{ErrorCode, Failure};
use http::header::{CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use prost_types::Timestamp;
use serde::Serialize;
use tower::ServiceExt;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::answer::Refusal;
use crate::body::Room;
use crate::claims::Authenticator;
use crate::console;
use crate::front::{self, Client, Front, RequestContext};
use crate::gateway::{self, Gateway, RouteTable};
use crate::idempotency::{self, Waiting};
use crate::json::JsonLimit;
use crate::openapi;
use crate::services::Services;
use crate::settings::Pages;
use crate::ws::{self, Sockets};

pub use subscription::Offer;
pub use users::Imports;

/// What handlers need. Cheap to clone.
#[derive(Clone, FromRef)]
pub struct Edge {
    pub authenticator: Authenticator,
    pub services: Services,
    pub json_limit: JsonLimit,
    pub room: Room,
    pub gateway: Arc<Gateway>,
    pub sockets: Arc<Sockets>,
    pub imports: Arc<Imports>,
    pub waiting: Arc<Waiting>,
    pub offer: Arc<Offer>,
}

/// The whole public listener. Cheap to clone.
#[derive(Clone)]
pub struct Public(Arc<Listener>);

struct Listener {
    front: Front,
    edge: Edge,
    /// Where our own routes are.
    places: Vec<&'static str>,
    routes: Router,
}

impl Listener {
    /// Whether the router can have a route for a path. Most requests are for core-manager and are spared the router:
    /// going through it costs each several allocations.
    fn may_be_ours(&self, path: &str) -> bool {
        let is_within = |rest: &str| rest.is_empty() || rest.starts_with('/');
        self.places.iter().any(|place| path.strip_prefix(place).is_some_and(is_within))
    }
}

impl Public {
    pub fn new(edge: Edge, front: Front, pages: Pages) -> Self {
        let (places, routes) = routes(edge.clone(), pages);
        Public(Arc::new(Listener { front, edge, places, routes }))
    }

    /// Answers a request. What every request passes is called here and not layered on the router: a layer would cost
    /// each request several allocations.
    pub async fn answer(&self, peer: &Client, request: Request) -> Response {
        front::pass(&self.0.front, peer, request, |request, context| {
            idempotency::once(self, request, context)
        })
        .await
    }

    /// Refuses a request for what was found before anything looked at it.
    pub async fn refuse(&self, peer: &Client, request: Request, failure: Failure) -> Response {
        let refuse = |_, _| std::future::ready(Refusal::from(failure).into_response());
        front::pass(&self.0.front, peer, request, refuse).await
    }

    /// Serves a request that has passed all that comes before its route.
    pub async fn serve(&self, mut request: Request, context: RequestContext) -> Response {
        if !self.0.may_be_ours(request.uri().path()) {
            // In a box, so that what surrounds it stays small: it is moved several times before it runs.
            return Box::pin(gateway::serve(&self.0.edge.gateway, request, &context)).await;
        }
        request.extensions_mut().insert(context);
        let Ok(response) = self.0.routes.clone().oneshot(request).await;
        response
    }

    pub fn edge(&self) -> &Edge {
        &self.0.edge
    }
}

/// The document of all routes (OpenAPI 3.1), with those of the gateway as `table` has them.
pub fn document(table: &RouteTable) -> serde_json::Value {
    let mut api = described(&Imports::new(0)).1.into_openapi();
    api.merge(openapi::described().into_openapi());
    openapi::document(api, table)
}

/// Our own routes, `/ws`, and the gateway for the rest; with the places of all but the rest.
fn routes(edge: Edge, pages: Pages) -> (Vec<&'static str>, Router) {
    let (mut places, ours) = described(&edge.imports);
    let mut router = Router::from(ours);
    if pages.docs {
        let gateway = edge.gateway.clone();
        let document = openapi::when_asked(move || document(gateway.table()));
        router = router.merge(Router::from(openapi::described()).with_state(document));
        places.extend(openapi::PLACES);
    }
    if pages.console {
        router = router.merge(console::routes());
        places.push(console::PLACE);
    }
    let router = router
        .layer(middleware::from_fn(private))
        .method_not_allowed_fallback(other_method)
        .route_layer(middleware::from_fn(front::label_route))
        .fallback(gateway::fallback)
        .with_state(edge);
    (places, router)
}

/// Our own routes as they describe themselves, and their places.
fn described(imports: &Imports) -> (Vec<&'static str>, OpenApiRouter<Edge>) {
    let nested = [
        ("/api/v1/auth", auth::routes().merge(email::routes())),
        ("/api/v1/user", user::routes().merge(api_keys::routes())),
        ("/api/v1/projects", projects::routes()),
        ("/api/v1/subscription", subscription::routes()),
        ("/api/v1/admin/audit", audit::routes()),
        ("/api/v1/admin/edges", edges::routes()),
        ("/api/v1/admin/subscriptions", subscriptions::routes()),
        ("/api/v1/admin/users", users::routes(imports)),
    ];
    let single = [
        ("/.well-known/jwks.json", routes!(jwks)),
        ("/health", routes!(health)),
        ("/webhooks/stripe", routes!(billing::stripe_event)),
        ("/ws", routes!(ws::upgrade)),
    ];
    let mut router = OpenApiRouter::default();
    let mut places = Vec::new();
    for (place, routes) in nested {
        router = router.nest(place, routes);
        places.push(place);
    }
    for (place, route) in single {
        router = router.routes(route);
        places.push(place);
    }
    (places, router)
}

/// That the service runs, and as which version.
#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(pattern = "^healthy$", example = "healthy")]
    status: &'static str,
    #[schema(pattern = "^auth-service$", example = "auth-service")]
    service: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    summary = "Ask whether the service runs",
    responses((status = 200, body = Health)),
    security(()),
)]
async fn health() -> Json<Health> {
    Json(Health { status: "healthy", service: "auth-service", version: chassis::VERSION })
}

/// Public keys (RFC 7517).
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described: the keys are written by what knows them")]
struct KeySet {
    #[schema(value_type = Vec<Object>, example = json!([]))]
    keys: (),
}

/// GET `/.well-known/jwks.json`: the public keys of tokens (RFC 7517). Under HS256 there are none.
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    operation_id = "jwks",
    summary = "Get the public keys of tokens",
    description = "There are none where tokens are signed with a shared secret.",
    responses((status = 200, body = KeySet)),
    security(()),
)]
async fn jwks(State(authenticator): State<Authenticator>) -> impl IntoResponse {
    let cached = HeaderValue::from_static("public, max-age=60");
    ([(CACHE_CONTROL, cached)], Json(authenticator.public_keys()))
}

/// What was done, in words.
#[derive(Serialize, ToSchema)]
struct Message {
    #[schema(example = "Signed out")]
    message: &'static str,
}

impl Message {
    fn says(message: &'static str) -> Json<Message> {
        Json(Message { message })
    }
}

/// axum adds `Allow` to this answer.
async fn other_method() -> Refusal {
    let failure = Failure::new(ErrorCode::NoSuchRoute).with_http(StatusCode::METHOD_NOT_ALLOWED);
    failure.saying("This method is not allowed here").into()
}

/// Answers of our own routes carry tokens or personal data; no cache may keep them.
async fn private(request: Request, next: middleware::Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A time as clients see it: RFC 3339, UTC, microseconds.
fn time(timestamp: Option<Timestamp>) -> Option<String> {
    let time: DateTime<Utc> = timestamp.and_then(contract::from_timestamp)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// The longest `User-Agent` that is passed on, in bytes.
const MAX_USER_AGENT: usize = 255;

/// Where a request comes from, for sessions and the audit log.
fn device(context: &RequestContext, headers: &HeaderMap) -> Device {
    let user_agent = headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut user_agent = user_agent.unwrap_or_default().into_owned();
    user_agent.truncate(user_agent.floor_char_boundary(MAX_USER_AGENT));
    Device {
        ip_address: context.client().address().to_owned(),
        user_agent,
        request_id: context.id().to_owned(),
    }
}
