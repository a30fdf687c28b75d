use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::extract::{FromRef, FromRequestParts};
use chassis::grpc::InternalChannel;
use contract::identity::live_claims_service_client::LiveClaimsServiceClient;
use contract::identity::{CheckSessionRequest, CheckSessionResponse};
use contract::token::{Claims, TokenFault, Verifier};
use contract::{ANY_PERMISSION, ErrorCode, Failure, Outcome, Role, api_key};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prometheus::IntCounterVec;

use super::api_keys::ApiKeys;
use super::sights::Sights;
use super::{Freshness, LiveClaims, Rights, recent};
use crate::answer::Refusal;
use crate::front::RequestContext;
use crate::places::Slot;
use crate::rate::RateLimiter;
use crate::services::{IDENTITY, present};

/// How long a request waits for identity-svc to confirm its caller.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Seconds for which identity-svc is not asked after it did not answer, so that reads do not wait for nothing.
const SPARED_SECONDS: i64 = 1;

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// What a caller is about to do: what may go on when nobody can say whether the caller's rights still stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    Read,
    /// A write, or anything that administrators do.
    Act,
}

impl Intent {
    /// The intent of an ordinary user's request.
    pub fn of(method: &Method) -> Self {
        if method.is_safe() { Intent::Read } else { Intent::Act }
    }
}

/// Verifies tokens against the key and the live claims. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<Known>);

struct Known {
    keys: ArcSwap<Keys>,
    live: Arc<LiveClaims>,
    sights: Sights,
    rate: RateLimiter,
    api_keys: ApiKeys,
    identity: LiveClaimsServiceClient<InternalChannel>,
    /// The age of the live claims until which identity-svc is not asked again, since it did not answer.
    spared_until: AtomicI64,
}

/// The keys that tokens are verified with, and a number that no other keys have.
struct Keys {
    verifier: Verifier,
    number: u64,
}

