//! A refusal on its way from the rule that found it to the one place that renders it, across gRPC if need be.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{ERROR_DOMAIN, ErrorCode};

/// The result of a rule.
pub type Outcome<T> = Result<T, Failure>;

/// An error of the table with what the client may know of it, and its cause for the log alone.
pub struct Failure(Box<Parts>);

struct Parts {
    code: ErrorCode,
    http: Option<StatusCode>,
    message: Cow<'static, str>,
    fields: BTreeMap<String, String>,
    facts: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with the table's own message.
    pub fn new(code: ErrorCode) -> Self {
        Failure(Box::new(Parts {
            code,
            http: None,
            message: Cow::Borrowed(code.message()),
            fields: BTreeMap::new(),
            facts: BTreeMap::new(),
            retry_after: None,
            cause: None,
        }))
    }

    /// SRV001; the cause goes to the log and never to the client.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Failure::new(ErrorCode::Internal).because(cause)
    }

    /// REQ001 for one field, which stands in the details.
    pub fn field(name: impl Into<String>, fault: impl fmt::Display) -> Self {
        Failure::new(ErrorCode::InvalidRequest).with_field(name, fault)
    }

    /// Replaces the message; it must name nothing internal.
    pub fn saying(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Names a field of the request and what is wrong with it.
    pub fn with_field(mut self, name: impl Into<String>, fault: impl fmt::Display) -> Self {
        self.add_field(name, fault);
        self
    }

    /// As [`with_field`](Failure::with_field), where faults are collected before they are many or none.
    pub fn add_field(&mut self, name: impl Into<String>, fault: impl fmt::Display) {
        self.0.fields.insert(name.into(), fault.to_string());
    }

    /// Adds a fact to the details, such as the limit that was reached.
    pub fn with_fact(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.facts.insert(name.into(), value.to_string());
        self
    }

    /// Sets another HTTP status than the usual one of the code.
    pub fn with_http(mut self, status: StatusCode) -> Self {
        self.0.http = Some(status);
        self
    }

    /// Tells the client when to try again.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Keeps the cause for the log.
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The status of the HTTP answer.
    pub fn http(&self) -> StatusCode {
        self.0.http.unwrap_or(self.0.code.http())
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Faults by the name of the request's field.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.0.fields
    }

    /// Facts that the client may know, as text.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.0.facts
    }

    /// How long the client should wait, if it was said.
    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The cause, for the log.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.0.cause.as_deref()
    }

    /// The failure as it crosses gRPC, its cause left behind.
    pub fn to_status(&self) -> Status {
        let mut details = ErrorDetails::new();
        let facts: HashMap<String, String> = self.0.facts.clone().into_iter().collect();
        details.set_error_info(self.0.code.name(), ERROR_DOMAIN, facts);
        for (field, fault) in &self.0.fields {
            details.add_bad_request_violation(field, fault);
        }
        if let Some(wait) = self.0.retry_after {
            details.set_retry_info(Some(wait));
        }
        Status::with_error_details(self.0.code.grpc(), self.message(), details)
    }

    /// The failure that a service of ours answered with. A known reason wins; without one the service is away,
    /// too slow, or wrong. `service` stands in the details where it is away.
    pub fn from_status(status: Status, service: &'static str) -> Self {
        let details = status.get_error_details();
        let known = details
            .error_info()
            .filter(|info| info.domain == ERROR_DOMAIN)
            .and_then(|info| Some((info.reason.parse::<ErrorCode>().ok()?, &info.metadata)));
        let Some((code, facts)) = known else {
            return Failure::from_bare_status(status, service);
        };
        let mut failure = Failure::new(code).saying(status.message().to_owned());
        failure.0.facts = facts.clone().into_iter().collect();
        if code == ErrorCode::Unavailable {
            // What a service of ours lacks is ours to provide.
            failure.0.http = Some(StatusCode::SERVICE_UNAVAILABLE);
        }
        for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
            failure = failure.with_field(&violation.field, &violation.description);
        }
        failure.0.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        failure
    }

    fn from_bare_status(status: Status, service: &'static str) -> Self {
        let failure = match status.code() {
            // How tonic reports a deadline that passed on its side.
            Code::Cancelled if status.message() == TimeoutExpired(()).to_string() => {
                Failure::new(ErrorCode::Timeout).with_fact("service", service)
            }
            // A connection that was cut in mid-call is reported as Unknown or Cancelled by the client half; what a service
            // answered has no source.
            Code::Unavailable | Code::Cancelled => away(service),
            Code::Unknown if status.source().is_some() => away(service),
            Code::DeadlineExceeded => Failure::new(ErrorCode::Timeout).with_fact("service", service),
            _ => Failure::new(ErrorCode::Internal),
        };
        failure.because(status)
    }
}

fn away(service: &'static str) -> Failure {
    let failure = Failure::new(ErrorCode::Unavailable).with_http(StatusCode::SERVICE_UNAVAILABLE);
    failure.with_fact("service", service)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.0.cause.as_ref().map_or(Ok(()), |cause| write!(f, " (because: {cause:?})"))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_crosses_grpc_unchanged() {
        for code in ErrorCode::all() {
            let sent = Failure::new(code)
                .saying("a reason")
                .with_field("email", "is missing")
                .with_fact("limit", 3)
                .retry_after(Duration::from_secs(7));
            let status = sent.to_status();
            assert_eq!(status.code(), code.grpc());
            let got = Failure::from_status(status, "identity-svc");
            assert_eq!((got.code(), got.message()), (code, "a reason"));
            assert_eq!((got.fields(), got.facts()), (sent.fields(), sent.facts()));
            assert_eq!(got.wait(), sent.wait());
        }
    }

    #[test]
    fn a_cause_never_crosses_grpc() {
        let status = Failure::internal("SELECT password_hash FROM users").to_status();
        assert!(!format!("{status:?}").contains("password_hash"));
    }

    #[test]
    fn a_status_without_a_reason_tells_away_from_slow_from_wrong() {
        let code = |status| Failure::from_status(status, "identity-svc").code();
        assert_eq!(code(Status::unavailable("tcp connect error")), ErrorCode::Unavailable);
        assert_eq!(code(Status::deadline_exceeded("")), ErrorCode::Timeout);
        assert_eq!(code(Status::unknown("?")), ErrorCode::Internal);
        let cut = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(code(Status::from_error(cut.into())), ErrorCode::Unavailable);
        assert_eq!(code(Status::not_found("from someone else")), ErrorCode::Internal);
    }
}
