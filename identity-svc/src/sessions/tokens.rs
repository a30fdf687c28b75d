//! The pair of tokens of a session.

use std::time::Duration;

use chassis::clock::agreed_with;
use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::TokenPair;
use contract::{Failure, Outcome};
use sqlx::MySqlConnection;

use crate::accounts::Account;
use crate::identity::Tokens;
use crate::opaque::OpaqueToken;

/// The session that tokens are made for.
pub struct Of<'a> {
    pub session_id: &'a str,
    /// By the clock of the database.
    pub now: DateTime<Utc>,
    /// How long it may yet last; no token outlives its session.
    pub left: Duration,
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
    // No token is good for longer than the end of its session is remembered, though our clock be ahead.
    let (refresh, now) = (OpaqueToken::generate()?, agreed_with(of.now));
    let expires = now + tokens.lifetimes.access_token.min(of.left);
    tokens.noted.cover(tx, tokens.lifetimes.access_token, expires).await?;
    let claims = tokens.claims(account, of.session_id, now, expires);
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, session_id, parent_hash, access_jti, issued_at)
         VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6))",
        refresh.hash,
        of.session_id,
        of.parent,
        claims.jti
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    let access_token = tokens.keys.keys().signer.sign(&claims).map_err(Failure::internal)?;
    Ok(TokenPair {
        access_token,
        refresh_token: refresh.text,
        expires_in: claims.exp - claims.iat,
        user: Some(account.info()),
    })
}
