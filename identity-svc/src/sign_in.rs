//! Registering, signing in, changing the password, and what a token is worth.

use std::sync::LazyLock;

use chassis::mysql::{failed, transaction};
use chrono::DateTime;
use contract::identity::{
    ChangePasswordRequest, Device, LoginRequest, RegisterRequest, TokenPair, ValidateTokenResponse,
};
use contract::token::TokenFault;
use contract::{ErrorCode, Failure, Outcome, Role, api_key};
use prometheus::IntCounterVec;
use serde_json::json;

use crate::accounts::{self, Account, NewAccount};
use crate::api_keys;
use crate::audit::{self, Action, By};
use crate::email::Email;
use crate::hasher::{Hasher, Verdict};
use crate::holders::Sought;
use crate::identity::Identity;
use crate::mail::Kind;
use crate::mail::tokens::Purpose;
use crate::password;
use crate::profiles::{COMPANY, FIRST_NAME, LAST_NAME};
use crate::recovery;
use crate::sessions::{self, Because};
use crate::throttle::{self, Limits, Subject, network};
use chassis::clock::now;

/// Longest address and user agent of a device that are kept, in bytes, as the columns hold them.
pub const MAX_ADDRESS: usize = 45;
const MAX_USER_AGENT: usize = 255;
/// How often a password is verified again because the stored hash changed meanwhile: two sign-ins at once may both
/// want to strengthen it.
const ROUNDS: u32 = 3;

/// Makes an account with its first session.
///
/// # Errors
/// REQ001 with every field that is wrong; AUTH005; USER002; USER003; GW003.
pub async fn register(identity: &Identity, request: RegisterRequest) -> Outcome<TokenPair> {
    let email = check_registration(&request)?;
    let device = known_device(request.device);
    let network = network(&device.ip_address);
    // Of many for one account, all but one find it taken: there is none yet that could have a share.
    let hasher = identity.hasher.turn(network.as_deref())?;
    if let Some(network) = network {
        let registrations = [identity.limits.registrations().of(&network)];
        throttle::admit(&identity.pool, &registrations).await?;
    }
    let password = password::check(&request.password, "password", identity.min_password_length, &email)?;
    let account = NewAccount {
        email,
        password_hash: hasher.hash(password).await?,
        client_id: request.client_id,
        role: Role::User,
        first_name: given(request.first_name),
        last_name: given(request.last_name),
        company: given(request.company),
    };
    let pair = transaction(
        &identity.pool,
        "register",
        (identity, &account, &device),
        |tx, (identity, account, device)| {
            Box::pin(async move {
                let user_id = accounts::insert(tx, account).await?;
                let by = By::user(&user_id, Some(device));
                audit::record(tx, by, Action::Registered, Some(&user_id), None, json!({})).await?;
                let kind = Kind::Link(Purpose::VerifyEmail);
                identity.mail.queue(tx, kind, account.email.as_str(), device).await?;
                sessions::open(tx, &identity.tokens, &user_id, device).await
            })
        },
    )
    .await?;
    identity.mail.hurry();
    SIGN_INS.with_label_values(&["registered"]).inc();
    Ok(pair)
}

/// An empty text is none, as in a profile that is changed.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
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

pub fn known_device(device: Option<Device>) -> Device {
    let mut device = device.unwrap_or_default();
    device.ip_address.retain(|c| c.is_ascii_graphic());
    device.ip_address.truncate(MAX_ADDRESS);
    device.user_agent.truncate(device.user_agent.floor_char_boundary(MAX_USER_AGENT));
    device
}

