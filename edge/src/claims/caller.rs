use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRef, FromRequestParts};
use contract::token::{Claims, TokenFault, Verifier};
use contract::{ANY_PERMISSION, ErrorCode, Failure, Outcome, Role};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::LiveClaims;
use crate::answer::Refusal;

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Verifies tokens against the key and the live claims.
#[derive(Clone)]
pub struct Authenticator {
    verifier: Arc<Verifier>,
    live: Arc<LiveClaims>,
}

impl Authenticator {
    pub fn new(verifier: Verifier, live: Arc<LiveClaims>) -> Self {
        Authenticator { verifier: Arc::new(verifier), live }
    }

    /// The table of live claims.
    pub fn live(&self) -> &Arc<LiveClaims> {
        &self.live
    }

    /// The caller that a token stands for at this moment.
    ///
    /// # Errors
    /// AUTH002, AUTH003.
    pub fn verify(&self, token: &str) -> Outcome<Caller> {
        let claims = self.verifier.verify(token, now()).map_err(|fault| match fault {
            TokenFault::Expired => Failure::new(ErrorCode::TokenExpired),
            TokenFault::Invalid => Failure::new(ErrorCode::TokenInvalid),
        })?;
        self.live.overrule(claims).map(Caller)
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// AUTH002, AUTH003.
    pub fn caller(&self, headers: &HeaderMap) -> Outcome<Caller> {
        self.verify(bearer(headers)?)
    }
}

/// The bearer token of the one `Authorization` header (RFC 6750 section 2.1). Two headers could be read in two
/// ways, so they are refused.
///
/// # Errors
/// AUTH003.
pub fn bearer(headers: &HeaderMap) -> Outcome<&str> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Failure::new(ErrorCode::TokenInvalid).saying("One bearer token is needed"));
    };
    let scheme_and_token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match scheme_and_token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Failure::new(ErrorCode::TokenInvalid).saying("One bearer token is needed")),
    }
}

/// The user behind a request, with the claims that count now.
#[derive(Clone, Debug)]
pub struct Caller(pub Claims);

impl Caller {
    pub fn user_id(&self) -> &str {
        &self.0.user_id
    }

    pub fn session_id(&self) -> &str {
        &self.0.sid
    }

    /// Whether the caller is an administrator.
    ///
    /// # Errors
    /// AUTH004.
    pub fn must_be_admin(&self) -> Outcome<()> {
        if self.0.role == Role::Admin { Ok(()) } else { Err(Failure::new(ErrorCode::Forbidden)) }
    }

    /// Whether the caller holds a permission, or the one that stands for all.
    pub fn holds(&self, permission: &str) -> bool {
        self.0.permissions.iter().any(|held| held == permission || held == ANY_PERMISSION)
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Ok(Authenticator::from_ref(state).caller(&parts.headers)?)
    }
}

/// An administrator; anyone else is refused with AUTH004.
pub struct Admin(pub Caller);

impl<S> FromRequestParts<S> for Admin
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.must_be_admin()?;
        Ok(Admin(caller))
    }
}
