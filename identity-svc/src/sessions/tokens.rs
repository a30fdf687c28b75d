//! The pair of tokens of a session.

use chassis::clock::now;
use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::TokenPair;
use contract::token::{Claims, ISSUER};
use contract::{Failure, Outcome};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::accounts::Account;
use crate::identity::Tokens;
use crate::opaque::OpaqueToken;

/// The session that tokens are made for.
pub struct Of<'a> {
    pub session_id: &'a str,
    /// No token outlives its session.
    pub absolute_end: DateTime<Utc>,
    /// The hash of the refresh token that was spent for this pair.
    pub parent: Option<&'a [u8]>,
}

/// Makes a pair of tokens of a session.
pub async fn issue(
    tx: &mut MySqlConnection,
    tokens: &Tokens,
    account: &Account,
    of: Of<'_>,
) -> Outcome<TokenPair> {
    let (refresh, now) = (OpaqueToken::generate()?, now());
    let expires = of.absolute_end.min(now + tokens.lifetimes.access_token);
    tokens.noted.cover(tx, tokens.lifetimes.access_token, expires).await?;
    let jti = Uuid::now_v7().to_string();
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, session_id, parent_hash, access_jti, issued_at)
         VALUES (?, ?, ?, ?, ?)",
        refresh.hash,
        of.session_id,
        of.parent,
        jti,
        now
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: tokens.keys.settings().audience.clone(),
        sub: account.id.clone(),
        jti,
        iat: now.timestamp(),
        nbf: now.timestamp(),
        exp: expires.timestamp(),
        sid: of.session_id.to_owned(),
        ver: account.version,
        user_id: account.id.clone(),
        email: account.email.clone(),
        client_id: account.client_id.clone(),
        role: account.role,
        tier: account.tier,
        permissions: account.permissions.clone(),
        scope: None,
    };
    let access_token = tokens.keys.keys().signer.sign(&claims).map_err(Failure::internal)?;
    Ok(TokenPair {
        access_token,
        refresh_token: refresh.text,
        expires_in: claims.exp - claims.iat,
        user: Some(account.info()),
    })
}
