//! Who calls.

use contract::token::{Claims, ISSUER};
use contract::{Role, Tier};

/// The claims of a token.
pub fn claims(user: &str, session: &str, version: i64) -> Claims {
    Claims {
        iss: ISSUER.to_owned(),
        aud: String::new(),
        sub: user.to_owned(),
        jti: String::new(),
        iat: 0,
        nbf: 0,
        exp: 0,
        sid: session.to_owned(),
        ver: version,
        user_id: user.to_owned(),
        email: format!("{user}@example.com"),
        client_id: "web".to_owned(),
        role: Role::User,
        tier: Tier::Free,
        permissions: Vec::new(),
        scope: None,
        key_exp: None,
    }
}
