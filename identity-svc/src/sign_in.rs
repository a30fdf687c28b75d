//! Registering, signing in, changing the password, and what a token is worth.

use std::sync::LazyLock;

use chassis::mysql::{failed, transaction};
use chrono::DateTime;
use contract::identity::{
    ChangePasswordRequest, Device, LoginRequest, RegisterRequest, TokenPair, UserInfo, ValidateTokenResponse,
};
use contract::token::TokenFault;
use contract::{ErrorCode, Failure, Outcome, Role};
use prometheus::IntCounterVec;

use crate::accounts::{self, NewAccount};
use crate::email::Email;
use crate::hasher::Verdict;
use crate::identity::Identity;
use crate::password;
use crate::profiles::{COMPANY, FIRST_NAME, LAST_NAME};
use crate::sessions;
use chassis::clock::now;

/// Longest address and user agent of a device that are kept, in bytes, as the columns hold them.
const MAX_ADDRESS: usize = 45;
const MAX_USER_AGENT: usize = 255;

/// Makes an account with its first session.
///
/// # Errors
/// REQ001 with every field that is wrong; USER002; USER003; GW003.
pub async fn register(identity: &Identity, request: RegisterRequest) -> Outcome<TokenPair> {
    let email = check_registration(&request)?;
    let password = password::check(&request.password, "password", identity.min_password_length, &email)?;
    let account = NewAccount {
        email,
        password_hash: identity.hasher.hash(password).await?,
        client_id: request.client_id,
        role: Role::User,
        first_name: request.first_name,
        last_name: request.last_name,
        company: request.company,
    };
    let device = known_device(request.device);
    let pair = transaction(
        &identity.pool,
        "register",
        (identity, &account, &device),
        |tx, (identity, account, device)| {
            Box::pin(async move {
                let user_id = accounts::insert(tx, account).await?;
                sessions::open(tx, &identity.tokens, &user_id, device).await
            })
        },
    )
    .await?;
    SIGN_INS.with_label_values(&["registered"]).inc();
    Ok(pair)
}

fn check_registration(request: &RegisterRequest) -> Outcome<Email> {
    let mut failure = Failure::new(ErrorCode::InvalidRequest);
    let email = Email::parse(&request.email);
    if let Err(fault) = &email {
        failure = failure.with_field("email", fault);
    }
    if !is_client_id(&request.client_id) {
        failure = failure
            .with_field("client_id", "must have 1 to 100 letters, digits, dots, hyphens or underscores");
    }
    for (limit, value) in
        [(FIRST_NAME, &request.first_name), (LAST_NAME, &request.last_name), (COMPANY, &request.company)]
    {
        if let Some(fault) = limit.fault(value.as_deref()) {
            failure = failure.with_field(limit.field, fault);
        }
    }
    match email {
        Ok(email) if failure.fields().is_empty() => Ok(email),
        _ => Err(failure),
    }
}

/// Whether a text can name a client: it travels in a header.
pub fn is_client_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=100).contains(&text.len()) && text.bytes().all(plain)
}

fn known_device(device: Option<Device>) -> Device {
    let mut device = device.unwrap_or_default();
    device.ip_address.retain(|c| c.is_ascii_graphic());
    device.ip_address.truncate(MAX_ADDRESS);
    device.user_agent.truncate(device.user_agent.floor_char_boundary(MAX_USER_AGENT));
    device
}