impl Keys {
    fn new(verifier: Verifier) -> Self {
        static KNOWN: AtomicU64 = AtomicU64::new(0);
        Keys { verifier, number: KNOWN.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Authenticator {
    /// Nothing is verified before keys are known; see [`Authenticator::accept`].
    pub fn new(live: Arc<LiveClaims>, sights: Sights, rate: RateLimiter, identity: InternalChannel) -> Self {
        let keys = ArcSwap::from_pointee(Keys::new(Verifier::new(Vec::new(), "")));
        let api_keys = ApiKeys::new(identity.clone());
        let identity = LiveClaimsServiceClient::new(identity);
        let spared_until = AtomicI64::new(0);
        Authenticator(Arc::new(Known { keys, live, sights, rate, api_keys, identity, spared_until }))
    }

    /// The table of live claims.
    pub fn live(&self) -> &LiveClaims {
        &self.0.live
    }

    /// From now on tokens are verified with these keys.
    pub fn accept(&self, verifier: Verifier) {
        self.0.keys.store(Arc::new(Keys::new(verifier)));
    }

    /// The public keys of tokens, as a JSON Web Key Set.
    pub fn public_keys(&self) -> serde_json::Value {
        self.0.keys.load().verifier.public_keys()
    }

    /// Drops what no token can need any more.
    pub fn forget(&self, now: i64) {
        self.0.live.forget(self.0.live.age());
        self.0.sights.forget(now);
        self.0.rate.forget();
    }

    /// The caller that a token stands for, as far as this edge knows.
    ///
    /// # Errors
    /// AUTH002, AUTH003; GW001 while no key is known.
    pub fn verify(&self, token: &str) -> Outcome<Caller> {
        let keys = self.0.keys.load();
        if keys.verifier.is_empty() {
            return Err(identity_away());
        }
        let now = now();
        if let Some(caller) = recent::find(token, keys.number, now, &self.0.live)? {
            return Ok(caller);
        }
        let claims = keys.verifier.verify(token, now).map_err(|fault| match fault {
            TokenFault::Expired => Failure::new(ErrorCode::TokenExpired),
            TokenFault::Invalid => Failure::new(ErrorCode::TokenInvalid),
        })?;
        let caller = recent::keep(token, claims, keys.number, &self.0.live)?;
        // A key's token has no parent whose answer might be lost.
        if !caller.is_key() {
            self.0.sights.note(caller.claims());
        }
        Ok(caller)
    }

    /// The caller that a token or an API key stands for, as far as this edge knows. A key that it does not know costs a
    /// question to identity-svc, and another one each time that the answer's token has expired.
    ///
    /// # Errors
    /// AUTH002, AUTH003; GW001 while no key of tokens is known, or identity-svc is away; GW003.
    pub async fn identify(&self, credential: &str, context: &RequestContext) -> Outcome<Caller> {
        let caller = if api_key::is_meant(credential) {
            Box::pin(self.holder_of_key(credential, context)).await
        } else {
            self.verify(credential)
        };
        if let Ok(caller) = &caller {
            context.is_of(caller.slot());
        }
        caller
    }

    async fn holder_of_key(&self, key: &str, context: &RequestContext) -> Outcome<Caller> {
        let known = self.0.api_keys.known(key);
        if let Some(token) = &known
            && let Ok(caller) = self.verify(token)
        {
            return Ok(caller);
        }
        self.verify(&self.0.api_keys.redeem(key, known.as_ref(), context.client()).await?)
    }

    /// The caller of a request, with rights that stand at this moment. The request counts against the caller's rate.
    ///
    /// # Errors
    /// AUTH002, AUTH003; RATE001; GW001 when that cannot be known.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        context: &RequestContext,
        intent: Intent,
    ) -> Outcome<Caller> {
        let caller = self.identify(bearer(headers)?, context).await?;
        self.count(&caller, context).await?;
        self.confirm(caller, intent).await
    }

    /// As [`Authenticator::caller`], for what a person does for the own account.
    ///
    /// # Errors
    /// As there; AUTH004 for an API key.
    async fn person(&self, headers: &HeaderMap, context: &RequestContext, intent: Intent) -> Outcome<Caller> {
        let caller = self.identify(bearer(headers)?, context).await?;
        self.0.rate.count_for_account(&caller, context).await?;
        let caller = self.confirm(caller, intent).await?;
        caller.must_be_person()?;
        Ok(caller)
    }

    /// Counts a request against the caller's rate, once however often it is asked.
    ///
    /// # Errors
    /// RATE001.
    pub async fn count(&self, caller: &Caller, context: &RequestContext) -> Outcome<()> {
        self.0.rate.count(caller, context).await
    }

    /// As [`Authenticator::caller`], without counting: for what must be possible at any rate.
    ///
    /// # Errors
    /// AUTH002, AUTH003; GW001 when it cannot be known.
    pub async fn uncounted_caller(
        &self,
        headers: &HeaderMap,
        context: &RequestContext,
        intent: Intent,
    ) -> Outcome<Caller> {
        self.confirm(self.identify(bearer(headers)?, context).await?, intent).await
    }

    /// The caller with rights that stand at this moment: at once as long as the table of live claims is fresh, and
    /// as identity-svc says when it is not. When identity-svc does not answer either, reads go on for a while.
    ///
    /// # Errors
    /// AUTH003; GW001 when it cannot be known.
    pub async fn confirm(&self, caller: Caller, intent: Intent) -> Outcome<Caller> {
        let freshness = self.0.live.freshness();
        if freshness == Freshness::Fresh {
            return Ok(caller);
        }
        let failure = match self.ask(&caller).await {
            Ok(current) => {
                CONFIRMED.with_label_values(&["asked"]).inc();
                return caller.with(current);
            }
            Err(failure) if failure.code() == ErrorCode::TokenInvalid => return Err(failure),
            Err(failure) => failure,
        };
        if freshness == Freshness::Stale && intent == Intent::Read {
            CONFIRMED.with_label_values(&["read_on"]).inc();
            return Ok(caller);
        }
        CONFIRMED.with_label_values(&["refused"]).inc();
        Err(failure)
    }

    async fn ask(&self, caller: &Caller) -> Outcome<CheckSessionResponse> {
        if self.0.live.age() < self.0.spared_until.load(Ordering::Relaxed) {
            return Err(identity_away());
        }
        let mut request = tonic::Request::new(CheckSessionRequest {
            user_id: caller.user_id().to_owned(),
            session_id: caller.session_id().to_owned(),
        });
        request.set_timeout(ASK_TIMEOUT);
        let answer = self.0.identity.clone().check_session(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let failure = Failure::from_status(status, IDENTITY);
            if failure.code() == ErrorCode::TokenInvalid {
                return failure;
            }
            self.0.spared_until.store(self.0.live.age() + SPARED_SECONDS, Ordering::Relaxed);
            identity_away().because(failure)
        })
    }
}

pub(super) fn identity_away() -> Failure {
    Failure::new(ErrorCode::Unavailable)
        .with_http(StatusCode::SERVICE_UNAVAILABLE)
        .with_fact("service", IDENTITY)
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

/// The user behind a request, with the claims that count now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Subject>);

#[derive(Debug)]
struct Subject {
    claims: Claims,
    slot: Slot,
    headers: OnceLock<IdentityHeaders>,
}

/// What core-manager is told of a caller.
pub type IdentityHeaders = [(HeaderName, HeaderValue); 6];

impl Caller {
    pub fn new(claims: Claims) -> Self {
        let slot = Slot::of(claims.user_id.as_str());
        Caller(Arc::new(Subject { claims, slot, headers: OnceLock::new() }))
    }

    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The headers that say who the caller is, made once.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn headers(
        &self,
        make: impl FnOnce(&Claims) -> Outcome<IdentityHeaders>,
    ) -> Outcome<&IdentityHeaders> {
        match self.0.headers.get() {
            Some(headers) => Ok(headers),
            None => {
                let made = make(&self.0.claims)?;
                Ok(self.0.headers.get_or_init(|| made))
            }
        }
    }

    /// The caller with the live claims laid over these.
    ///
    /// # Errors
    /// AUTH003 when the session has ended or the account is disabled.
    pub fn under(&self, live: &LiveClaims) -> Outcome<Caller> {
        Ok(live.overrule(self.claims())?.map_or_else(|| self.clone(), Caller::new))
    }

    /// The caller with the claims that identity-svc has just confirmed.
    fn with(&self, current: CheckSessionResponse) -> Outcome<Self> {
        let account = present(current.account)?;
        let claims = Claims {
            role: account.role.parse().map_err(Failure::internal)?,
            tier: account.tier.parse().map_err(Failure::internal)?,
            ver: account.version,
            email: account.email,
            permissions: account.permissions,
            ..self.claims().clone()
        };
        Ok(Caller::new(claims.narrowed()))
    }

    pub fn user_id(&self) -> &str {
        &self.0.claims.user_id
    }

    /// Where it is counted what the user holds.
    pub fn slot(&self) -> Slot {
        self.0.slot
    }

    pub fn session_id(&self) -> &str {
        &self.0.claims.sid
    }

    /// Whether an API key acts for the user, and not the user.
    pub fn is_key(&self) -> bool {
        self.0.claims.scope.is_some()
    }

    /// Whether the caller is an administrator.
    ///
    /// # Errors
    /// AUTH004.
    pub fn must_be_admin(&self) -> Outcome<()> {
        if self.0.claims.role == Role::Admin { Ok(()) } else { Err(Failure::new(ErrorCode::Forbidden)) }
    }

    /// Whether the user is there, and not a key.
    ///
    /// # Errors
    /// AUTH004.
    pub fn must_be_person(&self) -> Outcome<()> {
        if self.is_key() {
            return Err(Failure::new(ErrorCode::Forbidden).saying("API keys may not do this"));
        }
        Ok(())
    }

    /// Whether the caller is not an API key of this account: one that was stolen from an administrator must not make its
    /// own account more than it is.
    ///
    /// # Errors
    /// AUTH004.
    pub fn must_not_be_key_of(&self, user_id: &str) -> Outcome<()> {
        if self.user_id() == user_id { self.must_be_person() } else { Ok(()) }
    }

    /// Whether the caller holds a permission, or the one that stands for all.
    pub fn holds(&self, permission: &str) -> bool {
        self.0.claims.permissions.iter().any(|held| held == permission || held == ANY_PERMISSION)
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let context = RequestContext::of(&parts.extensions)?;
        let authenticator = Authenticator::from_ref(state);
        let caller = authenticator.caller(&parts.headers, context, Intent::of(&parts.method)).await?;
        // For whoever reads the body, see `Authenticator::confirm_again`.
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// A user who signed in. An API key is refused with AUTH004: who may act for an account is not for keys to change, or
/// one that was stolen could make itself others.
pub struct Person(pub Caller);

impl<S> FromRequestParts<S> for Person
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let context = RequestContext::of(&parts.extensions)?;
        let authenticator = Authenticator::from_ref(state);
        let caller = authenticator.person(&parts.headers, context, Intent::of(&parts.method)).await?;
        parts.extensions.insert(caller.clone());
        Ok(Person(caller))
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
        let context = RequestContext::of(&parts.extensions)?;
        let authenticator = Authenticator::from_ref(state);
        let seen = authenticator.seen();
        let caller = authenticator.caller(&parts.headers, context, Intent::Act).await?;
        caller.must_be_admin()?;
        parts.extensions.insert(caller.clone());
        // For what takes longer than a body of JSON, or the answer to one.
        parts.extensions.insert(Rights::new(authenticator, caller.clone(), seen));
        Ok(Admin(caller))
    }
}

static CONFIRMED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "edge_callers_confirmed_total",
        "Requests whose caller was confirmed while live claims were stale: asked, read_on, refused",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
