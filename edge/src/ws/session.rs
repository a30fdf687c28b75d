//! What each message of a client leads to: message in, actions out, without any I/O.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::{ErrorCode, Failure, Outcome};
use serde_json::{Value, json};

use super::admission::Wanted;
use super::envelope::{self, AuthRefresh, Envelope, StartWorkflow, kind};
use crate::claims::{Authenticator, Caller, Freshness, now};

/// Close codes of the contract.
pub mod close {
    macro_rules! codes {
        ($($name:ident = $code:literal;)*) => {
            $(pub const $name: u16 = $code;)*
            #[cfg(test)]
            pub const ALL: &[u16] = &[$($name),*];
        };
    }

    codes! {
        SHUTTING_DOWN = 1001;
        PROTOCOL_ERROR = 1002;
        BINARY = 1003;
        BAD_UTF8 = 1007;
        POLICY = 1008;
        TOO_BIG = 1009;
        INTERNAL = 1011;
        CORE_MANAGER_RESTARTED = 1012;
        TRY_LATER = 1013;
        TOKEN_EXPIRED = 4401;
        SESSION_ENDED = 4403;
        HEARTBEAT_LOST = 4408;
        TOO_MANY = 4429;
    }
}

/// What the I/O loop is to do.
#[derive(Debug)]
pub enum Action {
    /// Send this text to the client.
    Reply(String),
    /// The socket has another token; send this text to the client.
    Refreshed(String),
    /// Pass this text on to core-manager.
    Forward { id: String, text: String },
    /// Check with the services whether a message may pass.
    Check(Passing),
    /// Close the socket.
    Close(u16, &'static str),
}

/// A message that is to be checked before it passes.
#[derive(Debug)]
pub struct Passing {
    pub id: String,
    /// The workflow that it starts, which counts against the quota.
    pub start: Option<Wanted>,
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
}

impl Session {
    pub fn new(authenticator: Authenticator, caller: Caller) -> Self {
        Session { authenticator, told: caller.clone(), token: caller }
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

    /// How long the token is still good.
    pub fn expires_in(&self) -> Duration {
        let end = Duration::from_secs(u64::try_from(self.token.claims().exp).unwrap_or(0));
        end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
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
        Ok(Standing::Changed(envelope::message(kind::AUTH_CHANGED, None, Some(data))))
    }

    /// A text of the client has arrived.
    pub fn on_text(&mut self, text: &str) -> Action {
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
        let expired = self.token.claims().exp <= now();
        let passing = || Passing { id: envelope.id.clone(), start: None, text: text.to_owned() };
        match envelope.kind.as_str() {
            kind::PING => Ok(Action::Reply(envelope::message(kind::PONG, Some(&envelope.id), None))),
            kind::AUTH_REFRESH => self.refresh(envelope),
            _ if expired => Err(Failure::new(ErrorCode::TokenExpired)),
            kind::START_WORKFLOW => {
                let start: StartWorkflow = envelope.data()?;
                start.check()?;
                let data: Value = envelope.data()?;
                let wanted = Wanted::new(&envelope.id, start.project_id.0, &data);
                Ok(Action::Check(Passing { start: Some(wanted), ..passing() }))
            }
            // Whether the caller's rights still stand is not known here: identity-svc is asked.
            _ if self.authenticator.live().freshness() != Freshness::Fresh => Ok(Action::Check(passing())),
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
        Ok(Action::Refreshed(envelope::message(kind::AUTH_REFRESHED, Some(&envelope.id), Some(data))))
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
    use crate::ws::described::must_be_described;

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
            scope: None,
            key_exp: None,
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
        Session::new(authenticator, Caller::new(claims("u")))
    }

    fn reply(session: &mut Session, text: &str) -> serde_json::Value {
        match session.on_text(text) {
            Action::Reply(text) | Action::Refreshed(text) => serde_json::from_str(&text).expect("JSON"),
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

    fn start(data: &str) -> String {
        format!(r#"{{"type":"start_workflow","id":"w","data":{data}}}"#)
    }

    #[test]
    fn a_start_is_checked_before_it_passes_unchanged() {
        let text = start(&format!(
            r#"{{"workflow_type":"t","agent_instance_id":"a","project_id":"{PROJECT}","parameters":{{}}}}"#
        ));
        let Action::Check(passing) = session().on_text(&text) else { panic!("not checked") };
        let wanted = passing.start.expect("a start");
        assert_eq!((wanted.id.as_str(), wanted.project_id.as_str()), ("w", PROJECT));
        assert_eq!(passing.text, text);
    }

    #[test]
    fn a_start_without_a_field_names_it() {
        let whole = json!({
            "workflow_type": "t", "agent_instance_id": "a", "project_id": PROJECT, "parameters": {},
        });
        for (field, wrong) in [
            ("workflow_type", json!("")),
            ("agent_instance_id", json!("")),
            ("agent_instance_id", json!(7)),
            ("project_id", json!("x")),
            ("parameters", json!(null)),
            ("parameters", json!([])),
        ] {
            let mut data = whole.clone();
            data[field] = wrong;
            let error = reply(&mut session(), &start(&data.to_string()));
            assert!(error["error"]["details"]["fields"][field].is_string(), "{field}: {error}");
            data.as_object_mut().expect("an object").remove(field);
            let error = reply(&mut session(), &start(&data.to_string()));
            assert_eq!(error["error"]["details"]["fields"][field], "is required");
        }
        for (field, other) in [("project_id", "Project_ID"), ("workflow_type", "workflow_tYpe")] {
            let mut data = whole.clone();
            data[other] = json!("x");
            let error = reply(&mut session(), &start(&data.to_string())).to_string();
            assert!(error.contains("REQ001") && error.contains(field), "{error}");
        }
        let list = format!(r#"["t","a","{PROJECT}",{{}}]"#);
        assert_eq!(reply(&mut session(), &start(&list))["error"]["code"], "REQ001");
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
        let before = session.expires_in();
        assert_eq!(reply(&mut session, &refresh(token("other")))["error"]["code"], "AUTH003");
        assert!(session.expires_in() <= before);
        let refreshed = reply(&mut session, &refresh(token("u")));
        assert_eq!(refreshed["type"], "auth.refreshed");
        must_be_described(&refreshed.to_string());
        assert!(session.expires_in() > before + Duration::from_secs(90));
    }

    #[test]
    fn after_its_expiry_a_token_is_good_for_nothing_but_being_replaced() {
        let mut session = session();
        session.token = Caller::new(Claims { exp: now() - 1, ..claims("u") });
        let error = reply(&mut session, r#"{"type":"anything","id":"7"}"#);
        assert_eq!(error["error"]["code"], "AUTH002");
        let token = Signer::hs256(&secret()).sign(&claims("u")).expect("signed");
        let refresh = json!({"type": "auth.refresh", "id": "r", "data": {"access_token": token}}).to_string();
        assert_eq!(reply(&mut session, &refresh)["type"], "auth.refreshed");
        assert!(matches!(session.on_text(r#"{"type":"anything","id":"7"}"#), Action::Forward { .. }));
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
        must_be_described(&text);
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
        let action = session.on_text(r#"{"type":"anything","id":"7"}"#);
        assert!(matches!(action, Action::Check(Passing { start: None, .. })), "{action:?}");
    }

    #[test]
    fn an_ended_session_closes_the_socket_at_the_next_message() {
        let mut session = session();
        let ended = SessionEnded { session_id: "s-u".to_owned(), user_id: "u".to_owned() };
        let change = Some(Change::SessionEnded(ended));
        session.authenticator.live().apply(&AuthEvent { change, ..AuthEvent::default() });
        let closed = session.on_text(r#"{"type":"ping","id":"7"}"#);
        assert!(matches!(closed, Action::Close(close::SESSION_ENDED, _)));
    }
}
