//! Which route a request took, for logs and metrics. The meters of a route are looked up once and kept: to find them by
//! their labels on every request would cost more than to count with them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::RequestContext;

/// The template of a route, with its meters. Each template is kept once and for ever; there are as many as routes.
#[derive(Clone, Copy, Debug)]
pub struct RouteLabel(&'static Meters);

#[derive(Debug)]
struct Meters {
    template: &'static str,
    seconds: Histogram,
    /// By method and class of status.
    requests: [[OnceLock<IntCounter>; STATUSES.len()]; METHODS.len()],
}

/// Methods are free text; a label must not be. The last stands for all others.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "other"];
/// Classes of status. The first stands for what is none.
const STATUSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl RouteLabel {
    /// The label of a template.
    pub fn intern(template: &str) -> Self {
        static KNOWN: LazyLock<Mutex<HashMap<&'static str, RouteLabel>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(template) {
            return *label;
        }
        let template: &'static str = Box::leak(template.to_owned().into_boxed_str());
        let seconds = SECONDS.with_label_values(&[template]);
        let label =
            RouteLabel(Box::leak(Box::new(Meters { template, seconds, requests: Default::default() })));
        known.insert(template, label);
        label
    }

    /// The label of what no route took.
    pub fn none() -> Self {
        static NONE: LazyLock<RouteLabel> = LazyLock::new(|| RouteLabel::intern("none"));
        *NONE
    }

    pub fn template(self) -> &'static str {
        self.0.template
    }

    /// Counts an answered request.
    pub fn count(self, method: &Method, status: StatusCode, seconds: f64) {
        let method = place_of(method);
        let class = usize::from(status.as_u16() / 100);
        let class = if class < STATUSES.len() { class } else { 0 };
        let labels = || REQUESTS.with_label_values(&[self.0.template, METHODS[method], STATUSES[class]]);
        self.0.requests[method][class].get_or_init(labels).inc();
        self.0.seconds.observe(seconds);
    }
}

/// A method as a label.
pub fn method_label(method: &Method) -> &'static str {
    METHODS[place_of(method)]
}

fn place_of(method: &Method) -> usize {
    let known = METHODS.iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1)
}

/// Notes the template of the route that axum matched.
pub async fn label_route(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if let (Ok(context), Some(matched)) = (RequestContext::of(extensions), extensions.get::<MatchedPath>()) {
        context.took(RouteLabel::intern(matched.as_str()));
    }
    next.run(request).await
}

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_requests_total",
        "Requests by route template, method and class of status",
        &["route", "method", "status"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    prometheus::register_histogram_vec!(
        "edge_request_seconds",
        "Time from a request's headers to those of its answer, by route template",
        &["route"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
