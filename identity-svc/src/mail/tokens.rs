//! The tokens in the links of mails. Each is good once, for a time, for the address that it was sent to, and only
//! until a newer one of its purpose is made.

use std::time::Duration;

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::{ErrorCode, Failure, Outcome};
use sqlx::{MySqlConnection, MySqlPool};

use crate::opaque::{OpaqueToken, hash};
use crate::{accounts, sweep};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    VerifyEmail,
    ResetPassword,
}

impl Purpose {
    /// The name under which the table knows it.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::VerifyEmail => "verify_email",
            Purpose::ResetPassword => "reset_password",
        }
    }
}

/// The account that was sent a token.
pub struct Holder {
    pub user_id: String,
    pub email: String,
}

/// Wrong, used, replaced and expired tokens are told apart for nobody.
fn no_good() -> Failure {
    Failure::new(ErrorCode::TokenInvalid).saying("The link is wrong, was used already, or has expired")
}

/// Makes a token for the mail `mail_id` to an address, in place of the account's former one. `None` when there is
/// nothing to send: no active account, an address that is verified already, or a newer mail that has been sent.
///
/// # Errors
/// GW001 when the database is away.
pub async fn make(
    tx: &mut MySqlConnection,
    purpose: Purpose,
    email: &str,
    mail_id: i64,
    life: Duration,
) -> Outcome<Option<String>> {
    let account = sqlx::query!(
        r#"SELECT id, email_verified AS "email_verified: bool" FROM users
           WHERE email = ? AND is_active = TRUE FOR UPDATE"#,
        email
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    let verifies = purpose == Purpose::VerifyEmail;
    let Some(account) = account.filter(|account| !(verifies && account.email_verified)) else {
        return Ok(None);
    };
    let newer = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM email_tokens WHERE user_id = ? AND purpose = ? AND mail_id > ?",
        account.id,
        purpose.name(),
        mail_id
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    if newer > 0 {
        return Ok(None);
    }
    let token = OpaqueToken::generate()?;
    sqlx::query!(
        "INSERT INTO email_tokens (user_id, purpose, token_hash, email, mail_id, expires_at)
         VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? SECOND)
         ON DUPLICATE KEY UPDATE token_hash = VALUES(token_hash), email = VALUES(email),
                                 mail_id = VALUES(mail_id), expires_at = VALUES(expires_at)",
        account.id,
        purpose.name(),
        token.hash,
        email,
        mail_id,
        i64::try_from(life.as_secs()).map_err(Failure::internal)?
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    Ok(Some(token.text))
}

/// Who was sent a token that is still good. It stays good.
///
/// # Errors
/// AUTH003.
pub async fn holder(connection: &mut MySqlConnection, purpose: Purpose, token: &str) -> Outcome<Holder> {
    sqlx::query_as!(
        Holder,
        "SELECT users.id AS user_id, users.email FROM email_tokens
         JOIN users ON users.id = email_tokens.user_id AND users.email = email_tokens.email
         WHERE token_hash = ? AND purpose = ? AND expires_at > UTC_TIMESTAMP(6) AND users.is_active = TRUE",
        hash(token),
        purpose.name()
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?
    .ok_or_else(no_good)
}

/// Uses a token up and locks the account of its holder for the rest of the transaction.
///
/// # Errors
/// AUTH003, also when somebody else was quicker.
pub async fn spend(tx: &mut MySqlConnection, purpose: Purpose, token: &str, holder: &Holder) -> Outcome<()> {
    accounts::lock(tx, &holder.user_id).await.map_err(|failure| match failure.code() {
        ErrorCode::UserNotFound => no_good(),
        _ => failure,
    })?;
    // Whether it is still good is asked again: the account may have been disabled since the look at it.
    let still = self::holder(tx, purpose, token).await?;
    forget(tx, &still.user_id, purpose).await
}

/// Makes the account's token of a purpose useless, if there is one.
///
/// # Errors
/// GW001 when the database is away.
pub async fn forget(tx: &mut MySqlConnection, user_id: &str, purpose: Purpose) -> Outcome<()> {
    sqlx::query!("DELETE FROM email_tokens WHERE user_id = ? AND purpose = ?", user_id, purpose.name())
        .execute(tx)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes expired tokens, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "expired tokens of mails", remove).await;
}

/// One step.
pub fn remove(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM email_tokens WHERE expires_at < ? LIMIT 1000", now);
    Box::pin(old.execute(connection))
}
