//! What a token says of itself, which anybody can read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use contract::identity::UserInfo;
use contract::token::{Claims, ISSUER, LEEWAY_SECONDS, MAX_LIFETIME_SECONDS, TOKEN_TYPE};
use serde_json::{Value, json};

use crate::report::Check;

/// The parts of a token.
pub struct Decoded {
    header: Value,
    payload: Value,
    claims: Claims,
}

impl Decoded {
    /// # Errors
    /// The check that it does not pass.
    pub fn of(token: &str) -> Result<Decoded, Check> {
        let no_token = |why: &str| {
            Check::fault("kind", format!("is no token: {why} (AUTH003)"), "look whether it was copied whole")
        };
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(no_token("it does not have three parts"));
        };
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header: Value = read(header).ok_or_else(|| no_token("its header is not JSON"))?;
        let payload: Value = read(payload).ok_or_else(|| no_token("its claims are not JSON"))?;
        let claims = serde_json::from_value(payload.clone());
        let claims = claims
            .map_err(|fault| no_token(&format!("its claims are not those of an access token: {fault}")))?;
        Ok(Decoded { header, payload, claims })
    }

    /// For those who want all of it.
    pub fn described(&self) -> Value {
        json!({ "header": self.header, "claims": self.payload })
    }

    /// `aud`, whoever it is.
    pub fn audience(&self) -> &str {
        &self.claims.aud
    }

    /// A time at which it was good.
    pub fn signed_at(&self) -> i64 {
        self.claims.iat
    }

    /// `kid` of a key that follows from a secret, empty for the secret itself; None for a key pair.
    pub fn key_id(&self) -> Option<&str> {
        (self.header["alg"] == "HS256").then(|| self.header["kid"].as_str().unwrap_or_default())
    }

    /// All but the signature.
    pub fn checks(&self, audience: &str, now: DateTime<Utc>) -> Vec<Check> {
        let Claims { email, client_id, role, tier, permissions, scope, .. } = &self.claims;
        let scope =
            scope.clone().map(|scope| format!(", scope [{}]", String::from(scope))).unwrap_or_default();
        let permissions = permissions.join(",");
        let text = |name: &str| self.header[name].as_str().unwrap_or("none");
        vec![
            Check::ok("kind", format!("an access token, {} with key {}", text("alg"), text("kid"))),
            Check::ok(
                "claims",
                format!(
                    "{email} of {client_id}, role {role}, tier {tier}, permissions [{permissions}]{scope}"
                ),
            ),
            self.ours(audience),
            self.time(now.timestamp()),
        ]
    }

    /// Whether it is a token of this platform at all.
    fn ours(&self, audience: &str) -> Check {
        const SUBJECT: &str = "issuer";
        let Claims { iss, aud, sub, user_id, .. } = &self.claims;
        let refused =
            |what: String| Check::fault(SUBJECT, format!("{what} (AUTH003)"), "use a token of this platform");
        if self.header["typ"] != TOKEN_TYPE {
            return refused(format!(
                "typ is {}, not {TOKEN_TYPE}: it is no access token",
                self.header["typ"]
            ));
        }
        if iss != ISSUER {
            return refused(format!("iss is {iss}, not {ISSUER}"));
        }
        if !audience.is_empty() && aud != audience {
            return refused(format!("aud is {aud}, JWT_AUDIENCE here {audience}"));
        }
        if sub != user_id {
            return refused("sub and user_id are not the same".to_owned());
        }
        Check::ok(SUBJECT, format!("{iss}, for {aud}"))
    }

    fn time(&self, now: i64) -> Check {
        const SUBJECT: &str = "time";
        let Claims { iat, nbf, exp, .. } = self.claims;
        if exp.checked_sub(iat).is_none_or(|life| !(0..=MAX_LIFETIME_SECONDS).contains(&life)) {
            return Check::fault(
                SUBJECT,
                "it would live for longer than any token may (AUTH003)",
                "sign in again",
            );
        }
        if iat.max(nbf) > now + LEEWAY_SECONDS {
            let wait = iat.max(nbf).saturating_sub(now);
            let says = format!("not good for {wait} s more by the clock of this machine (AUTH003)");
            return Check::fault(SUBJECT, says, "set the clocks by NTP: `persona doctor` says which is off");
        }
        if exp <= now {
            let says = format!("expired {} ago (AUTH002)", spell(now.saturating_sub(exp)));
            return Check::fault(SUBJECT, says, "refresh it, or sign in again");
        }
        Check::ok(SUBJECT, format!("good for {} more", spell(exp.saturating_sub(now))))
    }

    /// What is otherwise by now than it says.
    pub fn changes(&self, live: &UserInfo) -> String {
        let Claims { email, role, tier, permissions, .. } = &self.claims;
        let pairs = [
            ("email", email.clone(), live.email.clone()),
            ("role", role.to_string(), live.role.clone()),
            ("tier", tier.to_string(), live.tier.clone()),
            ("permissions", permissions.join(","), live.permissions.join(",")),
        ];
        let changed = pairs.into_iter().filter(|(_, told, now)| told != now);
        changed
            .map(|(name, told, now)| format!("{name} [{told}] is now [{now}]"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn spell(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Claims that are good from a time on.
#[cfg(test)]
pub fn claims_at(now: i64) -> Claims {
    let text = str::to_owned;
    Claims {
        iss: text(ISSUER),
        aud: text("persona-platform"),
        sub: text("u1"),
        jti: text("j1"),
        iat: now,
        nbf: now,
        exp: now + 900,
        sid: text("s1"),
        ver: 1,
        user_id: text("u1"),
        email: text("a@example.com"),
        client_id: text("web"),
        role: contract::Role::User,
        tier: contract::Tier::Free,
        permissions: Vec::new(),
        scope: None,
        key_exp: None,
    }
}

#[cfg(test)]
mod tests {
    use contract::token::Signer;

    use crate::report::Status;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn decoded(change: impl FnOnce(&mut Claims)) -> Decoded {
        let mut claims = claims_at(NOW);
        change(&mut claims);
        let secret = "0123456789abcdef0123456789abcdef".to_owned().into();
        let token = Signer::hs256(&secret).sign(&claims).expect("a token");
        Decoded::of(&token).unwrap_or_else(|check| panic!("{}", check.says))
    }

    fn fault(decoded: &Decoded, now: i64) -> Option<String> {
        let now = DateTime::from_timestamp(now, 0).expect("a time");
        let checks = decoded.checks("persona-platform", now);
        checks.into_iter().find(|check| check.status == Status::Fault).map(|check| check.says)
    }

    #[test]
    fn each_reason_to_refuse_a_token_is_told_apart() {
        assert_eq!(fault(&decoded(|_| {}), NOW), None);
        let said = |change: fn(&mut Claims), now| fault(&decoded(change), now).expect("a fault");
        assert_eq!(said(|_| {}, NOW + 960), "expired 60 s ago (AUTH002)");
        assert!(said(|_| {}, NOW - 60).starts_with("not good for 60 s more"));
        assert!(said(|claims| claims.aud = "other".to_owned(), NOW).starts_with("aud is other"));
        assert!(said(|claims| claims.iss = "other".to_owned(), NOW).starts_with("iss is other"));
        let ends_of_time =
            |claims: &mut Claims| (claims.iat, claims.nbf, claims.exp) = (i64::MIN, i64::MIN, i64::MIN);
        assert!(said(ends_of_time, NOW).starts_with("expired "));
        assert!(
            said(|claims| (claims.iat, claims.exp) = (i64::MAX, i64::MAX), -NOW).starts_with("not good for ")
        );
        assert!(said(|claims| claims.exp = NOW + MAX_LIFETIME_SECONDS + 1, NOW).contains("longer than any"));
    }

    #[test]
    fn what_is_no_token_is_said_to_be_none() {
        for text in ["", "a.b", "a.b.c", "e30.e30.c", "e30.bm8.c"] {
            assert!(Decoded::of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_changed_since_is_named() {
        let live = UserInfo {
            email: "a@example.com".to_owned(),
            role: "admin".to_owned(),
            tier: "free".to_owned(),
            ..UserInfo::default()
        };
        assert_eq!(decoded(|_| {}).changes(&live), "role [user] is now [admin]");
    }
}
