//! Whether a token was made with a key of this platform.

use chassis::settings::token_secrets;
use contract::token::{TokenFault, Verifier, VerifyingKey, key_set};

use super::decoded::Decoded;
use super::identity;
use crate::deployment::Member;
use crate::doctor::known_keys;
use crate::report::Check;

pub const SUBJECT: &str = "signature";

/// Whether it was signed with a key that is good here: one that identity-svc names, or that follows from the settings.
/// `is_refused`: for its claims already.
pub async fn check(token: &str, decoded: &Decoded, members: &[Member], is_refused: bool) -> Check {
    let secrets = members.iter().find_map(|member| {
        let has_key = member.survey.secret("JWT_SECRET_KEY").is_some() && !member.survey.is_faulty("JWT_");
        has_key.then(|| member.read(token_secrets).ok())?
    });
    let Some(secrets) = secrets else {
        return Check::skipped(SUBJECT, "JWT_SECRET_KEY is not set here");
    };
    let named = match identity(members) {
        Some(identity) => known_keys(identity).await,
        None => None,
    };
    let keys = match named {
        Some(named) => key_set(&named.keys, &secrets).ok(),
        None => decoded.key_id().map(|kid| {
            let of = |secret| match kid {
                "" => VerifyingKey::hs256(secret),
                kid => VerifyingKey::derived(secret, kid),
            };
            secrets.iter().map(of).collect()
        }),
    };
    let Some(keys) = keys else {
        return Check::skipped(SUBJECT, "identity-svc, which knows the public keys, is not asked");
    };
    match Verifier::new(keys, decoded.audience()).verify(token, decoded.signed_at()) {
        // Verifying looks at the claims, too: what is wrong with them says nothing of the key.
        Err(TokenFault::Invalid) if is_refused => {
            Check::skipped(SUBJECT, "not known of a token whose claims are refused")
        }
        Err(TokenFault::Invalid) => {
            let says = "not made with a key that is good here (AUTH003)";
            Check::fault(
                SUBJECT,
                says,
                "sign in at this platform; or set the JWT_SECRET_KEY of the one that it is of",
            )
        }
        Ok(_) | Err(TokenFault::Expired) => Check::ok(SUBJECT, "made with a key that is good here"),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use contract::token::{Claims, Signer};

    use super::super::decoded::claims_at;
    use super::*;
    use crate::deployment::Process;
    use crate::report::Status;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    async fn status(secret: &str, change: impl FnOnce(&mut Claims), is_refused: bool) -> Status {
        // Nobody listens there who would name other keys.
        let settings = [("JWT_SECRET_KEY", SECRET), ("IDENTITY_URL", "http://127.0.0.1:1")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let member = Member::of(Process::Edge, settings.into(), Vec::new());
        let mut claims = claims_at(Utc::now().timestamp());
        change(&mut claims);
        let token = Signer::hs256(&secret.to_owned().into()).sign(&claims).expect("a token");
        let Ok(decoded) = Decoded::of(&token) else { panic!("it is a token") };
        check(&token, &decoded, &[member], is_refused).await.status
    }

    #[tokio::test]
    async fn a_foreign_key_is_told_from_claims_that_are_refused() {
        let other = "another-0123456789abcdef0123456789abcdef";
        let foreign = |claims: &mut Claims| claims.iss = "elsewhere".to_owned();
        assert_eq!(status(SECRET, |_| {}, false).await, Status::Ok);
        assert_eq!(status(other, |_| {}, false).await, Status::Fault);
        assert_eq!(status(SECRET, foreign, true).await, Status::Skipped);
    }
}
