//! API keys: how machines act for an account. A key is traded for access tokens whose session is the key itself, so that
//! what binds on sessions (live claims, open sockets, introspection) binds on keys, and costs no more.

use std::collections::BTreeSet;
use std::time::Duration;

use chassis::clock::{agreed_with, now, shared};
use chassis::mysql::{failed, transaction, write};
use chrono::{DateTime, Utc};
use contract::identity::{ApiKey, CreateApiKeyResponse, Device};
use contract::token::{Claims, Scope};
use contract::{ErrorCode, Failure, KNOWN_PERMISSIONS, Outcome, api_key, to_timestamp};
use serde_json::json;
use sqlx::{MySqlConnection, MySqlPool};
use uuid::Uuid;

use crate::accounts::{self, Account};
use crate::audit::{self, Action, By};
use crate::events::{self, Change};
use crate::identity::Identity;
use crate::mail::Kind;
use crate::opaque::{OpaqueToken, hash};
use crate::sign_in::known_device;
use crate::{sessions, sweep, throttle};

const MAX_NAME: usize = 100;
/// How long a key lives when nobody says.
const USUAL_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a key that has expired is still listed.
const SHOWN: Duration = Duration::from_secs(30 * 24 * 3600);
/// A use is written down when the last one is older than this.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// How many keys there may be, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most keys of an account.
    pub per_account: i64,
    pub longest_life: Duration,
}

/// Who asks for a key.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub user_id: &'a str,
    /// The session in which they do; `None` of an edge that does not say yet.
    pub session: Option<&'a str>,
}

/// A key that is asked for.
pub struct Wanted {
    pub name: String,
    pub permissions: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key that may be made.
struct Checked {
    name: String,
    permissions: BTreeSet<String>,
    expires_at: DateTime<Utc>,
}

impl Wanted {
    fn check(self, limits: Limits, now: DateTime<Utc>) -> Outcome<Checked> {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        let name = self.name.trim().to_owned();
        if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            failure = failure.with_field("name", format!("must have 1 to {MAX_NAME} characters"));
        }
        if self.permissions.iter().any(|permission| !KNOWN_PERMISSIONS.contains(&permission.as_str())) {
            let known = KNOWN_PERMISSIONS.join(", ");
            failure = failure.with_field("permissions", format!("must be among {known}"));
        }
        let latest = now + limits.longest_life;
        let expires_at = self.expires_at.unwrap_or(latest.min(now + USUAL_LIFE));
        if expires_at <= now || expires_at > latest {
            let days = limits.longest_life.as_secs() / (24 * 3600);
            failure = failure.with_field("expires_at", format!("must be within the next {days} days"));
        }
        let permissions = self.permissions.into_iter().collect();
        if failure.fields().is_empty() { Ok(Checked { name, permissions, expires_at }) } else { Err(failure) }
    }
}

/// Makes a key of an account that acts for itself; the answer alone has the key. A mail tells the owner, who may not be who
/// made it.
///
/// # Errors
/// REQ001 with every field that is wrong, also for permissions that the account does not hold; AUTH004 when it is
/// disabled; AUTH003 when the session has ended; USER001; SUB002 with resource, limit and used.
pub async fn create(
    identity: &Identity,
    asking: Asking<'_>,
    wanted: Wanted,
    device: Option<Device>,
) -> Outcome<CreateApiKeyResponse> {
    let limits = identity.api_keys;
    let now = shared(&mut *identity.pool.acquire().await.map_err(failed)?).await.map_err(failed)?;
    let wanted = wanted.check(limits, now)?;
    let key = api_key::spell(&OpaqueToken::generate()?.text);
    let device = known_device(device);
    let given = (identity, asking, wanted, key.as_str(), &device);
    let work = "create_api_key";
    let made =
        transaction(&identity.pool, work, given, move |tx, (identity, asking, wanted, key, device)| {
            Box::pin(async move {
                let user_id = asking.user_id;
                accounts::lock(tx, user_id).await?;
                let account = accounts::find(tx, user_id).await?;
                must_hold(&account, &wanted.permissions)?;
                must_be_open(tx, *asking).await?;
                must_have_room(tx, user_id, limits.per_account).await?;
                tell_owner(tx, identity, &account, device).await?;
                insert(tx, user_id, wanted, key, By::user(user_id, Some(device))).await
            })
        });
    let made = made.await?;
    identity.mail.hurry();
    Ok(CreateApiKeyResponse { api_key: Some(made), key })
}

