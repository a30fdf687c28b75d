//! Traces: what each process did for a request, under the one id that travels as W3C `traceparent`, sent to a
//! collector when one is configured. Without one, the spans below are disabled and cost a branch.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, Uri};
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::settings::Env;

/// The target of every span that is for traces alone. It never shows in the logs.
pub const TARGET: &str = "otel";

/// Where sqlx says which statement ran and for how long, never with which values.
const STATEMENTS: &str = "sqlx::query";

/// How long a collector may take to accept a batch, and the end of the process wait for the last one.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Clone, Debug)]
pub struct Settings {
    collector: Option<Collector>,
}

#[derive(Clone, Debug)]
struct Collector(String);

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "must be a URL such as http://collector:4317")?;
        if uri.scheme_str() == Some("http") && uri.host().is_some() {
            Ok(Collector(text.to_owned()))
        } else {
            Err("must be an http:// URL: put a collector beside the process that speaks TLS to the outside")
        }
    }
}

impl Settings {
    pub fn read(env: &mut Env) -> Self {
        Settings {
            collector: env.optional(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "Collector that gets the traces by OTLP over gRPC, such as `http://collector:4317`; \
                 `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_BSP_*` are obeyed as OpenTelemetry \
                 defines them",
            ),
        }
    }
}

/// The exporter of a process. It has a bounded queue: what a slow collector does not take is dropped and logged.
#[derive(Default)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts exporting where a collector is configured. Called inside the runtime.
    pub(crate) fn start(settings: &Settings, service: &'static str) -> Result<Self, TracesError> {
        let Some(Collector(endpoint)) = &settings.collector else {
            return Ok(Traces(None));
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_LIMIT)
            .build()?;
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", crate::VERSION))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Traces(Some(provider)))
    }

    /// What turns spans into what is exported.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.0.as_ref()?.tracer("persona-platform");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false);
        Some(layer.with_threads(false).with_filter(filter_fn(is_exported)))
    }

    /// Sends what is still queued, for at most two seconds.
    pub(crate) async fn finish(self) {
        let Some(provider) = self.0 else { return };
        // It waits for a thread that needs this runtime to send.
        let shutdown = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_LIMIT));
        if let Ok(Err(error)) = shutdown.await {
            tracing::warn!(%error, "the last traces were lost");
        }
    }
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
pub struct TracesError(#[from] opentelemetry_otlp::ExporterBuildError);

fn is_exported(metadata: &Metadata<'_>) -> bool {
    let wanted =
        if metadata.is_span() { metadata.target() == TARGET } else { metadata.target() == STATEMENTS };
    wanted && *metadata.level() <= LevelFilter::DEBUG
}

/// Makes `span` a child of the span that the caller's `traceparent` names.
pub fn continue_from(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "a span has no parent");
        }
    }
}

/// The `traceparent` for what `span` causes; none when traces are not exported.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let known = span.span_context();
    let flags = known.trace_flags().to_u8();
    known.is_valid().then(|| format!("00-{}-{}-{flags:02x}", known.trace_id(), known.span_id()))
}

/// Gives `span` the name that is known only now.
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

/// The headers of a request, of HTTP or gRPC.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
