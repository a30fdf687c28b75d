//! What is measured of the calls of the internal plane, at both ends. Health checks are left out: they are many, and
//! say nothing.

use std::sync::LazyLock;
use std::time::Instant;

use http::HeaderMap;
use prometheus::{HistogramVec, IntCounterVec};
use tonic::Code;

use super::server::HEALTH_PREFIX;

/// The label of calls to methods that do not exist: whatever a caller makes up must not become a label.
const UNKNOWN: &str = "unknown";
/// The label of calls that reached no replica.
const UNREACHED: &str = "unreached";

/// Counts a call that was served. `seconds` end with the headers of the answer.
pub fn served(path: &str, headers: &HeaderMap, since: Instant) {
    let code = code(headers);
    let method = if code == Code::Unimplemented { UNKNOWN } else { path.trim_start_matches('/') };
    SERVED.with_label_values(&[method, name(code)]).inc();
    SERVED_SECONDS.with_label_values(&[method]).observe(since.elapsed().as_secs_f64());
}

/// Counts a call that this process has made, or could not make.
pub fn called(path: &str, answer: Option<&HeaderMap>, since: Instant) {
    if path.starts_with(HEALTH_PREFIX) {
        return;
    }
    let method = path.trim_start_matches('/');
    let outcome = answer.map_or(UNREACHED, |headers| name(code(headers)));
    CALLED.with_label_values(&[method, outcome]).inc();
    CALLED_SECONDS.with_label_values(&[method]).observe(since.elapsed().as_secs_f64());
}

/// The code of an answer. A failure stands in the headers; without one, what follows is a message.
fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

static SERVED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "grpc_server_calls_total",
        "Calls that were served, by method and code",
        &["method", "code"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static SERVED_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    prometheus::register_histogram_vec!(
        "grpc_server_call_seconds",
        "Time from a call to the headers of its answer, by method",
        &["method"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static CALLED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "grpc_client_calls_total",
        "Calls that were made of other processes, by method and code; unreached when no replica was",
        &["method", "code"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

static CALLED_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    prometheus::register_histogram_vec!(
        "grpc_client_call_seconds",
        "Time until the headers of an answer of another process, by method",
        &["method"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_by_what_came_of_it_and_a_health_check_does_not() {
        called("/real/Called", None, Instant::now());
        called("/real/Called", Some(&HeaderMap::new()), Instant::now());
        called("/grpc.health.v1.Health/Check", None, Instant::now());
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()).expect("text");
        for code in ["ok", "unreached"] {
            assert!(text.contains(&format!(r#"{{code="{code}",method="real/Called"}} 1"#)), "{text}");
        }
        assert!(!text.contains("Health/Check"), "{text}");
    }

    #[test]
    fn a_method_that_does_not_exist_makes_no_label() {
        let unimplemented = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("12"),
        )]);
        served("/made/Up", &unimplemented, Instant::now());
        served("/real/One", &HeaderMap::new(), Instant::now());
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()).expect("text");
        assert!(!text.contains("made/Up"), "{text}");
        assert!(text.contains(r#"code="unimplemented",method="unknown""#), "{text}");
        assert!(text.contains(r#"code="ok",method="real/One""#), "{text}");
    }
}
