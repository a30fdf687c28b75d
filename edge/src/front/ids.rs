//! The ids that follow a request through all processes: `X-Request-ID` and the W3C `traceparent`.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use super::REQUEST_ID;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest request id that is taken over from a client.
const MAX_ID_LENGTH: usize = 128;

/// The ids of one request, as headers carry them.
#[derive(Debug)]
pub struct RequestIds {
    request_id: HeaderValue,
    traceparent: HeaderValue,
}

impl RequestIds {
    /// Takes over what the client sent where it is well-formed, and makes the rest. `traced` is the `traceparent` of
    /// the request's own span, when traces are exported.
    pub fn of(headers: &HeaderMap, traced: Option<String>) -> Self {
        let sent = headers.get(REQUEST_ID).filter(|id| id.to_str().is_ok_and(is_id));
        let trace = || headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(trace_of);
        RequestIds {
            request_id: sent.cloned().unwrap_or_else(new_id),
            traceparent: traced.map_or_else(|| child_of(trace()), |traced| header(&traced)),
        }
    }

    pub fn request_id(&self) -> &str {
        // What is kept was checked or made here.
        self.request_id.to_str().unwrap_or_default()
    }

    pub fn request_id_header(&self) -> HeaderValue {
        self.request_id.clone()
    }

    pub fn traceparent(&self) -> HeaderValue {
        self.traceparent.clone()
    }
}

/// Ordered by time among processes. The generator's own shared counter, which would order those of one millisecond,
/// is behind a lock.
fn new_id() -> HeaderValue {
    let id = Uuid::new_v7(Timestamp::now(NoContext));
    header(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

fn header(checked: &str) -> HeaderValue {
    HeaderValue::from_str(checked).unwrap_or_else(|_| unreachable!("only visible ASCII"))
}

fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=MAX_ID_LENGTH).contains(&id.len()) && id.bytes().all(plain)
}

/// The trace id and the flags of a `traceparent` (W3C Trace Context section 3.2).
fn trace_of(value: &str) -> Option<(&str, &str)> {
    let lower_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    let well_formed = lengths && [version, trace, parent, flags].into_iter().all(lower_hex);
    let known = version != "ff" && (version != "00" || parts.next().is_none());
    (well_formed && known && nonzero(trace) && nonzero(parent)).then_some((trace, flags))
}

fn child_of(trace: Option<(&str, &str)>) -> HeaderValue {
    let (mut own, mut span) = (Uuid::encode_buffer(), Uuid::encode_buffer());
    let (trace, flags) = match trace {
        Some(trace) => trace,
        None => (&*Uuid::new_v4().simple().encode_lower(&mut own), "00"),
    };
    // Its version digit is among them: they are never all zero.
    let span = &Uuid::new_v4().simple().encode_lower(&mut span)[..16];
    let mut child = *b"00-                                -                -  ";
    child[3..35].copy_from_slice(trace.as_bytes());
    child[36..52].copy_from_slice(span.as_bytes());
    child[53..].copy_from_slice(flags.as_bytes());
    HeaderValue::from_bytes(&child).unwrap_or_else(|_| unreachable!("only visible ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &'static str, value: &str) -> RequestIds {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        RequestIds::of(&headers, None)
    }

    #[test]
    fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(ids("x-request-id", "abc-1").request_id(), "abc-1");
        for bad in ["", "a b", "a\"b", &"a".repeat(129)] {
            let made = ids("x-request-id", bad);
            assert!(Uuid::parse_str(made.request_id()).is_ok(), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_goes_on_under_a_new_span() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let child = ids("traceparent", parent).traceparent;
        let child = child.to_str().expect("text");
        assert!(
            child.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && child.ends_with("-01"),
            "{child}"
        );
        assert_ne!(child, parent);
        for bad in ["", "00-0-0-0", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert!(trace_of(bad).is_none(), "{bad:?}");
        }
        let made = child_of(None);
        assert!(made.to_str().ok().and_then(trace_of).is_some(), "{made:?}");
    }
}
