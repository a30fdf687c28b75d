//! What each message of a client leads to: message in, actions out, without any I/O.

use std::time::{Duration, Instant};

use contract::{ErrorCode, Failure, Outcome};
use serde_json::json;

use super::envelope::{self, AuthRefresh, Envelope, StartWorkflow};
use crate::claims::{Authenticator, Caller, Freshness, now};
use crate::settings::SocketSettings;

/// Close codes of the contract.
pub mod close {
    pub const SHUTTING_DOWN: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const BINARY: u16 = 1003;
    pub const BAD_UTF8: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    pub const CORE_MANAGER_RESTARTED: u16 = 1012;
    pub const TRY_LATER: u16 = 1013;
    pub const TOKEN_EXPIRED: u16 = 4401;
    pub const SESSION_ENDED: u16 = 4403;
    pub const HEARTBEAT_LOST: u16 = 4408;
    pub const TOO_MANY: u16 = 4429;
}

/// What the I/O loop is to do.
#[derive(Debug)]
pub enum Action {
    /// Send this text to the client.
    Reply(String),
    /// Pass this text on to core-manager.
    Forward { id: String, text: String },
    /// Check with the services whether a message may pass, and come back with [`Session::checked`].
    Check(Passing),
    /// Close the socket.
    Close(u16, &'static str),
}

/// A message that is to be checked before it passes.
#[derive(Debug)]
pub struct Passing {
    pub id: String,
    /// The project of a workflow that is to be started, which counts against the quota.
    pub project_id: Option<String>,
    pub text: String,
}

/// What a socket finds when it looks whether its caller's rights still stand.
#[derive(Debug)]
pub enum Standing {
    Unchanged,
    /// The client is to be told with this text, and what goes to core-manager is to say it.
    Changed(String),
}

/// One client's socket.
pub struct Session {
    authenticator: Authenticator,
    /// As the token says; live claims are laid over it anew each time.
    token: Caller,
    /// The claims that the client was last told.
    told: Caller,
    budget: Budget,
}

impl Session {
    pub fn new(authenticator: Authenticator, caller: Caller, settings: &SocketSettings) -> Self {
        let budget = Budget::new(settings.messages_per_second);
        Session { authenticator, told: caller.clone(), token: caller, budget }
    }

    pub fn user_id(&self) -> &str {
        self.token.user_id()
    }

    /// The caller with the claims that count now.
    ///
    /// # Errors
    /// AUTH003 when the session has ended or the account is disabled.
    pub fn caller(&self) -> Outcome<Caller> {
        self.token.under(self.authenticator.live())
    }

    /// The second in which the token expires.
    pub fn expires_at(&self) -> i64 {
        self.token.claims().exp
    }

    /// Something about the user has changed, or may have.
    ///
    /// # Errors
    /// AUTH003 when the session has ended or the account is disabled.
    pub fn look(&mut self) -> Outcome<Standing> {
        let caller = self.caller()?;
        let (now, before) = (caller.claims(), self.told.claims());
        if (now.role, now.tier, &now.permissions, &now.email)
            == (before.role, before.tier, &before.permissions, &before.email)
        {
            return Ok(Standing::Unchanged);
        }
        let data = json!({
            "role": now.role,
            "tier": now.tier,
            "permissions": now.permissions,
            "email": now.email,
        });
        self.told = caller;
        Ok(Standing::Changed(envelope::message("auth.changed", None, Some(data))))
    }

    /// A text of the client has arrived.
    pub fn on_text(&mut self, text: &str, now: Instant) -> Action {
        if !self.budget.take(now) {
            return Action::Close(close::POLICY, "too many messages");
        }
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(failure) => return Action::Reply(envelope::error(None, &failure)),
        };
        if self.caller().is_err() {
            return Action::Close(close::SESSION_ENDED, "session ended");
        }
        match self.handle(&envelope, text) {
            Ok(action) => action,
            Err(failure) => Action::Reply(envelope::error(Some(&envelope.id), &failure)),
        }
    }

    fn handle(&mut self, envelope: &Envelope, text: &str) -> Outcome<Action> {
        let expired = self.expires_at() <= now();
        match envelope.kind.as_str() {
            "ping" => Ok(Action::Reply(envelope::message("pong", Some(&envelope.id), None))),
            "auth.refresh" => self.refresh(envelope),
            _ if expired => Err(Failure::new(ErrorCode::TokenExpired)),
            "start_workflow" => {
                let start: StartWorkflow = envelope.data()?;
                if start.workflow_type.is_empty() {
                    return Err(Failure::field("workflow_type", "must not be empty"));
                }
                let (id, project_id) = (envelope.id.clone(), Some(start.project_id.0));
                Ok(Action::Check(Passing { id, project_id, text: text.to_owned() }))
            }
            // Whether the caller's rights still stand is not known here: identity-svc is asked.
            _ if self.authenticator.live().freshness() != Freshness::Fresh => {
                let id = envelope.id.clone();
                Ok(Action::Check(Passing { id, project_id: None, text: text.to_owned() }))
            }
            _ => Ok(Action::Forward { id: envelope.id.clone(), text: text.to_owned() }),
        }
    }

