//! Verifying that an account's e-mail address is its owner's: a mail with a link, and the token that comes back.

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use contract::Outcome;
use contract::identity::Device;
use serde_json::json;

use crate::audit::{self, Action, By};
use crate::identity::Identity;
use crate::mail::tokens::{self, Purpose};
use crate::mail::{self, Kind};
use crate::sign_in::known_device;
use crate::throttle::{self, Limits, Subject, network};
use crate::{accounts, claims};

/// What having a mail sent is counted against: whoever gets it, and the address that asks.
pub fn asking(limits: Limits, to: Subject, device: &Device) -> Vec<Subject> {
    let from = network(&device.ip_address).map(|network| limits.mails_from_address().of(&network));
    std::iter::once(to).chain(from).collect()
}

/// Queues a mail that somebody asks for, if there may be one more. It is counted in the same transaction.
///
/// # Errors
/// AUTH005; GW001 when the database is away.
pub async fn queue_asked_for(
    identity: &Identity,
    asking: &[Subject],
    purpose: Purpose,
    email: &str,
    device: &Device,
) -> Outcome<()> {
    throttle::check(&identity.pool, asking).await?;
    let given = (identity, asking, email, device);
    transaction(&identity.pool, "queue_mail", given, move |tx, (identity, asking, email, device)| {
        Box::pin(async move {
            throttle::take(tx, asking).await?;
            identity.mail.queue(tx, Kind::Link(purpose), email, device).await
        })
    })
    .await
}

/// Sends another link to verify the account's address, and says whether there was need.
///
/// # Errors
/// AUTH005; USER001; GW001 when no mail server is configured.
pub async fn resend(identity: &Identity, user_id: &str, device: Option<Device>) -> Outcome<bool> {
    identity.mail.must_be_on()?;
    let account = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        accounts::find(&mut connection, user_id).await?
    };
    if account.email_verified {
        return Ok(false);
    }
    let device = known_device(device);
    let asking = asking(identity.limits, identity.limits.mails_to_owner().of(user_id), &device);
    queue_asked_for(identity, &asking, Purpose::VerifyEmail, &account.email, &device).await?;
    identity.mail.hurry();
    Ok(true)
}

/// Takes the token of such a link. Access tokens say nothing of it; it is announced for what replicas remember.
///
/// # Errors
/// AUTH003.
pub async fn verify(identity: &Identity, token: &str, device: Option<Device>) -> Outcome<()> {
    let holder = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        tokens::holder(&mut connection, Purpose::VerifyEmail, token).await?
    };
    let given = (token, &holder, known_device(device));
    transaction(&identity.pool, "verify_email", given, |tx, (token, holder, device)| {
        Box::pin(async move {
            tokens::spend(tx, Purpose::VerifyEmail, token, holder).await?;
            set_verified(tx, &holder.user_id, &holder.email).await?;
            let by = By::user(&holder.user_id, Some(device));
            let sequence = Some(claims::announce(tx, &holder.user_id).await?);
            audit::record(tx, by, Action::EmailVerified, Some(&holder.user_id), sequence, json!({})).await
        })
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// Has the address of an account that the caller has locked verified.
pub async fn set_verified(tx: &mut sqlx::MySqlConnection, user_id: &str, email: &str) -> Outcome<()> {
    sqlx::query!("UPDATE users SET email_verified = TRUE, updated_at = ? WHERE id = ?", now(), user_id)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tokens::forget(tx, user_id, Purpose::VerifyEmail).await?;
    mail::withdraw(tx, Purpose::VerifyEmail, email).await
}
