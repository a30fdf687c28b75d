//! Tokens that this thread has verified lately: to look one up costs a tenth of verifying it. What may change at any
//! moment, its expiry and the live claims, is asked on every sight.

use std::cell::RefCell;

use contract::token::Claims;
use contract::{ErrorCode, Failure, Outcome};
use quick_cache::unsync::Cache;

use super::LiveClaims;
use super::caller::Caller;

/// Most tokens that one thread keeps, at about 2 KB each.
const MOST: usize = 4096;

thread_local! {
    /// By the whole token: two that differ in one character are two.
    static TOKENS: RefCell<Cache<Box<str>, Verified>> = RefCell::new(Cache::new(MOST));
}

/// A token that was verified.
struct Verified {
    /// What it says itself.
    token: Caller,
    /// The caller that it stood for when live claims had seen `changes`.
    caller: Caller,
    changes: u64,
    /// The keys that it was verified with; with others it is as good as unknown.
    keys: u64,
}

/// The caller that a token stands for at `now` (seconds since 1970), if the token was verified with these keys.
///
/// # Errors
/// AUTH002; AUTH003 when the session has ended or the account is disabled.
pub fn find(token: &str, keys: u64, now: i64, live: &LiveClaims) -> Outcome<Option<Caller>> {
    TOKENS.with_borrow_mut(|tokens| {
        let Some(mut known) = tokens.get_mut(token).filter(|known| known.keys == keys) else {
            return Ok(None);
        };
        if known.token.claims().exp <= now {
            return Err(Failure::new(ErrorCode::TokenExpired));
        }
        let changes = live.changes();
        if known.changes != changes {
            known.caller = known.token.under(live)?;
            known.changes = changes;
        }
        Ok(Some(known.caller.clone()))
    })
}

/// Keeps a token that was just verified, and gives the caller that it stands for.
///
/// # Errors
/// AUTH003 when the session has ended or the account is disabled.
pub fn keep(token: &str, claims: Claims, keys: u64, live: &LiveClaims) -> Outcome<Caller> {
    // Counted before the table is read: a change in between is then found by the next sight.
    let changes = live.changes();
    let verified = Caller::new(claims);
    let caller = verified.under(live)?;
    let known = Verified { token: verified, caller: caller.clone(), changes, keys };
    TOKENS.with_borrow_mut(|tokens| tokens.insert(token.into(), known));
    Ok(caller)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contract::identity::auth_event::Change;
    use contract::identity::{AccountChanged, AuthEvent, SessionEnded};

    use super::*;
    use crate::claims::Staleness;
    use crate::claims::live::tests::claims;

    fn live() -> LiveClaims {
        LiveClaims::new(Staleness { limit: Duration::from_secs(1), grace: Duration::ZERO })
    }

    fn good() -> Claims {
        Claims { exp: 100, ..claims(1) }
    }

    fn event(change: Change) -> AuthEvent {
        AuthEvent { change: Some(change), ..AuthEvent::default() }
    }

    #[test]
    fn a_token_is_known_with_the_keys_that_verified_it_alone() {
        let live = live();
        keep("known", good(), 1, &live).expect("a caller");
        assert!(find("known", 1, 0, &live).expect("good").is_some());
        assert!(find("known", 2, 0, &live).expect("good").is_none());
        assert!(find("knowN", 1, 0, &live).expect("good").is_none());
    }

    #[test]
    fn a_token_that_is_known_expires() {
        let live = live();
        keep("expires", good(), 1, &live).expect("a caller");
        assert!(find("expires", 1, 99, &live).is_ok());
        assert_eq!(find("expires", 1, 100, &live).expect_err("expired").code(), ErrorCode::TokenExpired);
    }

    #[test]
    fn a_token_that_is_known_obeys_each_change_at_once() {
        let live = live();
        keep("obeys", good(), 1, &live).expect("a caller");
        let upgraded = AccountChanged {
            user_id: "u".to_owned(),
            version: 2,
            email: "u@example.com".to_owned(),
            role: "user".to_owned(),
            tier: "premium".to_owned(),
            permissions: vec![],
        };
        live.apply(&event(Change::AccountChanged(upgraded)));
        let caller = find("obeys", 1, 0, &live).expect("good").expect("known");
        assert_eq!(caller.claims().tier.name(), "premium");
        let ended = SessionEnded { session_id: "s".to_owned(), user_id: "u".to_owned() };
        live.apply(&event(Change::SessionEnded(ended)));
        assert!(find("obeys", 1, 0, &live).is_err());
        // And stays so.
        assert!(find("obeys", 1, 0, &live).is_err());
        assert!(keep("obeys", good(), 1, &live).is_err());
    }

    #[test]
    fn a_thread_keeps_no_more_than_it_may() {
        let live = live();
        for token in 0..3 * MOST {
            keep(&token.to_string(), good(), 1, &live).expect("a caller");
        }
        assert!(TOKENS.with_borrow(|tokens| tokens.len()) <= MOST);
    }
}
