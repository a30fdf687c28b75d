//! A new password for those who have forgotten theirs: a mail with a link, and the token that comes back.

use chassis::mysql::{failed, transaction};
use contract::identity::{Device, ForgotPasswordRequest, ResetPasswordRequest};
use contract::{ErrorCode, Outcome};
use serde_json::json;
use sqlx::MySqlConnection;

use crate::accounts;
use crate::audit::{self, Action, By};
use crate::email::Email;
use crate::identity::Identity;
use crate::mail::tokens::{self, Purpose};
use crate::mail::{self, Kind};
use crate::sessions::{self, Because};
use crate::sign_in::{self, known_device};
use crate::throttle::network;
use crate::{password, verification};

/// Has a link mailed to the account with this address, if there is one. Whether there is, is looked up when the mail
/// is sent: neither the answer nor its time can tell.
///
/// # Errors
/// GW001 when the database is away.
pub async fn forgot(identity: &Identity, request: ForgotPasswordRequest) -> Outcome<()> {
    let Ok(email) = Email::parse(&request.email) else { return Ok(()) };
    if !identity.mail.is_on() {
        return Ok(());
    }
    let device = known_device(request.device);
    let to = identity.limits.mails_to_account().of(email.as_str());
    let asking = verification::asking(identity.limits, to, &device);
    // Nobody is hurried: the work for an account that exists must not fall into the time of the next request.
    let purpose = Purpose::ResetPassword;
    match verification::queue_asked_for(identity, &asking, purpose, email.as_str(), &device).await {
        // That there are enough mails is nothing that a stranger needs to know.
        Err(failure) if failure.code() == ErrorCode::TooManyAttempts => Ok(()),
        outcome => outcome,
    }
}

/// Takes the token of such a link and sets the password. That the mail arrived also verifies the address. Sessions and API
/// keys end: whoever had the account before may have made both.
///
/// # Errors
/// AUTH003; USER003, which leaves the token as good as it was; GW003.
pub async fn reset(identity: &Identity, request: ResetPasswordRequest) -> Outcome<()> {
    let ResetPasswordRequest { token, new_password, device } = request;
    let device = known_device(device);
    let hasher = identity.hasher.turn(network(&device.ip_address).as_deref())?;
    let holder = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        tokens::holder(&mut connection, Purpose::ResetPassword, &token).await?
    };
    let email = Email::parse(&holder.email).map_err(contract::Failure::internal)?;
    let new = password::check(&new_password, "new_password", identity.min_password_length, &email)?;
    let hash = hasher.hash(new).await?;
    let given = (identity, &token, &holder, &hash, &device);
    transaction(&identity.pool, "reset_password", given, |tx, (identity, token, holder, hash, device)| {
        Box::pin(async move {
            let (user_id, email) = (&holder.user_id, &holder.email);
            tokens::spend(tx, Purpose::ResetPassword, token, holder).await?;
            accounts::set_password_hash(tx, user_id, hash).await?;
            verification::set_verified(tx, user_id, email).await?;
            after_change(tx, identity, user_id, email, device).await?;
            let by = By::user(user_id, Some(device));
            audit::record(tx, by, Action::PasswordReset, Some(user_id), None, json!({})).await?;
            sessions::end_everything(tx, user_id, Because::PasswordReset, by).await
        })
    })
    .await?;
    identity.tail.hurry();
    identity.mail.hurry();
    sign_in::welcome_owner(identity, &email, &device).await;
    Ok(())
}

/// What follows every change of a password: no link to a new one is of use any more, and the owner is told. The caller
/// has locked the account.
///
/// # Errors
/// GW001 when the database is away.
pub async fn after_change(
    tx: &mut MySqlConnection,
    identity: &Identity,
    user_id: &str,
    email: &str,
    device: &Device,
) -> Outcome<()> {
    tokens::forget(tx, user_id, Purpose::ResetPassword).await?;
    mail::withdraw(tx, Purpose::ResetPassword, email).await?;
    identity.mail.queue(tx, Kind::PasswordChanged, email, device).await
}