/// Opens a session. Whatever is wrong, the answer and the work are the same.
///
/// # Errors
/// AUTH001; AUTH005; GW003.
pub async fn log_in(identity: &Identity, request: LoginRequest) -> Outcome<TokenPair> {
    let email = Email::parse(&request.email).ok();
    let device = known_device(request.device);
    let name = email.as_ref().map_or(request.email.as_str(), |email| email.as_str());
    let guesses = Guesses::at(identity.limits, name, &device);
    let hasher = identity.hasher.turn(network(&device.ip_address).as_deref())?;
    let counted = guesses.check(identity, email.as_ref(), &device).await?;
    // Not before: whoever only waits to be refused would have the account's share, and its owner none.
    hasher.count_for(name)?;
    for _ in 0..ROUNDS {
        let right = verified(identity, &hasher, email.as_ref(), &request.password).await?;
        let Some(right) = right else { break };
        let given = (identity, &right, &device);
        let pair = transaction(&identity.pool, "login", given, |tx, (identity, right, device)| {
            Box::pin(async move {
                if !accounts::still_has(tx, &right.user_id, &right.hash).await? {
                    return Ok(None);
                }
                if let Some(stronger) = &right.stronger {
                    accounts::set_password_hash(tx, &right.user_id, stronger).await?;
                }
                let pair = sessions::open(tx, &identity.tokens, &right.user_id, device).await?;
                let by = By::user(&right.user_id, Some(device));
                audit::record(tx, by, Action::LoggedIn, Some(&right.user_id), None, json!({})).await?;
                Ok(Some(pair))
            })
        })
        .await?;
        if let Some(pair) = pair {
            SIGN_INS.with_label_values(&["signed_in"]).inc();
            guesses.forget(identity).await;
            return Ok(pair);
        }
    }
    SIGN_INS.with_label_values(&["refused"]).inc();
    guesses.count(identity, &counted).await?;
    Err(Failure::new(ErrorCode::InvalidCredentials))
}

/// What a sign-in is counted against.
struct Guesses {
    /// The account, whether there is one or not, from anywhere.
    account: [Subject; 1],
    /// The account from one address.
    near: Option<Subject>,
    /// Any account from one address.
    address: Option<Subject>,
    /// The owner, who has shown to be at this address.
    owner: Option<Subject>,
}

impl Guesses {
    fn at(limits: Limits, email: &str, device: &Device) -> Self {
        let network = network(&device.ip_address);
        let near = network.as_ref().map(|network| format!("{email}\n{network}"));
        Guesses {
            account: [limits.account().of(email)],
            owner: near.as_ref().map(|subject| limits.proven_owner().of(subject)),
            near: near.map(|subject| limits.account_from_address().of(&subject)),
            address: network.map(|network| limits.address().of(&network)),
        }
    }

    /// Whether there may be one more guess. Gives what it has been counted against: where the free ones are used up it is
    /// counted now, so that of many at once one is let in after each wait, and not all of them.
    async fn check(
        &self,
        identity: &Identity,
        email: Option<&Email>,
        device: &Device,
    ) -> Outcome<Vec<Subject>> {
        let mut spent = throttle::check(&identity.pool, self.near.as_slice()).await?;
        match (self.check_strangers(identity, email, device).await, &self.owner) {
            (Err(refused), Some(owner)) if refused.code() == ErrorCode::TooManyAttempts => {
                if !throttle::is_vouched(&identity.pool, owner).await? {
                    return Err(refused);
                }
            }
            (outcome, _) => spent.extend(outcome?),
        }
        throttle::admit(&identity.pool, &spent).await?;
        Ok(spent)
    }

    /// Whether the guesses of others leave room for one more, and if it is the account of which the free ones are used up.
    /// Of an address they are not looked at: those who share it would have to sign in one at a time, and what it has at
    /// once is bounded where hashes are made.
    async fn check_strangers(
        &self,
        identity: &Identity,
        email: Option<&Email>,
        device: &Device,
    ) -> Outcome<Vec<Subject>> {
        throttle::check(&identity.pool, self.address.as_slice()).await?;
        let refused = match throttle::check(&identity.pool, &self.account).await {
            Err(failure) if failure.code() == ErrorCode::TooManyAttempts => failure,
            outcome => return outcome,
        };
        // Strangers may have used up the account's guesses, but not those of an address that its owner signs in from.
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        match email {
            Some(email) if sessions::were_opened_from(&mut connection, email, &device.ip_address).await? => {
                Ok(Vec::new())
            }
            _ => Err(refused),
        }
    }

