//! Projects. The owner sees them within the client that they were made in; holders of `projects.manage` see all of
//! their client's. Whoever may not see a project learns only that it is not there.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::mysql::{failed, transaction, write};
use chrono::{DateTime, Utc};
use contract::identity::{ListProjectsResponse, Project};
use contract::{ErrorCode, Failure, MANAGE_PROJECTS, Outcome, Resource, to_timestamp};
use sqlx::MySqlConnection;
use uuid::Uuid;

use crate::accounts::{self, Account};
use crate::identity::Identity;
use crate::project_days;
use chassis::clock::now;

const MAX_NAME: usize = 255;
/// What the column holds, in bytes.
const MAX_DESCRIPTION: usize = 16 * 1024;
const DEFAULT_PAGE: i32 = 50;
const MAX_PAGE: i32 = 100;

struct Row {
    id: String,
    client_id: String,
    name: String,
    description: Option<String>,
    owner_id: String,
    is_active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        let Row { id, client_id, name, description, owner_id, is_active, created_at, updated_at } = row;
        let (created_at, updated_at) = (Some(to_timestamp(created_at)), Some(to_timestamp(updated_at)));
        Project { id, client_id, name, description, owner_id, is_active, created_at, updated_at }
    }
}

/// Whose projects an account sees: its own, or, as a manager, everybody's of its client.
fn owner_filter(actor: &Account) -> Option<&str> {
    (!actor.holds(MANAGE_PROJECTS)).then_some(actor.id.as_str())
}

/// Who acts.
#[derive(Clone, Copy)]
pub struct Actor<'a> {
    pub id: &'a str,
    /// Whether to see no projects of others, whatever the account may.
    pub own_only: bool,
}

/// The acting account, which must be active.
async fn acting(connection: &mut MySqlConnection, actor: Actor<'_>) -> Outcome<Account> {
    let mut account = accounts::find(connection, actor.id).await?;
    if !account.is_active {
        return Err(Failure::new(ErrorCode::Forbidden));
    }
    if actor.own_only {
        account.permissions.clear();
    }
    Ok(account)
}

