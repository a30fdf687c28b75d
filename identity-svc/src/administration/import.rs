//! Importing accounts, some rows a call. What is there stays as it is, so that the same rows may come again.

use std::collections::{HashMap, HashSet};

use chassis::clock::now;
use chassis::mysql::{failed, transaction};
use chrono::{DateTime, SubsecRound, Utc};
use contract::identity::{ImportFault, ImportUsersRequest, ImportUsersResponse, ImportedRow};
use contract::{Failure, MAX_IMPORT_PASSWORDS, MAX_IMPORT_ROWS, Outcome, Role, from_timestamp};
use secrecy::SecretString;
use serde_json::json;
use sqlx::{MySql, MySqlConnection, QueryBuilder};
use uuid::Uuid;

use super::{Actor, phc};
use crate::audit::{self, Action};
use crate::email::Email;
use crate::identity::Identity;
use crate::newcomers;
use crate::password;
use crate::profiles::{COMPANY, FIRST_NAME, LAST_NAME};
use crate::sign_in::is_client_id;

/// How somebody who was imported signs in.
enum Secret {
    Hash(String),
    Password(SecretString),
    /// Not at all, until a password is set.
    Nothing,
}

/// A row that can become an account.
struct NewUser {
    row: u64,
    email: Email,
    secret: Secret,
    first_name: Option<String>,
    last_name: Option<String>,
    company: Option<String>,
    email_verified: bool,
    is_active: bool,
    created_at: DateTime<Utc>,
}

/// Makes the accounts that are not there yet.
///
/// # Errors
/// AUTH004, REQ001; GW003 when too many passwords wait to be hashed: nothing was changed then.
pub async fn import(
    identity: &Identity,
    actor: &Actor,
    request: ImportUsersRequest,
) -> Outcome<ImportUsersResponse> {
    check(&request)?;
    let client_id = &request.client_id;
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    let mut answer = ImportUsersResponse::default();
    let mut users = Vec::new();
    for row in request.rows {
        match read(row, identity.min_password_length) {
            Ok(user) => users.push(user),
            Err(faults) => refuse(&mut answer, faults),
        }
    }
    let owners = owners(&mut connection, &users).await?;
    drop(connection);
    let mut seen = HashSet::new();
    users.retain(|user| match owners.get(user.email.as_str()) {
        Some(owner) if owner != client_id => {
            let taken = fault(user.row, "email", "is that of an account of another client");
            refuse(&mut answer, vec![taken]);
            false
        }
        Some(_) => {
            answer.unchanged += 1;
            false
        }
        None if seen.insert(user.email.clone()) => true,
        None => {
            answer.unchanged += 1;
            false
        }
    });
    let wanted = users.len() as u64;
    if !request.dry_run && wanted > 0 {
        let hashed = hash_all(identity, users).await?;
        answer.created = insert_all(identity, actor, client_id, &hashed).await?;
    } else {
        answer.created = wanted;
    }
    // Another import may have made some in between.
    answer.unchanged += wanted - answer.created;
    Ok(answer)
}

fn check(request: &ImportUsersRequest) -> Outcome<()> {
    if !is_client_id(&request.client_id) {
        let fault = "must have 1 to 100 letters, digits, dots, hyphens or underscores";
        return Err(Failure::field("client_id", fault));
    }
    let passwords = request.rows.iter().filter(|row| row.password.is_some()).count();
    if request.rows.len() > MAX_IMPORT_ROWS || passwords > MAX_IMPORT_PASSWORDS {
        let fault =
            format!("must have at most {MAX_IMPORT_ROWS}, {MAX_IMPORT_PASSWORDS} of them with a password");
        return Err(Failure::field("rows", fault));
    }
    Ok(())
}

/// Counts a row that was refused.
fn refuse(answer: &mut ImportUsersResponse, faults: Vec<ImportFault>) {
    answer.failed += 1;
    answer.faults.extend(faults);
}

fn fault(row: u64, field: &str, message: impl Into<String>) -> ImportFault {
    ImportFault { row, field: field.to_owned(), message: message.into() }
}

/// What a row asks for, or every fault that it has.
fn read(row: ImportedRow, min_password_length: usize) -> Result<NewUser, Vec<ImportFault>> {
    let mut faults = Vec::new();
    let number = row.row;
    let mut wrong = |field: &str, message: String| faults.push(fault(number, field, message));
    let email = Email::parse(&row.email).map_err(|fault| wrong("email", fault.to_string())).ok();
    for (limit, value) in
        [(FIRST_NAME, &row.first_name), (LAST_NAME, &row.last_name), (COMPANY, &row.company)]
    {
        if let Some(message) = limit.fault(value.as_deref()) {
            wrong(limit.field, message);
        }
    }
    let secret = match (row.password_hash, row.password, &email) {
        (Some(_), Some(_), _) => {
            wrong("password", "must not be given beside password_hash".to_owned());
            Secret::Nothing
        }
        (Some(hash), None, _) => {
            if let Err(message) = phc::check(&hash) {
                wrong("password_hash", message);
            }
            Secret::Hash(hash)
        }
        (None, Some(typed), Some(email)) => {
            match password::check(&typed, "password", min_password_length, email) {
                Ok(password) => Secret::Password(password),
                Err(failure) => {
                    let message = failure.fields().values().next().cloned();
                    wrong("password", message.unwrap_or_else(|| failure.message().to_owned()));
                    Secret::Nothing
                }
            }
        }
        (None, _, _) => Secret::Nothing,
    };
    let now = now();
    let created_at = row.created_at.map_or(Some(now), from_timestamp).map(|time| time.trunc_subsecs(6));
    let created_at = created_at.filter(|time| (DateTime::UNIX_EPOCH..=now).contains(time));
    if created_at.is_none() {
        wrong("created_at", "must be a time since 1970 that has passed".to_owned());
    }
    match (email, created_at) {
        (Some(email), Some(created_at)) if faults.is_empty() => Ok(NewUser {
            row: number,
            email,
            secret,
            first_name: row.first_name,
            last_name: row.last_name,
            company: row.company,
            email_verified: row.email_verified.unwrap_or(false),
            is_active: row.is_active.unwrap_or(true),
            created_at,
        }),
        _ => Err(faults),
    }
}

