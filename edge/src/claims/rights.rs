//! What a request was begun with must still stand when the last of its body comes, and its session while it is answered:
//! both may take much longer than it takes to sign out, or to be banned.

use contract::{ErrorCode, Failure, Outcome};

use super::{Authenticator, Caller, Intent};

/// The rights that a request was begun with. Cheap to clone.
#[derive(Clone)]
pub struct Rights {
    authenticator: Authenticator,
    caller: Caller,
    /// The changes of live claims under which they stood last.
    changes: u64,
}

impl Rights {
    /// Those of a caller who was looked up when live claims had seen so many `changes`, or later.
    pub fn new(authenticator: Authenticator, caller: Caller, changes: u64) -> Self {
        Rights { authenticator, caller, changes }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether nothing was taken from the caller since. As long as nobody's claims change it costs one atomic load.
    ///
    /// # Errors
    /// AUTH003, AUTH004.
    pub fn must_stand(&mut self) -> Outcome<()> {
        self.look(|now, then| now.must_hold_all_of(then))
    }

    /// Whether the session goes on, at the same cost.
    ///
    /// # Errors
    /// AUTH003.
    pub fn session_must_go_on(&mut self) -> Outcome<()> {
        self.look(|_, _| Ok(()))
    }

    fn look(&mut self, check: impl FnOnce(&Caller, &Caller) -> Outcome<()>) -> Outcome<()> {
        let live = self.authenticator.live();
        let changes = live.changes();
        if changes != self.changes {
            check(&self.caller.under(live)?, &self.caller)?;
            self.changes = changes;
        }
        Ok(())
    }
}

impl Authenticator {
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
    use contract::token::Claims;
    use contract::{ANY_PERMISSION, Role, Tier};

    use super::*;
    use crate::claims::live::tests::claims;

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
