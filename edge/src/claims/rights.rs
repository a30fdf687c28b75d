//! What a request was begun with must still stand when the last of its body comes, and its session while it is answered:
//! both may take much longer than it takes to sign out, or to be banned.

use contract::{ErrorCode, Failure, Outcome};

use super::{Authenticator, Caller, Freshness, Intent, now};

/// Seconds after its token has expired for which what was begun with it may go on. For somewhat longer are the ends of
/// its session still told. That an API key was ended is told always, and its tokens are not its holder's to renew: what it has
/// begun goes on until the key expires, if it is looked at once in a token's life.
const AFTER_EXPIRY: i64 = 30;

/// How much live claims had seen at some time.
#[derive(Clone, Copy)]
pub struct Seen {
    changes: u64,
    epochs: u64,
}

/// The rights that a request was begun with. Cheap to clone.
#[derive(Clone)]
pub struct Rights {
    authenticator: Authenticator,
    caller: Caller,
    /// What live claims had seen when they stood last.
    seen: Seen,
    /// Until when they stand if nobody says otherwise.
    until: i64,
}

impl Rights {
    /// Those of a caller who was looked up when live claims had `seen` so much, or more.
    pub fn new(authenticator: Authenticator, caller: Caller, seen: Seen) -> Self {
        let until = caller.claims().exp.saturating_add(AFTER_EXPIRY);
        Rights { authenticator, caller, seen, until }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether nothing was taken from the caller since. As long as nobody's claims change it costs one atomic load and a
    /// look at the clock.
    ///
    /// # Errors
    /// AUTH002, AUTH003, AUTH004.
    pub fn must_stand(&mut self) -> Outcome<()> {
        self.look(|now, then| now.must_hold_all_of(then))
    }

    /// As [`must_stand`](Rights::must_stand), for work on what has come whole: the token may expire meanwhile.
    ///
    /// # Errors
    /// AUTH003, AUTH004.
    pub fn must_not_be_taken(&mut self) -> Outcome<()> {
        self.look_at_changes(|now, then| now.must_hold_all_of(then))
    }

    /// Whether the session goes on, at the same cost.
    ///
    /// # Errors
    /// AUTH002, AUTH003.
    pub fn session_must_go_on(&mut self) -> Outcome<()> {
        self.must_be_of_this_epoch()?;
        self.look(|_, _| Ok(()))
    }

    /// Whether the database was not restored since: nobody knows of a session from before whether it goes on.
    ///
    /// # Errors
    /// AUTH003.
    pub fn must_be_of_this_epoch(&self) -> Outcome<()> {
        if self.authenticator.live().epochs() == self.seen.epochs {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::TokenInvalid).saying("The database was restored meanwhile"))
    }

    /// Whether what this edge knows is enough to say that they stand; else see [`Rights::confirm`].
    pub fn are_known(&self) -> bool {
        self.authenticator.live().freshness() == Freshness::Fresh
    }

    /// As [`Authenticator::confirm_again`].
    ///
    /// # Errors
    /// As there.
    pub async fn confirm(self) -> Outcome<()> {
        self.authenticator.confirm_again(&self.caller).await
    }

    fn look(&mut self, check: impl FnOnce(&Caller, &Caller) -> Outcome<()>) -> Outcome<()> {
        let now = now();
        if now > self.until {
            return Err(Failure::new(ErrorCode::TokenExpired));
        }
        self.look_at_changes(check)?;
        if self.caller.is_key() {
            let claims = self.caller.claims();
            let end = claims.key_exp.unwrap_or(claims.exp).saturating_add(AFTER_EXPIRY);
            let next = now.saturating_add(claims.exp.saturating_sub(claims.iat)).min(end);
            self.until = self.until.max(next);
        }
        Ok(())
    }

    fn look_at_changes(&mut self, check: impl FnOnce(&Caller, &Caller) -> Outcome<()>) -> Outcome<()> {
        let live = self.authenticator.live();
        let changes = live.changes();
        if changes != self.seen.changes {
            check(&self.caller.under(live)?, &self.caller)?;
            self.seen.changes = changes;
        }
        Ok(())
    }
}

impl Authenticator {
    /// To be asked before a caller is looked up, so that a change in between is found afterwards.
    pub fn seen(&self) -> Seen {
        // Changes first: whoever sees those of a new epoch sees the epoch.
        Seen { changes: self.live().changes(), epochs: self.live().epochs() }
    }

    /// Whether nothing was taken from a caller whose request has only now come whole.
    ///
    /// # Errors
    /// AUTH003, AUTH004; GW001 when it cannot be known.
    pub async fn confirm_again(&self, caller: &Caller) -> Outcome<()> {
        let now = self.confirm(caller.under(self.live())?, Intent::Act).await?;
        now.must_hold_all_of(caller)
    }
}

