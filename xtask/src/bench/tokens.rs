//! Access tokens of users that need not exist: the edge verifies by the signature and the live claims.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use contract::token::{Claims, ISSUER, Signer};
use contract::{Role, Tier};
use uuid::Uuid;

use super::stage::folder;
use crate::Outcome;

/// The audience that the edge expects by default.
const AUDIENCE: &str = "persona-platform";
/// As long as most runs, and no longer than the edge accepts.
const LIFE_SECONDS: i64 = 4 * 3600;

/// Mints tokens with the secret of the platform.
pub struct Mint {
    signer: Signer,
    pub secret: String,
}

/// A token and whom it is of.
pub struct Minted {
    pub token: String,
    pub claims: Claims,
}

impl Mint {
    pub fn new(secret: &str) -> Self {
        Mint { signer: Signer::hs256(&secret.to_owned().into()), secret: secret.to_owned() }
    }

    /// A good token of a new user without a limit of requests.
    pub fn token(&self) -> Outcome<Minted> {
        self.with(|_| {})
    }

    /// A genuine token that has expired.
    pub fn expired(&self) -> Outcome<Minted> {
        self.with(|claims| {
            claims.iat -= 2 * LIFE_SECONDS;
            claims.nbf = claims.iat;
            claims.exp = claims.iat + LIFE_SECONDS;
        })
    }

    fn with(&self, change: impl FnOnce(&mut Claims)) -> Outcome<Minted> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        let user = Uuid::now_v7().to_string();
        let mut claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.clone(),
            jti: Uuid::now_v7().to_string(),
            iat: now,
            nbf: now,
            exp: now + LIFE_SECONDS,
            sid: Uuid::now_v7().to_string(),
            ver: 1,
            email: format!("{}@example.com", &user[..13]),
            user_id: user,
            client_id: "web".to_owned(),
            role: Role::User,
            tier: Tier::Enterprise,
            // One: more than HAProxy can write as a list.
            permissions: vec!["personas.create".to_owned()],
            scope: None,
            key_exp: None,
        };
        change(&mut claims);
        Ok(Minted { token: self.signer.sign(&claims)?, claims })
    }

    /// A file with so many tokens, one a line.
    pub fn file(&self, name: &str, count: usize) -> Outcome<PathBuf> {
        let mut lines = String::new();
        for _ in 0..count {
            writeln!(lines, "{}", self.token()?.token)?;
        }
        write(name, &lines)
    }

    /// A file with one token whose signature is not ours.
    pub fn bad_file(&self, name: &str) -> Outcome<PathBuf> {
        write(name, &(self.forged()? + "\n"))
    }

    /// A token whose signature is not ours.
    pub fn forged(&self) -> Outcome<String> {
        let token = self.token()?.token;
        let (signed, signature) = token.rsplit_once('.').ok_or("a token without a signature")?;
        let mirrored: String = signature.chars().rev().collect();
        Ok(format!("{signed}.{mirrored}"))
    }
}

fn write(name: &str, lines: &str) -> Outcome<PathBuf> {
    let path = folder().join(name);
    crate::workspace::write_private(&path, lines)?;
    Ok(Path::new(&path).to_owned())
}
