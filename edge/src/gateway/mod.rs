//! Requests on their way to core-manager: route table → who → quota → scrub and add headers → stream.

mod answers;
mod bodies;
mod breaker;
mod headers;
mod pool;
pub mod quota;
mod signature;
mod stragglers;
mod table;
mod turns;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use contract::{ErrorCode, Failure, Outcome};
use http::{Method, StatusCode};

use crate::answer::{self, Refusal};
use crate::claims::{Authenticator, Caller, Intent, Rights};
use crate::front::RequestContext;
use crate::services::Services;
use crate::settings::GatewaySettings;

pub use headers::{from_upstream, identity_headers, to_upstream};
pub use signature::Signer;
pub use table::{Match, Route, RouteTable, Who};
pub use upstream::{CORE_MANAGER, Upstream, UpstreamUrl, away as upstream_away};

use answers::Answering;
use quota::Counted;
use upstream::SendFault;

/// In the extensions of an answer: core-manager may have done what it was asked for.
#[derive(Clone, Copy)]
pub struct OutcomeUnknown;

/// The gateway to core-manager.
pub struct Gateway {
    table: RouteTable,
    upstream: Upstream,
    authenticator: Authenticator,
    services: Services,
    signer: Option<Signer>,
    pass_authorization: bool,
    reservation_life: Duration,
}

impl Gateway {
    pub fn new(settings: GatewaySettings, authenticator: Authenticator, services: Services) -> Self {
        Gateway {
            table: RouteTable::new(settings.extra_routes),
            upstream: Upstream::new(settings.core_manager, settings.timeout, settings.concurrency),
            authenticator,
            services,
            signer: settings.signer,
            pass_authorization: settings.pass_authorization,
            reservation_life: settings.reservation_life,
        }
    }

    /// The routes to core-manager.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Who may use a route to core-manager; none when there is no such route.
    pub fn who(&self, method: &Method, path: &str) -> Option<Who> {
        match self.table.find(method, path) {
            Match::Route(route) => Some(route.who()),
            Match::OtherMethods(_) | Match::None => None,
        }
    }

    /// How long core-manager may take to begin its answer.
    pub fn timeout(&self) -> Duration {
        self.upstream.timeout()
    }

    /// After how long a reserved place that nobody renews is free again.
    pub fn reservation_life(&self) -> Duration {
        self.reservation_life
    }

    /// What proves to core-manager that a request is ours, where it is asked for.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// The connection to core-manager.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    async fn forward(
        self: &Arc<Self>,
        route: &Route,
        mut request: Request,
        context: &RequestContext,
    ) -> Result<Response, SendFault> {
        let intent = intent(route, request.method());
        let seen = self.authenticator.seen();
        let caller = self.authenticator.caller(request.headers(), context, intent).await?;
        authorise(route, &caller)?;
        let life = self.reservation_life;
        let what = (request.method(), request.uri().path());
        let counted = quota::check(route, what, &caller, &self.services, context, life).await?;
        headers::to_upstream(&mut request, &caller, context, self.pass_authorization)?;
        if let Some(signer) = &self.signer {
            signer.sign(&mut request)?;
        }
        let rights = Rights::new(self.authenticator.clone(), caller, seen);
        let mut response = match counted {
            None => self.upstream.send(request, rights).await?,
            Some(counted) => {
                // On its own, so that what becomes of it is known also when the client goes away.
                let sending = tokio::spawn(count(self.clone(), request, rights, counted));
                sending.await.map_err(Failure::internal)??
            }
        };
        if leaves_open(response.status()) {
            response.extensions_mut().insert(OutcomeUnknown);
        }
        headers::from_upstream(response.headers_mut());
        Ok(response.map(Body::new))
    }
}

/// Sends a request that changes a count, and counts what core-manager answered.
async fn count(
    gateway: Arc<Gateway>,
    request: Request,
    rights: Rights,
    counted: Counted,
) -> Result<http::Response<Answering>, SendFault> {
    let sending = gateway.upstream.send(request, rights);
    let answer = match &counted {
        Counted::Makes(reservation) => reservation.during(sending).await,
        Counted::Removes(_) => sending.await,
    };
    let has_succeeded = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
    let is_open = match &answer {
        Ok(answer) => leaves_open(answer.status()),
        Err(fault) => fault.may_have_arrived,
    };
    match counted {
        Counted::Makes(reservation) if has_succeeded => reservation.commit().await,
        // core-manager may have made it before it broke off: the reservation expires, and what exists is reported.
        Counted::Makes(_) if is_open => {}
        Counted::Makes(reservation) => reservation.release().await,
        Counted::Removes(removal) if has_succeeded => removal.record().await,
        Counted::Removes(_) => {}
    }
    answer
}

/// Whether core-manager may have done what it was asked for all the same: it has failed, or one behind it has, and not
/// said that it does not do such things, or not now.
fn leaves_open(status: StatusCode) -> bool {
    status.is_server_error()
        && !matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::SERVICE_UNAVAILABLE)
}

/// What administrators do counts as acting, also when they only look.
fn intent(route: &Route, method: &Method) -> Intent {
    match route.who() {
        Who::Admin => Intent::Act,
        Who::User => Intent::of(method),
    }
}

fn authorise(route: &Route, caller: &Caller) -> Outcome<()> {
    match route.who() {
        Who::Admin => caller.must_be_admin(),
        Who::User => Ok(()),
    }
}

/// Serves what no route of the edge itself has taken: the gateway's routes, and REQ002 for the rest.
pub async fn serve(gateway: &Arc<Gateway>, request: Request, context: &RequestContext) -> Response {
    let route = match gateway.table.find(request.method(), request.uri().path()) {
        Match::Route(route) => route,
        Match::OtherMethods(methods) => return answer::method_not_allowed(&methods),
        Match::None => return Refusal::from(Failure::new(ErrorCode::NoSuchRoute)).into_response(),
    };
    context.took(route.label());
    match gateway.forward(route, request, context).await {
        Ok(response) => response,
        Err(SendFault { failure, may_have_arrived }) => {
            let mut response = Refusal::from(failure).into_response();
            if may_have_arrived {
                response.extensions_mut().insert(OutcomeUnknown);
            }
            response
        }
    }
}

/// As [`serve`], for the router.
pub async fn fallback(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    match request.extensions_mut().remove::<RequestContext>() {
        Some(context) => serve(&gateway, request, &context).await,
        None => Refusal::from(Failure::internal("a request without its context")).into_response(),
    }
}

/// Whether a request with this method creates something when it succeeds.
fn creates(method: &Method) -> bool {
    method == Method::POST
}
