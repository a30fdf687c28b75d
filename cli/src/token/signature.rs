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
pub async fn check(token: &str, decoded: &Decoded, members: &[Member]) -> Check {
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