impl Caller {
    /// Whether this caller has every right that the same one had `before`.
    ///
    /// # Errors
    /// AUTH004.
    fn must_hold_all_of(&self, before: &Caller) -> Outcome<()> {
        let (now, then) = (self.claims(), before.claims());
        let holds_all = then.permissions.iter().all(|permission| self.holds(permission));
        if now.role >= then.role && now.tier >= then.tier && holds_all {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::Forbidden)
            .saying("Rights were taken away while the request was on its way"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use contract::token::{Claims, Scope};
    use contract::{ANY_PERMISSION, Role, Tier};

    use super::*;
    use crate::claims::live::tests::claims;
    use crate::claims::{LiveClaims, Sights, Staleness};
    use crate::rate::{Limits, RateLimiter};
    use crate::services::tests::nowhere;

    /// One that has heard nothing.
    fn authenticator() -> Authenticator {
        let limits = Staleness { limit: Duration::from_secs(5), grace: Duration::from_secs(5) };
        let rate = RateLimiter::new(Limits::off(), None);
        let live = Arc::new(LiveClaims::new(limits));
        Authenticator::new(live, Sights::new().0, rate, nowhere())
    }

    #[tokio::test]
    async fn what_was_begun_ends_soon_after_its_token() {
        let authenticator = authenticator();
        for (since_expiry, goes_on) in [(-60, true), (AFTER_EXPIRY - 2, true), (AFTER_EXPIRY + 1, false)] {
            let caller = Caller::new(Claims { exp: now() - since_expiry, ..claims(1) });
            let mut rights = Rights::new(authenticator.clone(), caller, authenticator.seen());
            for outcome in [rights.must_stand(), rights.session_must_go_on()] {
                let code = outcome.err().map(|failure| failure.code());
                assert_eq!(code, (!goes_on).then_some(ErrorCode::TokenExpired), "{since_expiry}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_key_has_begun_goes_on_for_a_tokens_life_after_each_look() {
        let scope = Some(Scope::new(Vec::new()));
        let key_exp = Some(now() + 3600);
        let expired = Claims { iat: now() - 610, exp: now() - 10, scope, key_exp, ..claims(1) };
        let authenticator = authenticator();
        let seen = authenticator.seen();
        let mut rights = Rights::new(authenticator, Caller::new(expired), seen);
        assert!(rights.must_stand().is_ok() && rights.until >= now() + 590);
        rights.until = now() - 1;
        assert!(rights.must_stand().is_err(), "nobody looked for longer than the end of a key is remembered");
    }

    #[tokio::test]
    async fn what_a_key_has_begun_ends_soon_after_the_key() {
        for (since_its_end, goes_on) in [(AFTER_EXPIRY - 2, true), (AFTER_EXPIRY + 1, false)] {
            let end = now() - since_its_end;
            let scope = Some(Scope::new(Vec::new()));
            let claims = Claims { iat: end - 600, exp: end, scope, key_exp: Some(end), ..claims(1) };
            let authenticator = authenticator();
            let seen = authenticator.seen();
            let mut rights = Rights::new(authenticator, Caller::new(claims), seen);
            assert_eq!(rights.must_stand().is_ok(), goes_on, "{since_its_end}");
            assert!(rights.until <= end + AFTER_EXPIRY, "a look does not move it");
        }
    }

    fn caller(role: Role, tier: Tier, permissions: &[&str]) -> Caller {
        let permissions = permissions.iter().map(|&name| name.to_owned()).collect();
        Caller::new(Claims { role, tier, permissions, ..claims(1) })
    }

    #[test]
    fn whoever_has_as_much_as_before_or_more_goes_on_and_whoever_has_less_does_not() {
        let before = caller(Role::Moderator, Tier::Basic, &["a", "b"]);
        for enough in [
            caller(Role::Moderator, Tier::Basic, &["b", "a"]),
            caller(Role::Admin, Tier::Premium, &["a", "b", "c"]),
            caller(Role::Moderator, Tier::Basic, &[ANY_PERMISSION]),
        ] {
            assert!(enough.must_hold_all_of(&before).is_ok(), "{enough:?}");
        }
        for less in [
            caller(Role::User, Tier::Basic, &["a", "b"]),
            caller(Role::Moderator, Tier::Free, &["a", "b"]),
            caller(Role::Admin, Tier::Enterprise, &["a"]),
        ] {
            let failure = less.must_hold_all_of(&before).expect_err("less");
            assert_eq!(failure.code(), ErrorCode::Forbidden, "{less:?}");
        }
    }
}