    /// Counts a guess that was wrong against all that it has not been counted against.
    async fn count(&self, identity: &Identity, counted: &[Subject]) -> Outcome<()> {
        let mut all = [&self.account, self.near.as_slice(), self.address.as_slice()].concat();
        all.retain(|subject| !counted.contains(subject));
        throttle::count(&identity.pool, &all).await
    }

    /// Forgets the wrong guesses at the account, since somebody knows the password.
    async fn forget(&self, identity: &Identity) {
        let account = [&self.account, self.near.as_slice()].concat();
        if let Err(failure) = throttle::forget(&identity.pool, &account).await {
            // The sign-in has succeeded all the same.
            tracing::warn!(cause = ?failure.cause(), "wrong guesses were not forgotten");
        }
    }
}

/// Forgets the wrong guesses at an account whose owner has shown to be at a device, and holds nobody up there for a
/// while for what strangers guess elsewhere.
pub async fn welcome_owner(identity: &Identity, email: &Email, device: &Device) {
    let guesses = Guesses::at(identity.limits, email.as_str(), device);
    guesses.forget(identity).await;
    if let Some(owner) = &guesses.owner
        && let Err(failure) = throttle::vouch(&identity.pool, owner).await
    {
        tracing::warn!(cause = ?failure.cause(), "the owner of an account is not known as such");
    }
}

/// A password that was right for an account when it was verified.
struct Verified {
    user_id: String,
    /// What it was verified against.
    hash: String,
    /// A hash at today's cost, when that one was made at a lower one.
    stronger: Option<String>,
}

/// Verifies a password. An account that is unknown or disabled costs the same work as a wrong password.
async fn verified(
    identity: &Identity,
    hasher: &Hasher,
    email: Option<&Email>,
    typed: &str,
) -> Outcome<Option<Verified>> {
    let known = match email {
        Some(email) => {
            let mut connection = identity.pool.acquire().await.map_err(failed)?;
            accounts::credentials(&mut connection, email).await?
        }
        None => None,
    };
    // A password that is too long for any account still costs its hash.
    let password = password::normalise(typed);
    let stored = known.as_ref().filter(|_| password.is_some()).map(|(_, hash)| hash.clone());
    let password = password.unwrap_or_default();
    let verdict = hasher.verify(password.clone(), stored).await?;
    let Some((user_id, hash)) = known.filter(|_| verdict != Verdict::Wrong) else {
        return Ok(None);
    };
    let stronger = match verdict {
        Verdict::RightButWeak => Some(hasher.hash(password).await?),
        Verdict::Right | Verdict::Wrong => None,
    };
    Ok(Some(Verified { user_id, hash, stronger }))
}