/// The clients of those accounts that are there already, by e-mail.
async fn owners(connection: &mut MySqlConnection, users: &[NewUser]) -> Outcome<HashMap<String, String>> {
    if users.is_empty() {
        return Ok(HashMap::new());
    }
    let mut statement = QueryBuilder::new("SELECT email, client_id FROM users WHERE email IN (");
    let mut list = statement.separated(", ");
    for user in users {
        list.push_bind(user.email.as_str());
    }
    statement.push(")");
    let rows: Vec<(String, String)> =
        statement.build_query_as().fetch_all(connection).await.map_err(failed)?;
    Ok(rows.into_iter().collect())
}

/// An account as it is written.
struct Hashed {
    id: String,
    password_hash: String,
    user: NewUser,
}

/// Hashes the passwords, one after the other, so that an import takes one place of those that sign-ins wait in.
async fn hash_all(identity: &Identity, users: Vec<NewUser>) -> Outcome<Vec<Hashed>> {
    let mut hashed = Vec::with_capacity(users.len());
    for mut user in users {
        let password_hash = match std::mem::replace(&mut user.secret, Secret::Nothing) {
            Secret::Hash(hash) => hash,
            Secret::Password(password) => identity.hasher.hash(password).await?,
            Secret::Nothing => identity.hasher.unusable().await?,
        };
        hashed.push(Hashed { id: Uuid::now_v7().to_string(), password_hash, user });
    }
    Ok(hashed)
}

/// Writes the accounts and gives how many were not there yet.
async fn insert_all(
    identity: &Identity,
    actor: &Actor,
    client_id: &str,
    accounts: &[Hashed],
) -> Outcome<u64> {
    let given = (actor, client_id, accounts);
    transaction(&identity.pool, "import_accounts", given, |tx, (actor, client_id, accounts)| {
        Box::pin(async move {
            actor.must_administer(tx).await?;
            insert_users(tx, client_id, accounts).await?;
            let made = made(tx, accounts).await?;
            let made: Vec<&Hashed> = accounts.iter().filter(|account| made.contains(&account.id)).collect();
            if made.is_empty() {
                return Ok(0);
            }
            insert_profiles(tx, &made).await?;
            insert_versions(tx, &made).await?;
            newcomers::add_all(tx, made.iter().map(|account| account.id.as_str())).await?;
            let targets = made.iter().map(|account| account.id.as_str());
            let imported = Action::AccountImported;
            audit::record_all(tx, actor.by(), imported, targets, json!({ "client_id": client_id })).await?;
            Ok(made.len() as u64)
        })
    })
    .await
}

/// The unique key decides who is there already: another import, or a registration, may run at the same time.
async fn insert_users(tx: &mut MySqlConnection, client_id: &str, accounts: &[Hashed]) -> Outcome<()> {
    let now = now();
    let mut statement = QueryBuilder::<MySql>::new(
        "INSERT INTO users (id, email, password_hash, role, client_id, is_active, email_verified, created_at, \
         updated_at) ",
    );
    statement.push_values(accounts, |mut row, Hashed { id, password_hash, user }| {
        row.push_bind(id).push_bind(user.email.as_str()).push_bind(password_hash);
        row.push_bind(Role::User.name()).push_bind(client_id);
        row.push_bind(user.is_active).push_bind(user.email_verified);
        row.push_bind(user.created_at).push_bind(now);
    });
    statement.push(" ON DUPLICATE KEY UPDATE email = users.email");
    statement.build().execute(tx).await.map_err(failed)?;
    Ok(())
}

/// The ids of those accounts that were inserted.
async fn made(tx: &mut MySqlConnection, accounts: &[Hashed]) -> Outcome<HashSet<String>> {
    let mut statement = QueryBuilder::<MySql>::new("SELECT id FROM users WHERE id IN (");
    let mut list = statement.separated(", ");
    for account in accounts {
        list.push_bind(&account.id);
    }
    statement.push(")");
    let ids: Vec<String> = statement.build_query_scalar().fetch_all(tx).await.map_err(failed)?;
    Ok(ids.into_iter().collect())
}

async fn insert_profiles(tx: &mut MySqlConnection, accounts: &[&Hashed]) -> Outcome<()> {
    let now = now();
    let mut statement = QueryBuilder::<MySql>::new(
        "INSERT INTO user_profiles (user_id, first_name, last_name, company, preferences, created_at, updated_at) ",
    );
    statement.push_values(accounts, |mut row, Hashed { id, user, .. }| {
        row.push_bind(id);
        row.push_bind(&user.first_name).push_bind(&user.last_name).push_bind(&user.company);
        row.push("'{}'").push_bind(user.created_at).push_bind(now);
    });
    statement.build().execute(tx).await.map_err(failed)?;
    Ok(())
}

async fn insert_versions(tx: &mut MySqlConnection, accounts: &[&Hashed]) -> Outcome<()> {
    let mut statement =
        QueryBuilder::<MySql>::new("INSERT INTO account_versions (user_id, version, tier_revision) ");
    statement.push_values(accounts, |mut row, account| {
        row.push_bind(&account.id).push("1").push("0");
    });
    statement.build().execute(tx).await.map_err(failed)?;
    Ok(())
}