/// A page of projects, newest first.
///
/// # Errors
/// REQ001 for a limit or cursor that is none.
pub async fn list(
    identity: &Identity,
    actor: Actor<'_>,
    limit: i32,
    cursor: &str,
) -> Outcome<ListProjectsResponse> {
    let limit = match limit {
        0 => DEFAULT_PAGE,
        1..=MAX_PAGE => limit,
        _ => return Err(Failure::field("limit", format!("must be 1 to {MAX_PAGE}"))),
    };
    let after = if cursor.is_empty() { None } else { Some(Cursor::parse(cursor)?) };
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    let actor = acting(&mut connection, actor).await?;
    let owner = owner_filter(&actor);
    let count = sqlx::query_scalar!(
        "SELECT COUNT(*) FROM projects WHERE client_id = ? AND (? IS NULL OR owner_id = ?)",
        actor.client_id,
        owner,
        owner
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let (time, id) = after.map_or((None, None), |cursor| (Some(cursor.time), Some(cursor.id)));
    let mut rows = sqlx::query_as!(
        Row,
        r#"SELECT id, client_id, name, description, owner_id, is_active AS "is_active: bool",
                  created_at AS "created_at: DateTime<Utc>", updated_at AS "updated_at: DateTime<Utc>"
           FROM projects
           WHERE client_id = ? AND (? IS NULL OR owner_id = ?)
             AND (? IS NULL OR created_at < ? OR (created_at = ? AND id < ?))
           ORDER BY created_at DESC, id DESC LIMIT ?"#,
        actor.client_id,
        owner,
        owner,
        time,
        time,
        time,
        id,
        limit + 1
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().filter(|_| more).map(|row| Cursor::of(row).to_string()).unwrap_or_default();
    Ok(ListProjectsResponse { projects: rows.into_iter().map(Project::from).collect(), count, next_cursor })
}

/// Makes a project, if the owner has fewer than `limit` (below zero: unlimited). Concurrent calls for one owner wait
/// for each other, so that exactly `limit` are admitted. A call for an `id` that the owner has already made gives what
/// is there.
///
/// # Errors
/// REQ001; USER001; SUB002 with resource, limit and used.
pub async fn create(
    identity: &Identity,
    actor_id: &str,
    id: Option<&str>,
    name: &str,
    description: Option<&str>,
    limit: i64,
) -> Outcome<Project> {
    let name = checked_name(name)?;
    let description = checked_description(description)?;
    // Who has none left is told so by a look alone: those who wait for the owner's lock hold connections that others
    // need.
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    if !is_made(&mut connection, actor_id, id).await? {
        must_have_room(&mut connection, actor_id, limit).await?;
    }
    drop(connection);
    let given = (actor_id, id, name, description);
    let actor = Actor { id: actor_id, own_only: true };
    // What is there may be removed before it is read.
    for _ in 0..2 {
        let work = "create_project";
        let made = transaction(&identity.pool, work, given, move |tx, (actor_id, id, name, description)| {
            Box::pin(async move {
                accounts::lock(tx, actor_id).await?;
                let account = acting(tx, actor).await?;
                if is_made(tx, actor_id, *id).await? {
                    return Ok(None);
                }
                must_have_room(tx, actor_id, limit).await?;
                let project = insert(tx, &account, *id, name, *description).await?;
                project_days::keep(tx, actor_id).await?;
                Ok(Some(project))
            })
        });
        if let Some(project) = made.await? {
            return Ok(project);
        }
        match get(identity, actor, id.unwrap_or_default()).await {
            Err(failure) if failure.code() == ErrorCode::ProjectNotFound => {}
            found => return found,
        }
    }
    Err(Failure::new(ErrorCode::ProjectNotFound))
}

/// Whether the call was made before: the owner has the project already.
async fn is_made(connection: &mut MySqlConnection, actor_id: &str, id: Option<&str>) -> Outcome<bool> {
    match id {
        Some(id) => Ok(owner(connection, id).await?.is_some_and(|owner| owner == actor_id)),
        None => Ok(false),
    }
}

async fn must_have_room(connection: &mut MySqlConnection, owner_id: &str, limit: i64) -> Outcome<()> {
    let used = count(connection, owner_id).await?;
    if limit < 0 || used < limit {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::QuotaExceeded)
        .with_fact("resource", Resource::Projects)
        .with_fact("limit", limit)
        .with_fact("used", used))
}

async fn insert(
    tx: &mut MySqlConnection,
    actor: &Account,
    id: Option<&str>,
    name: &str,
    description: Option<&str>,
) -> Outcome<Project> {
    let (id, now) = (id.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned), now());
    sqlx::query!(
        "INSERT INTO projects (id, client_id, name, description, owner_id, is_active, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, TRUE, ?, ?)",
        id,
        actor.client_id,
        name,
        description,
        actor.id,
        now,
        now
    )
    .execute(tx)
    .await
    .map_err(failed)?;
    // As it is now, without asking for it: it may be long, and whoever breaks off its answer would leave the lock behind.
    Ok(Project::from(Row {
        id,
        client_id: actor.client_id.clone(),
        name: name.to_owned(),
        description: description.map(str::to_owned),
        owner_id: actor.id.clone(),
        is_active: true,
        created_at: now,
        updated_at: now,
    }))
}

async fn owner(connection: &mut MySqlConnection, id: &str) -> Outcome<Option<String>> {
    sqlx::query_scalar!("SELECT owner_id FROM projects WHERE id = ?", id)
        .fetch_optional(connection)
        .await
        .map_err(failed)
}

/// How many projects a user owns.
///
/// # Errors
/// GW001 when the database is away.
pub async fn count(connection: &mut MySqlConnection, user_id: &str) -> Outcome<i64> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM projects WHERE owner_id = ?", user_id)
        .fetch_one(connection)
        .await
        .map_err(failed)
}

async fn visible(connection: &mut MySqlConnection, actor: &Account, project_id: &str) -> Outcome<Project> {
    let owner = owner_filter(actor);
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, client_id, name, description, owner_id, is_active AS "is_active: bool",
                  created_at AS "created_at: DateTime<Utc>", updated_at AS "updated_at: DateTime<Utc>"
           FROM projects WHERE id = ? AND client_id = ? AND (? IS NULL OR owner_id = ?)"#,
        project_id,
        actor.client_id,
        owner,
        owner
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    row.map(Project::from).ok_or_else(|| Failure::new(ErrorCode::ProjectNotFound))
}

