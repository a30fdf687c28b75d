//! The error table of the platform. Every code stands here once, with all that follows from it.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;
use tonic::Code;

/// What a WebSocket client is told when the error ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsClose {
    /// The socket stays open; the error answers one message.
    StaysOpen,
    /// The socket is closed with this code (RFC 6455 section 7.4).
    Closes(u16),
}

struct Entry {
    code: ErrorCode,
    name: &'static str,
    http: StatusCode,
    grpc: Code,
    ws: WsClose,
    message: &'static str,
}

const fn entry(
    code: ErrorCode,
    name: &'static str,
    http: StatusCode,
    grpc: Code,
    ws: WsClose,
    message: &'static str,
) -> Entry {
    Entry { code, name, http, grpc, ws, message }
}

/// A code of the error table; clients see its [`name`](ErrorCode::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum ErrorCode {
    InvalidCredentials,
    TokenExpired,
    TokenInvalid,
    Forbidden,
    TooManyAttempts,
    UserNotFound,
    UserExists,
    PasswordRejected,
    LastAdministrator,
    ProjectNotFound,
    SubscriptionNotFound,
    QuotaExceeded,
    BillingNotConfigured,
    Unavailable,
    Timeout,
    Overloaded,
    InvalidRequest,
    NoSuchRoute,
    Unacceptable,
    RateLimited,
    Internal,
}

use ErrorCode as E;
use StatusCode as S;
use WsClose::{Closes, StaysOpen};

/// In the order of the enum, which a test checks.
static TABLE: [Entry; 21] = [
    entry(
        E::InvalidCredentials,
        "AUTH001",
        S::UNAUTHORIZED,
        Code::Unauthenticated,
        StaysOpen,
        "Invalid credentials",
    ),
    entry(E::TokenExpired, "AUTH002", S::UNAUTHORIZED, Code::Unauthenticated, Closes(4401), "Token expired"),
    entry(E::TokenInvalid, "AUTH003", S::UNAUTHORIZED, Code::Unauthenticated, Closes(4403), "Token invalid"),
    entry(
        E::Forbidden,
        "AUTH004",
        S::FORBIDDEN,
        Code::PermissionDenied,
        StaysOpen,
        "Insufficient permissions",
    ),
    entry(
        E::TooManyAttempts,
        "AUTH005",
        S::TOO_MANY_REQUESTS,
        Code::ResourceExhausted,
        StaysOpen,
        "Too many attempts",
    ),
    entry(E::UserNotFound, "USER001", S::NOT_FOUND, Code::NotFound, StaysOpen, "User not found"),
    entry(E::UserExists, "USER002", S::CONFLICT, Code::AlreadyExists, StaysOpen, "User already exists"),
    entry(
        E::PasswordRejected,
        "USER003",
        S::BAD_REQUEST,
        Code::InvalidArgument,
        StaysOpen,
        "Invalid password format",
    ),
    entry(
        E::LastAdministrator,
        "USER004",
        S::CONFLICT,
        Code::FailedPrecondition,
        StaysOpen,
        "The last administrator cannot be removed, disabled or demoted",
    ),
    entry(E::ProjectNotFound, "PROJ001", S::NOT_FOUND, Code::NotFound, StaysOpen, "Project not found"),
    entry(
        E::SubscriptionNotFound,
        "SUB001",
        S::NOT_FOUND,
        Code::NotFound,
        StaysOpen,
        "Subscription not found",
    ),
    entry(E::QuotaExceeded, "SUB002", S::FORBIDDEN, Code::ResourceExhausted, StaysOpen, "Quota exceeded"),
    entry(
        E::BillingNotConfigured,
        "SUB003",
        S::SERVICE_UNAVAILABLE,
        Code::FailedPrecondition,
        StaysOpen,
        "Billing is not configured",
    ),
    entry(
        E::Unavailable,
        "GW001",
        S::BAD_GATEWAY,
        Code::Unavailable,
        StaysOpen,
        "Upstream service unavailable",
    ),
    entry(E::Timeout, "GW002", S::GATEWAY_TIMEOUT, Code::DeadlineExceeded, StaysOpen, "Gateway timeout"),
    entry(
        E::Overloaded,
        "GW003",
        S::SERVICE_UNAVAILABLE,
        Code::ResourceExhausted,
        Closes(1013),
        "Overloaded",
    ),
    entry(E::InvalidRequest, "REQ001", S::BAD_REQUEST, Code::InvalidArgument, StaysOpen, "Invalid request"),
    entry(E::NoSuchRoute, "REQ002", S::NOT_FOUND, Code::NotFound, StaysOpen, "No such route"),
    entry(
        E::Unacceptable,
        "REQ003",
        S::PAYLOAD_TOO_LARGE,
        Code::OutOfRange,
        Closes(1009),
        "Too large, or an unsupported media type",
    ),
    entry(
        E::RateLimited,
        "RATE001",
        S::TOO_MANY_REQUESTS,
        Code::ResourceExhausted,
        StaysOpen,
        "Rate limit of the tier reached",
    ),
    entry(E::Internal, "SRV001", S::INTERNAL_SERVER_ERROR, Code::Internal, Closes(1011), "Internal error"),
];

impl ErrorCode {
    fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// Every code there is, in the order of the table.
    pub fn all() -> impl Iterator<Item = ErrorCode> {
        TABLE.iter().map(|entry| entry.code)
    }

    /// The code as clients see it, such as `AUTH001`.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The usual HTTP status. GW001 is 503 for a service of our own, REQ002 may be 405, REQ003 415 or 431.
    pub fn http(self) -> StatusCode {
        self.entry().http
    }

    /// The gRPC status.
    pub fn grpc(self) -> Code {
        self.entry().grpc
    }

    /// What the error does to a WebSocket.
    pub fn ws(self) -> WsClose {
        self.entry().ws
    }

    /// The message that is sent when the rule which found the error says nothing more precise.
    pub fn message(self) -> &'static str {
        self.entry().message
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ErrorCode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        ErrorCode::all().find(|code| code.name() == name).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_stands_at_its_own_place_and_is_found_by_its_name() {
        let mut names = HashSet::new();
        for (place, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.code as usize, place, "{}", entry.name);
            assert_eq!(entry.name.parse(), Ok(entry.code));
            assert!(names.insert(entry.name), "{} stands twice", entry.name);
            assert!(entry.http.is_client_error() || entry.http.is_server_error());
        }
    }
}
