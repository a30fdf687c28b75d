//! What a call hands down to the calls that it makes in turn: the id of the request, the trace, and the time that is
//! left.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;

use super::REQUEST_ID;
use crate::traces;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    static CALL: Call;
}

/// The call that a task serves.
#[derive(Clone)]
pub struct Call {
    request_id: Option<HeaderValue>,
    deadline: Option<Instant>,
    span: Span,
}

impl Call {
    /// The call that came with these headers; `span` shows it in traces.
    pub fn new(headers: &HeaderMap, span: Span) -> Self {
        let left = headers.get(TIMEOUT).and_then(|value| left(value.to_str().ok()?));
        Call {
            request_id: headers.get(REQUEST_ID).cloned(),
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            span,
        }
    }

    /// Serves it.
    pub async fn serve<T>(self, work: impl Future<Output = T>) -> T {
        CALL.scope(self, work).await
    }
}

/// Adds to the headers of a call what the call that is being served hands down, if one is.
pub fn hand_down(headers: &mut HeaderMap) {
    // Outside of a call there is nothing to hand down.
    let _ = CALL.try_with(|call| {
        if let Some(request_id) = &call.request_id {
            headers.entry(REQUEST_ID).or_insert_with(|| request_id.clone());
        }
        let traceparent = traces::traceparent(&call.span).and_then(|text| HeaderValue::try_from(text).ok());
        if let Some(traceparent) = traceparent {
            headers.entry(TRACEPARENT).or_insert(traceparent);
        }
        let Some(deadline) = call.deadline else { return };
        let own = headers.get(TIMEOUT).and_then(|value| left(value.to_str().ok()?));
        let left = deadline.saturating_duration_since(Instant::now());
        let least = own.map_or(left, |own| own.min(left));
        if let Ok(value) = HeaderValue::try_from(format!("{}m", least.as_millis().min(MOST))) {
            headers.insert(TIMEOUT, value);
        }
    });
}

/// The protocol has eight digits for a number.
const MOST: u128 = 99_999_999;

/// Reads a `grpc-timeout`: a number and its unit.
fn left(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timeout: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(timeout))])
    }

    #[test]
    fn a_timeout_is_read_in_every_unit_and_nothing_else_is() {
        assert_eq!(left("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(left("90S"), Some(Duration::from_secs(90)));
        assert_eq!(left("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(left("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in ["", "S", "1", "-1S", "1.5S", "123456789m", "1s", "1é"] {
            assert_eq!(left(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_has_no_more_time_than_the_one_that_makes_it() {
        let least = async |own: &'static str| {
            let call = Call::new(&headers("5S"), Span::none());
            let mut down = headers(own);
            call.serve(async { hand_down(&mut down) }).await;
            left(down[TIMEOUT].to_str().expect("text")).expect("a timeout")
        };
        assert!(least("60S").await <= Duration::from_secs(5));
        assert_eq!(least("1S").await, Duration::from_secs(1));
    }

    #[tokio::test]
    async fn the_request_id_is_handed_down_and_nothing_is_outside_of_a_call() {
        let id = HeaderValue::from_static("r-1");
        let call =
            Call::new(&HeaderMap::from_iter([(HeaderName::from_static(REQUEST_ID), id)]), Span::none());
        let mut down = HeaderMap::new();
        hand_down(&mut down);
        assert!(down.is_empty());
        call.serve(async { hand_down(&mut down) }).await;
        assert_eq!(down[REQUEST_ID], "r-1");
    }
}