/// One project.
///
/// # Errors
/// PROJ001, also for another owner's.
pub async fn get(identity: &Identity, actor: Actor<'_>, project_id: &str) -> Outcome<Project> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    let actor = acting(&mut connection, actor).await?;
    visible(&mut connection, &actor, project_id).await
}

/// Changes what is given; an empty description clears it.
///
/// # Errors
/// REQ001, PROJ001.
pub async fn update(
    identity: &Identity,
    actor: Actor<'_>,
    project_id: &str,
    name: Option<&str>,
    description: Option<&str>,
) -> Outcome<Project> {
    let name = name.map(checked_name).transpose()?;
    let clears = description == Some("");
    let description = checked_description(description)?;
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    let actor = acting(&mut connection, actor).await?;
    drop(connection);
    let owner = owner_filter(&actor);
    let changed = sqlx::query!(
        "UPDATE projects
         SET name = COALESCE(?, name), description = IF(?, NULL, COALESCE(?, description)), updated_at = ?
         WHERE id = ? AND client_id = ? AND (? IS NULL OR owner_id = ?)",
        name,
        clears,
        description,
        now(),
        project_id,
        actor.client_id,
        owner,
        owner
    );
    write(&identity.pool, changed).await?;
    visible(&mut *identity.pool.acquire().await.map_err(failed)?, &actor, project_id).await
}

/// Removes a project, which frees its quota.
///
/// # Errors
/// PROJ001.
pub async fn remove(identity: &Identity, actor: Actor<'_>, project_id: &str) -> Outcome<()> {
    transaction(&identity.pool, "remove_project", (actor, project_id), |tx, (actor, project_id)| {
        Box::pin(async move {
            let actor = acting(tx, *actor).await?;
            let filter = owner_filter(&actor);
            let owner = sqlx::query_scalar!(
                "SELECT owner_id FROM projects WHERE id = ? AND client_id = ? AND (? IS NULL OR owner_id = ?)",
                project_id,
                actor.client_id,
                filter,
                filter
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
            let owner = owner.ok_or_else(|| Failure::new(ErrorCode::ProjectNotFound))?;
            accounts::lock(tx, &owner).await?;
            // Whoever was quicker has removed it meanwhile.
            let done = sqlx::query!("DELETE FROM projects WHERE id = ?", project_id)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            if done.rows_affected() == 0 {
                return Err(Failure::new(ErrorCode::ProjectNotFound));
            }
            project_days::keep(tx, &owner).await
        })
    })
    .await
}

fn checked_name(name: &str) -> Outcome<&str> {
    let name = name.trim();
    let good = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if good { Ok(name) } else { Err(Failure::field("name", format!("must have 1 to {MAX_NAME} characters"))) }
}

fn checked_description(description: Option<&str>) -> Outcome<Option<&str>> {
    if description.is_some_and(|text| text.len() > MAX_DESCRIPTION) {
        return Err(Failure::field("description", format!("must have at most {MAX_DESCRIPTION} bytes")));
    }
    let is_layout = |c: char| matches!(c, '\n' | '\r' | '\t');
    if description.is_some_and(|text| text.chars().any(|c| c.is_control() && !is_layout(c))) {
        return Err(Failure::field("description", "must not have control characters but tabs and line ends"));
    }
    Ok(description.filter(|text| !text.is_empty()))
}

/// Where a page ended.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    time: DateTime<Utc>,
    id: String,
}

impl Cursor {
    fn of(row: &Row) -> Self {
        Cursor { time: row.created_at, id: row.id.clone() }
    }

    fn parse(text: &str) -> Outcome<Self> {
        let read = || {
            let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let (micros, id) = plain.split_once('/')?;
            crate::identity::id("cursor", id).ok()?;
            Some(Cursor { time: DateTime::from_timestamp_micros(micros.parse().ok()?)?, id: id.to_owned() })
        };
        read().ok_or_else(|| Failure::field("cursor", "is not one that was given out"))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("{}/{}", self.time.timestamp_micros(), self.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let cursor = Cursor { time: now(), id: Uuid::now_v7().to_string() };
        assert_eq!(Cursor::parse(&cursor.to_string()).expect("read"), cursor);
        for text in ["x", "", "MTIz", "é"] {
            assert!(Cursor::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_cursor_panic(text in ".{0,40}") {
            let _ = Cursor::parse(&text);
        }
    }
}