/// Opens a session. Whatever is wrong, the answer and the work are the same.
///
/// # Errors
/// AUTH001; GW003.
pub async fn log_in(identity: &Identity, request: LoginRequest) -> Outcome<TokenPair> {
    let refused = || {
        SIGN_INS.with_label_values(&["refused"]).inc();
        Failure::new(ErrorCode::InvalidCredentials)
    };
    let known = match Email::parse(&request.email) {
        Ok(email) => {
            let mut connection = identity.pool.acquire().await.map_err(failed)?;
            accounts::credentials(&mut connection, &email).await?
        }
        Err(_) => None,
    };
    // A password that is too long for any account still costs its hash.
    let too_long = password::normalise(&request.password);
    let stored = known.as_ref().filter(|_| too_long.is_some()).map(|(_, hash)| hash.clone());
    let password = too_long.unwrap_or_default();
    let verdict = identity.hasher.verify(password.clone(), stored).await?;
    let Some((user_id, hash)) = known.filter(|_| verdict != Verdict::Wrong) else {
        return Err(refused());
    };
    let better = match verdict {
        Verdict::RightButWeak => Some(identity.hasher.hash(password).await?),
        Verdict::Right | Verdict::Wrong => None,
    };
    let device = known_device(request.device);
    let given = (identity, &user_id, &hash, &better, &device);
    let pair =
        transaction(&identity.pool, "login", given, |tx, (identity, user_id, hash, better, device)| {
            Box::pin(async move {
                if let Some(better) = better {
                    accounts::rehash(tx, user_id, hash, better).await?;
                }
                sessions::open(tx, &identity.tokens, user_id, device).await
            })
        })
        .await
        // Deleted between the look and the session: nobody is there any more.
        .map_err(
            |failure| {
                if failure.code() == ErrorCode::UserNotFound { refused() } else { failure }
            },
        )?;
    SIGN_INS.with_label_values(&["signed_in"]).inc();
    Ok(pair)
}

/// Changes the password and ends the other sessions.
///
/// # Errors
/// AUTH001 when the current password is wrong; USER001; USER003; GW003.
pub async fn change_password(identity: &Identity, request: ChangePasswordRequest) -> Outcome<()> {
    let ChangePasswordRequest { user_id, session_id, current_password, new_password } = request;
    let (email, stored) = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        let account = accounts::find(&mut connection, &user_id).await?;
        let email = Email::parse(&account.email).map_err(Failure::internal)?;
        (email.clone(), accounts::credentials(&mut connection, &email).await?.map(|(_, hash)| hash))
    };
    let new = password::check(&new_password, "new_password", identity.min_password_length, &email)?;
    let current = password::normalise(&current_password).unwrap_or_default();
    let wrong = || Failure::new(ErrorCode::InvalidCredentials).saying("The current password is wrong");
    if identity.hasher.verify(current, stored.clone()).await? == Verdict::Wrong {
        return Err(wrong());
    }
    let (verified, hash) = (stored.unwrap_or_default(), identity.hasher.hash(new).await?);
    let given = (identity, &user_id, &session_id, &verified, &hash);
    transaction(
        &identity.pool,
        "change_password",
        given,
        |tx, (identity, user_id, session_id, verified, hash)| {
            Box::pin(async move {
                if !accounts::rehash(tx, user_id, verified, hash).await? {
                    // Somebody else has changed it since it was verified.
                    return Err(
                        Failure::new(ErrorCode::InvalidCredentials).saying("The current password is wrong")
                    );
                }
                sessions::end_others(tx, identity, user_id, session_id).await
            })
        },
    )
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// What an access token is worth at this moment: the account as it is now.
///
/// # Errors
/// AUTH002, AUTH003.
pub async fn validate(identity: &Identity, token: &str) -> Outcome<ValidateTokenResponse> {
    let claims = identity.tokens.verifier.verify(token, now().timestamp()).map_err(|fault| match fault {
        TokenFault::Expired => Failure::new(ErrorCode::TokenExpired),
        TokenFault::Invalid => Failure::new(ErrorCode::TokenInvalid),
    })?;
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    if !sessions::is_open(&mut connection, &claims.sid, &claims.user_id).await? {
        return Err(Failure::new(ErrorCode::TokenInvalid).saying("The session has ended"));
    }
    let user: UserInfo = accounts::find(&mut connection, &claims.user_id).await?.info();
    let expires_at = DateTime::from_timestamp(claims.exp, 0).map(contract::to_timestamp);
    Ok(ValidateTokenResponse { user: Some(user), session_id: claims.sid, expires_at })
}

static SIGN_INS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_sign_ins_total",
        "Sign-ins by what came of them",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
