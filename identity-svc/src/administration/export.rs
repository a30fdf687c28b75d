//! Exporting accounts, page by page in the order of their ids, so that memory stays flat and no transaction is held
//! open however many there are. Accounts that are made or removed meanwhile may be in it or not.

use std::time::Duration;

use chassis::mysql::{failed, in_time, transaction};
use contract::identity::{ExportUsersRequest, User};
use contract::{ErrorCode, Failure, Outcome, UserField};
use serde_json::json;
use sqlx::{MySqlPool, QueryBuilder};

use super::Actor;
use super::filter::Filter;
use super::list::{COLUMNS, Row};
use crate::audit::{self, Action};
use crate::identity::Identity;

/// Accounts of one page.
const PAGE: usize = 500;
/// The longest that reading one may take; the server is told the same.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// An export on its way.
pub struct Export {
    pool: MySqlPool,
    filter: Filter,
    /// The last id that was read; `None` at the end.
    last: Option<String>,
}

impl Export {
    /// Begins an export and keeps that in the audit log.
    ///
    /// # Errors
    /// AUTH004; REQ001 with every field that is wrong.
    pub async fn begin(identity: &Identity, actor: &Actor, request: ExportUsersRequest) -> Outcome<Export> {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        let given = request.filter.unwrap_or_default();
        let filters = json!({
            "email": given.email, "client_id": given.client_id, "role": given.role, "tier": given.tier,
            "is_active": given.is_active,
        });
        let filter = Filter::parse(given, &mut failure);
        if let Some(fault) = request.fields.iter().find_map(|name| name.parse::<UserField>().err()) {
            failure.add_field("fields", fault);
        }
        if !matches!(request.format.as_str(), "csv" | "json") {
            failure.add_field("format", "must be one of csv, json");
        }
        if !failure.fields().is_empty() {
            return Err(failure);
        }
        let details = json!({ "format": request.format, "fields": request.fields, "filters": filters });
        transaction(&identity.pool, "begin_export", (actor, details), |tx, (actor, details)| {
            Box::pin(async move {
                actor.must_administer(tx).await?;
                let exported = Action::UsersExported;
                audit::record(tx, actor.by(), exported, None, None, details.clone()).await
            })
        })
        .await?;
        Ok(Export { pool: identity.pool.clone(), filter, last: Some(String::new()) })
    }

    /// The next accounts; `None` at the end.
    ///
    /// # Errors
    /// GW001 when the database is away.
    pub async fn next(&mut self) -> Outcome<Option<Vec<User>>> {
        let Some(last) = self.last.take() else { return Ok(None) };
        // A filter that admits few has a page read much.
        let mut statement = QueryBuilder::new(
            "/*M!100101 SET STATEMENT max_statement_time = 30 FOR */ SELECT /*+ MAX_EXECUTION_TIME(30000) */ ",
        );
        // By the primary key whatever the filter: with another index each page would read and sort all that the
        // filter admits.
        statement.push(COLUMNS).push(
            " FROM users FORCE INDEX (PRIMARY)
              STRAIGHT_JOIN user_profiles ON user_profiles.user_id = users.id
              WHERE users.id > ",
        );
        statement.push_bind(last);
        self.filter.restrict(&mut statement);
        statement.push(" ORDER BY users.id LIMIT ").push_bind(PAGE as u64);
        let page = async { statement.build_query_as().fetch_all(&self.pool).await.map_err(failed) };
        let rows: Vec<Row> = in_time(PAGE_LIMIT, page).await?;
        if rows.len() == PAGE {
            self.last = rows.last().map(|row| row.id.clone());
        }
        let users: Outcome<Vec<User>> = rows.into_iter().map(User::try_from).collect();
        Ok(Some(users?).filter(|users| !users.is_empty()))
    }
}