    /// A new token keeps the socket open; it must be the same user's.
    fn refresh(&mut self, envelope: &Envelope) -> Outcome<Action> {
        let AuthRefresh { access_token } = envelope.data()?;
        let caller = self.authenticator.verify(&access_token)?;
        if caller.user_id() != self.token.user_id() {
            return Err(Failure::new(ErrorCode::TokenInvalid).saying("The token is another user's"));
        }
        let data = json!({ "expires_at": caller.claims().exp });
        self.token = caller;
        Ok(Action::Reply(envelope::message("auth.refreshed", Some(&envelope.id), Some(data))))
    }

    /// The services have spoken on a message.
    pub fn checked(&self, passing: Passing, verdict: Outcome<()>) -> Action {
        match verdict {
            Ok(()) => Action::Forward { id: passing.id, text: passing.text },
            Err(failure) => Action::Reply(envelope::error(Some(&passing.id), &failure)),
        }
    }
}

/// A token bucket: so many messages a second, bursts of twice as many.
struct Budget {
    per_second: f64,
    left: f64,
    at: Option<Instant>,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Budget { per_second, left: per_second * 2.0, at: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.left = (self.left + passed.as_secs_f64() * self.per_second).min(self.per_second * 2.0);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chassis::grpc::{Settings as Plane, channel};
    use contract::identity::auth_event::Change;
    use contract::identity::{AccountChanged, AuthEvent, Position, SessionEnded};
    use contract::token::{Claims, ISSUER, Signer, Verifier};
    use contract::{Role, Tier};

    use super::*;
    use crate::claims::{LiveClaims, Sights, Staleness};
    use crate::rate::{Limits, RateLimiter};

    const PROJECT: &str = "0199c0de-0000-7000-8000-000000000001";

    fn claims(user: &str) -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: "persona-platform".to_owned(),
            sub: user.to_owned(),
            jti: "j".to_owned(),
            iat: now(),
            nbf: now(),
            exp: now() + 600,
            sid: format!("s-{user}"),
            ver: 1,
            user_id: user.to_owned(),
            email: "u@example.com".to_owned(),
            client_id: "web".to_owned(),
            role: Role::User,
            tier: Tier::Free,
            permissions: vec![],
        }
    }

    fn unlimited() -> RateLimiter {
        RateLimiter::new(Limits::off(), None)
    }

    fn secret() -> secrecy::SecretString {
        "0123456789abcdef0123456789abcdef".into()
    }

    fn session() -> Session {
        let verifier = Verifier::hs256(&secret(), "persona-platform");
        let live = LiveClaims::new(Staleness { limit: Duration::from_secs(10), grace: Duration::ZERO });
        live.heard_at(Position::default());
        let identity = channel(&[], &Plane::plain(secret()));
        let authenticator = Authenticator::new(Arc::new(live), Sights::new().0, unlimited(), identity);
        authenticator.accept(verifier);
        let settings = SocketSettings {
            heartbeat: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            max_message_bytes: 65536,
            messages_per_second: 2,
            per_user: 2,
            expiry_grace: Duration::from_secs(5),
            reservation_life: Duration::from_secs(30),
        };
        Session::new(authenticator, Caller::new(claims("u")), &settings)
    }

    fn reply(session: &mut Session, text: &str) -> serde_json::Value {
        match session.on_text(text, Instant::now()) {
            Action::Reply(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_ping_is_answered_with_its_id() {
        let pong = reply(&mut session(), r#"{"type":"ping","id":"7"}"#);
        assert_eq!((pong["type"].as_str(), pong["correlation_id"].as_str()), (Some("pong"), Some("7")));
    }

    #[test]
    fn what_is_no_envelope_is_answered_and_the_socket_stays_open() {
        let error = reply(&mut session(), "hello");
        assert_eq!(
            (error["type"].as_str(), error["error"]["code"].as_str()),
            (Some("error"), Some("REQ001"))
        );
    }

    #[test]
    fn a_start_is_checked_and_then_passed_on_unchanged() {
        let text = format!(
            r#"{{"type":"start_workflow","id":"w","data":{{"workflow_type":"t","agent_instance_id":"a","project_id":"{PROJECT}","parameters":{{}}}}}}"#
        );
        let mut session = session();
        let Action::Check(start) = session.on_text(&text, Instant::now()) else { panic!("not checked") };
        assert_eq!(start.project_id.as_deref(), Some(PROJECT));
        let Action::Forward { text: passed, .. } = session.checked(start, Ok(())) else {
            panic!("not passed on")
        };
        assert_eq!(passed, text);
    }

    #[test]
    fn a_start_without_a_field_names_it() {
        let error =
            reply(&mut session(), r#"{"type":"start_workflow","id":"w","data":{"workflow_type":"t"}}"#);
        assert_eq!(error["error"]["code"], "REQ001");
        assert!(error["error"]["details"]["fields"]["agent_instance_id"].is_string(), "{error}");
    }

    #[test]
    fn too_many_messages_close_the_socket() {
        let mut session = session();
        let at = Instant::now();
        for _ in 0..4 {
            assert!(matches!(session.on_text(r#"{"type":"ping","id":"7"}"#, at), Action::Reply(_)));
        }
        let closed = session.on_text(r#"{"type":"ping","id":"7"}"#, at);
        assert!(matches!(closed, Action::Close(close::POLICY, _)));
    }

    #[test]
    fn a_new_token_of_the_same_user_moves_the_expiry_and_another_users_does_not() {
        let mut session = session();
        let token = |user: &str| {
            let mut claims = claims(user);
            claims.exp += 100;
            Signer::hs256(&secret()).sign(&claims).expect("signed")
        };
        let refresh =
            |token| json!({"type": "auth.refresh", "id": "r", "data": {"access_token": token}}).to_string();
        let before = session.expires_at();
        assert_eq!(reply(&mut session, &refresh(token("other")))["error"]["code"], "AUTH003");
        assert_eq!(session.expires_at(), before);
        assert_eq!(reply(&mut session, &refresh(token("u")))["type"], "auth.refreshed");
        assert_eq!(session.expires_at(), before + 100);
    }

    #[test]
    fn after_its_expiry_a_token_is_good_for_nothing_but_being_replaced() {
        let mut session = session();
        session.token = Caller::new(Claims { exp: now() - 1, ..claims("u") });
        let error = reply(&mut session, r#"{"type":"anything","id":"7"}"#);
        assert_eq!(error["error"]["code"], "AUTH002");
        let token = Signer::hs256(&secret()).sign(&claims("u")).expect("signed");
        let refresh = json!({"type": "auth.refresh", "id": "r", "data": {"access_token": token}}).to_string();
        session.budget.left = 4.0;
        assert_eq!(reply(&mut session, &refresh)["type"], "auth.refreshed");
        assert!(matches!(
            session.on_text(r#"{"type":"anything","id":"7"}"#, Instant::now()),
            Action::Forward { .. }
        ));
    }

    #[test]
    fn a_change_of_role_or_tier_is_told_once() {
        let mut session = session();
        assert!(matches!(session.look(), Ok(Standing::Unchanged)));
        let changed = AccountChanged {
            user_id: "u".to_owned(),
            version: 2,
            email: "u@example.com".to_owned(),
            role: "user".to_owned(),
            tier: "premium".to_owned(),
            permissions: vec!["personas.create".to_owned()],
        };
        let change = Some(Change::AccountChanged(changed));
        session.authenticator.live().apply(&AuthEvent { change, ..AuthEvent::default() });
        let Ok(Standing::Changed(text)) = session.look() else { panic!("not told") };
        let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&told["type"], &told["data"]["tier"]), (&json!("auth.changed"), &json!("premium")));
        assert_eq!(told["data"]["permissions"], json!(["personas.create"]));
        assert!(matches!(session.look(), Ok(Standing::Unchanged)));
    }

    #[test]
    fn what_passes_is_confirmed_while_live_claims_are_stale() {
        let mut session = session();
        let live = LiveClaims::new(Staleness { limit: Duration::ZERO, grace: Duration::ZERO });
        let identity = channel(&[], &Plane::plain(secret()));
        let verifier = Verifier::hs256(&secret(), "persona-platform");
        session.authenticator = Authenticator::new(Arc::new(live), Sights::new().0, unlimited(), identity);
        session.authenticator.accept(verifier);
        let action = session.on_text(r#"{"type":"anything","id":"7"}"#, Instant::now());
        assert!(matches!(action, Action::Check(Passing { project_id: None, .. })), "{action:?}");
    }

    #[test]
    fn an_ended_session_closes_the_socket_at_the_next_message() {
        let mut session = session();
        let ended = SessionEnded { session_id: "s-u".to_owned(), user_id: "u".to_owned() };
        let change = Some(Change::SessionEnded(ended));
        session.authenticator.live().apply(&AuthEvent { change, ..AuthEvent::default() });
        let closed = session.on_text(r#"{"type":"ping","id":"7"}"#, Instant::now());
        assert!(matches!(closed, Action::Close(close::SESSION_ENDED, _)));
    }
}