/// Has the owner told by mail. Who has been told often enough is told no more, and nothing else comes of it.
async fn tell_owner(
    tx: &mut MySqlConnection,
    identity: &Identity,
    account: &Account,
    device: &Device,
) -> Outcome<()> {
    match throttle::take(tx, &[identity.limits.notices_of_keys().of(&account.id)]).await {
        Ok(()) => identity.mail.queue(tx, Kind::ApiKeyCreated, &account.email, device).await,
        Err(failure) if failure.code() == ErrorCode::TooManyAttempts => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn must_hold(account: &Account, permissions: &BTreeSet<String>) -> Outcome<()> {
    if !account.is_active {
        return Err(Failure::new(ErrorCode::Forbidden));
    }
    match permissions.iter().find(|permission| !account.holds(permission)) {
        None => Ok(()),
        Some(missing) => Err(Failure::field("permissions", format!("the account does not hold {missing}"))),
    }
}

/// What takes an account back ends its sessions and keys under the lock that the caller has, and edges hear of it after
/// that: a key that is asked for meanwhile would outlive both.
async fn must_be_open(tx: &mut MySqlConnection, asking: Asking<'_>) -> Outcome<()> {
    let Some(session) = asking.session else { return Ok(()) };
    let until = sessions::open_until(tx, session, asking.user_id).await?;
    until.map(drop).ok_or_else(|| Failure::new(ErrorCode::TokenInvalid).saying("The session has ended"))
}

async fn must_have_room(tx: &mut MySqlConnection, user_id: &str, limit: i64) -> Outcome<()> {
    let used = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM api_keys WHERE user_id = ? AND expires_at > UTC_TIMESTAMP(6)",
        user_id
    )
    .fetch_one(tx)
    .await
    .map_err(failed)?;
    if used < limit {
        return Ok(());
    }
    let failure = Failure::new(ErrorCode::QuotaExceeded).with_fact("resource", "api_keys");
    Err(failure.with_fact("limit", limit).with_fact("used", used))
}

async fn insert(
    tx: &mut MySqlConnection,
    user_id: &str,
    wanted: &Checked,
    key: &str,
    by: By<'_>,
) -> Outcome<ApiKey> {
    let (id, created_at) = (Uuid::now_v7().to_string(), now());
    let scope: Vec<String> = wanted.permissions.iter().cloned().collect();
    sqlx::query!(
        "INSERT INTO api_keys (id, user_id, name, key_start, key_hash, scope, created_at, expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        user_id,
        wanted.name,
        api_key::start(key),
        hash(key),
        String::from(Scope::new(scope.clone())),
        created_at,
        wanted.expires_at
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let details = json!({ "api_key_id": id, "name": wanted.name, "permissions": scope });
    audit::record(tx, by, Action::ApiKeyCreated, Some(user_id), None, details).await?;
    Ok(ApiKey {
        id,
        name: wanted.name.clone(),
        start: api_key::start(key).to_owned(),
        permissions: scope,
        created_at: Some(to_timestamp(created_at)),
        expires_at: Some(to_timestamp(wanted.expires_at)),
        last_used_at: None,
    })
}

/// The keys of an account, the newest first; those that have expired for a month more.
///
/// # Errors
/// GW001 when the database is away.
pub async fn list(connection: &mut MySqlConnection, user_id: &str) -> Outcome<Vec<ApiKey>> {
    let rows = sqlx::query!(
        r#"SELECT id, name, key_start, scope, created_at AS "created_at: DateTime<Utc>",
                  expires_at AS "expires_at: DateTime<Utc>", last_used_at AS "last_used_at: DateTime<Utc>"
           FROM api_keys WHERE user_id = ? ORDER BY created_at DESC, id DESC"#,
        user_id
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let keys = rows.into_iter().map(|row| ApiKey {
        id: row.id,
        name: row.name,
        start: row.key_start,
        permissions: row.scope.split_ascii_whitespace().map(str::to_owned).collect(),
        created_at: Some(to_timestamp(row.created_at)),
        expires_at: Some(to_timestamp(row.expires_at)),
        last_used_at: row.last_used_at.map(to_timestamp),
    });
    Ok(keys.collect())
}

/// Ends a key; tokens that stand for it die within a second.
///
/// # Errors
/// REQ002 when the account has no such key; USER001.
pub async fn revoke(identity: &Identity, user_id: &str, id: &str, by: By<'_>) -> Outcome<()> {
    transaction(&identity.pool, "revoke_api_key", (user_id, id, by), |tx, (user_id, id, by)| {
        Box::pin(revoke_in(tx, user_id, id, *by))
    })
    .await?;
    identity.tail.hurry();
    Ok(())
}

/// As [`revoke`], in the caller's transaction.
///
/// # Errors
/// REQ002, USER001.
pub async fn revoke_in(tx: &mut MySqlConnection, user_id: &str, id: &str, by: By<'_>) -> Outcome<()> {
    accounts::lock(tx, user_id).await?;
    let gone = sqlx::query!("DELETE FROM api_keys WHERE id = ? AND user_id = ?", id, user_id)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    if gone.rows_affected() == 0 {
        return Err(Failure::new(ErrorCode::NoSuchRoute).saying("No such API key"));
    }
    let change = Change::SessionEnded { session_id: id.to_owned() };
    let sequence = events::append(tx, user_id, &change).await?;
    let details = json!({ "api_key_id": id });
    audit::record(tx, by, Action::ApiKeyRevoked, Some(user_id), Some(sequence), details).await
}

/// Removes the keys of an account that the caller has locked, and gives their ids. Tokens that stand for them die with the
/// events that the caller appends.
///
/// # Errors
/// GW001 when the database is away.
pub async fn remove_all(tx: &mut MySqlConnection, user_id: &str) -> Outcome<Vec<String>> {
    let ids = sqlx::query_scalar!("SELECT id FROM api_keys WHERE user_id = ?", user_id)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
    if !ids.is_empty() {
        sqlx::query!("DELETE FROM api_keys WHERE user_id = ?", user_id).execute(tx).await.map_err(failed)?;
    }
    Ok(ids)
}

/// An access token that stands for a key.
///
/// # Errors
/// AUTH002 when the key has expired; AUTH003 when it is none, was revoked, or its account is disabled.
pub async fn redeem(identity: &Identity, key: &str) -> Outcome<String> {
    if !api_key::is_well_formed(key) {
        return Err(no_such_key());
    }
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    let found = sqlx::query!(
        r#"SELECT id, user_id, scope, expires_at AS "expires_at: DateTime<Utc>",
                  last_used_at AS "last_used_at: DateTime<Utc>", UTC_TIMESTAMP(6) AS "now: DateTime<Utc>"
           FROM api_keys WHERE key_hash = ?"#,
        hash(key)
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let found = found.ok_or_else(no_such_key)?;
    let left = (found.expires_at - found.now).to_std().unwrap_or_default();
    if left.is_zero() {
        return Err(Failure::new(ErrorCode::TokenExpired).saying("The API key has expired"));
    }
    let account = match accounts::find(&mut connection, &found.user_id).await {
        Ok(account) if account.is_active => account,
        Err(failure) if failure.code() != ErrorCode::UserNotFound => return Err(failure),
        Ok(_) | Err(_) => return Err(no_such_key()),
    };
    drop(connection);
    if found.last_used_at.is_none_or(|last| last + USE_INTERVAL < found.now) {
        let used = sqlx::query!("UPDATE api_keys SET last_used_at = ? WHERE id = ?", found.now, found.id);
        write(&identity.pool, used).await?;
    }
    token(identity, &account, &found.id, Scope::from(found.scope), (found.now, left)).await
}

fn no_such_key() -> Failure {
    Failure::new(ErrorCode::TokenInvalid).saying("The API key is not valid")
}

/// Signs a token of a key, which does not outlive the key.
async fn token(
    identity: &Identity,
    account: &Account,
    key_id: &str,
    scope: Scope,
    (shared, left): (DateTime<Utc>, Duration),
) -> Outcome<String> {
    let (tokens, now) = (&identity.tokens, agreed_with(shared));
    let expires = now + tokens.lifetimes.access_token.min(left);
    if !tokens.noted.covers(expires) {
        tokens.noted.note(&identity.pool, tokens.lifetimes.access_token).await?;
    }
    let (scope, key_exp) = (Some(scope), Some((now + left).timestamp()));
    let claims = Claims { scope, key_exp, ..tokens.claims(account, key_id, now, expires) };
    tokens.keys.keys().signer.sign(&claims.narrowed()).map_err(Failure::internal)
}

/// Until when a key is good, if it is and its account active.
///
/// # Errors
/// GW001 when the database is away.
pub async fn good_until(
    connection: &mut MySqlConnection,
    id: &str,
    user_id: &str,
) -> Outcome<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"SELECT api_keys.expires_at AS "expires_at: DateTime<Utc>"
           FROM api_keys JOIN users ON users.id = api_keys.user_id
           WHERE api_keys.id = ? AND users.id = ? AND api_keys.expires_at > UTC_TIMESTAMP(6)
             AND users.is_active = TRUE"#,
        id,
        user_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)
}

/// Removes keys that have expired long ago, for as long as the process lives.
pub async fn sweep(pool: MySqlPool) {
    sweep::sweep(pool, "old API keys", forget).await;
}

/// One step.
pub fn forget(connection: &mut MySqlConnection, now: DateTime<Utc>) -> sweep::Step<'_> {
    let old = sqlx::query!("DELETE FROM api_keys WHERE expires_at < ? LIMIT 1000", now - SHOWN);
    Box::pin(old.execute(connection))
}