/// Changes the password and ends the other sessions.
///
/// # Errors
/// AUTH001 when the current password is wrong; AUTH005; USER001; USER003; GW003.
pub async fn change_password(identity: &Identity, request: ChangePasswordRequest) -> Outcome<()> {
    let ChangePasswordRequest { user_id, session_id, current_password, new_password, device } = request;
    let device = known_device(device);
    let hasher = identity.hasher.turn_of(&user_id, network(&device.ip_address).as_deref())?;
    let account = {
        let mut connection = identity.pool.acquire().await.map_err(failed)?;
        accounts::find(&mut connection, &user_id).await?
    };
    let email = Email::parse(&account.email).map_err(Failure::internal)?;
    let new = password::check(&new_password, "new_password", identity.min_password_length, &email)?;
    let guesses = [identity.limits.password_changes().of(&user_id)];
    let counted = throttle::check(&identity.pool, &guesses).await?;
    throttle::admit(&identity.pool, &counted).await?;
    let new = hasher.hash(new).await?;
    for _ in 0..ROUNDS {
        let right = verified(identity, &hasher, Some(&email), &current_password).await?;
        let Some(right) = right else { break };
        let given = (identity, &right, &session_id, &new, (&email, &device));
        let work = "change_password";
        let changed = transaction(
            &identity.pool,
            work,
            given,
            |tx, (identity, right, session_id, new, (email, device))| {
                Box::pin(async move {
                    if !accounts::still_has(tx, &right.user_id, &right.hash).await? {
                        return Ok(false);
                    }
                    accounts::set_password_hash(tx, &right.user_id, new).await?;
                    recovery::after_change(tx, identity, &right.user_id, email.as_str(), device).await?;
                    let by = By::user(&right.user_id, Some(device));
                    audit::record(tx, by, Action::PasswordChanged, Some(&right.user_id), None, json!({}))
                        .await?;
                    let because = Because::PasswordChanged;
                    sessions::end_others(tx, &right.user_id, Some(session_id), because, by).await?;
                    Ok(true)
                })
            },
        )
        .await?;
        if changed {
            identity.tail.hurry();
            identity.mail.hurry();
            if let Err(failure) = throttle::forget(&identity.pool, &guesses).await {
                // The password is changed all the same.
                tracing::warn!(cause = ?failure.cause(), "wrong guesses were not forgotten");
            }
            return Ok(());
        }
    }
    if counted.is_empty() {
        throttle::count(&identity.pool, &guesses).await?;
    }
    Err(Failure::new(ErrorCode::InvalidCredentials).saying("The current password is wrong"))
}

/// What an access token or an API key is worth: the account as it was when the events were last read, which is less than a second ago.
///
/// # Errors
/// AUTH002, AUTH003.
pub async fn validate(identity: &Identity, token: &str) -> Outcome<ValidateTokenResponse> {
    if api_key::is_meant(token) {
        let token = api_keys::redeem(identity, token).await?;
        return Box::pin(validate(identity, &token)).await;
    }
    let now = now();
    let claims =
        identity.tokens.keys.keys().verifier.verify(token, now.timestamp()).map_err(|fault| match fault {
            TokenFault::Expired => Failure::new(ErrorCode::TokenExpired),
            TokenFault::Invalid => Failure::new(ErrorCode::TokenInvalid),
        })?;
    let sought = Sought { user_id: &claims.user_id, session_id: &claims.sid, version: claims.ver };
    let mut user = match identity.holders.find(&sought, now) {
        Some(user) => user,
        None => holder(identity, &claims.user_id, &claims.sid).await?.info(),
    };
    if let Some(scope) = &claims.scope {
        let role = user.role.parse().map_err(Failure::internal)?;
        let (role, permissions) = scope.narrow(role, user.permissions);
        (user.role, user.permissions) = (role.name().to_owned(), permissions);
    }
    let expires_at = DateTime::from_timestamp(claims.exp, 0).map(contract::to_timestamp);
    Ok(ValidateTokenResponse { user: Some(user), session_id: claims.sid, expires_at })
}

/// The account that holds an open session or an API key, as it is at this moment.
///
/// # Errors
/// AUTH003 when the session or key is over, or the account disabled or gone.
pub async fn holder(identity: &Identity, user_id: &str, session_id: &str) -> Outcome<Account> {
    let mark = identity.holders.mark();
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    let until = match sessions::open_until(&mut connection, session_id, user_id).await? {
        Some(until) => Some(until),
        None => api_keys::good_until(&mut connection, session_id, user_id).await?,
    };
    let Some(until) = until else {
        return Err(Failure::new(ErrorCode::TokenInvalid).saying("The session has ended"));
    };
    let account = accounts::find(&mut connection, user_id).await.map_err(|failure| match failure.code() {
        // Deleted since the look above: to the caller that is a token that is no longer good.
        ErrorCode::UserNotFound => Failure::new(ErrorCode::TokenInvalid),
        _ => failure,
    })?;
    identity.holders.keep(mark, &account, session_id, until);
    Ok(account)
}

static SIGN_INS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    prometheus::register_int_counter_vec!(
        "identity_sign_ins_total",
        "Sign-ins by what came of them",
        &["outcome"]
    )
    .unwrap_or_else(|e| unreachable!("registered once: {e}"))
});
