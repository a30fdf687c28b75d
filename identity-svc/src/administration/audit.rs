//! The audit log: of an account, what was done to it and what it did to others; and of all.

use chassis::mysql::failed;
use chrono::{DateTime, TimeDelta, Utc};
use contract::identity::{AuditEntry, AuditFilter, ListAuditRequest, ListAuditResponse};
use contract::{
    AuditAction, ErrorCode, Failure, NOT_AN_ID, Outcome, from_timestamp, is_canonical_id, to_timestamp,
};
use prost_types::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, MySql, MySqlConnection, QueryBuilder};

use super::Actor;
use super::filter::named;
use crate::accounts;
use crate::identity::Identity;

const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 100;
/// Above every id.
const FIRST_CURSOR: &str = "g";
/// How far the time in an id may be from that of its entry: both are read when it is written, one after the other.
const APART: TimeDelta = TimeDelta::seconds(1);

/// Entries, newest first. The log of an account that was deleted can still be read.
///
/// # Errors
/// AUTH004; USER001 when all of an account is asked for and there is neither such an account nor an entry; REQ001 for
/// what is wrong with the request.
pub async fn list(
    identity: &Identity,
    actor: &Actor,
    request: ListAuditRequest,
) -> Outcome<ListAuditResponse> {
    let is_whole = !request.user_id.is_empty() && request.filter.is_none();
    let page = Page::parse(&request)?;
    let sought = Sought::parse(request)?;
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    let mut entries = read(&mut connection, &sought, &page).await?;
    if entries.is_empty() && page.before == FIRST_CURSOR && is_whole {
        match accounts::find(&mut connection, &sought.account).await {
            Err(failure) if failure.code() == ErrorCode::UserNotFound => return Err(failure),
            _ => {}
        }
    }
    let more = entries.len() > page.limit;
    entries.truncate(page.limit);
    let next_cursor = entries.last().filter(|_| more).map(|entry| entry.id.clone()).unwrap_or_default();
    Ok(ListAuditResponse { entries, next_cursor })
}

/// Which part of the log.
struct Page {
    limit: usize,
    /// Ids are made in the order of time, so that the last one of a page is where the next begins.
    before: String,
}

impl Page {
    fn parse(request: &ListAuditRequest) -> Outcome<Page> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit @ 1..=MAX_LIMIT => limit,
            _ => return Err(Failure::field("limit", format!("must be 1 to {MAX_LIMIT}"))),
        };
        let before = match request.cursor.as_str() {
            "" => FIRST_CURSOR,
            cursor if is_canonical_id(cursor) => cursor,
            _ => return Err(Failure::field("cursor", "must be the next_cursor of an earlier answer")),
        };
        Ok(Page { limit: limit as usize, before: before.to_owned() })
    }
}

/// Which entries.
#[derive(Default)]
struct Sought {
    /// Who did it or whom it was done to; empty for all.
    account: String,
    by: Option<String>,
    target: Option<String>,
    action: Option<AuditAction>,
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl Sought {
    fn parse(request: ListAuditRequest) -> Outcome<Sought> {
        let AuditFilter { action, by_id, target_id, from, until } = request.filter.unwrap_or_default();
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        let ids = [
            ("user_id", Some(&request.user_id).filter(|id| !id.is_empty())),
            ("actor_id", by_id.as_ref()),
            ("target_id", target_id.as_ref()),
        ];
        for (field, id) in ids {
            if id.is_some_and(|id| !is_canonical_id(id)) {
                failure.add_field(field, NOT_AN_ID);
            }
        }
        let action = named("action", action.as_deref(), &mut failure);
        if !failure.fields().is_empty() {
            return Err(failure);
        }
        let (from, until) = (moment(from), moment(until));
        Ok(Sought { account: request.user_id, by: by_id, target: target_id, action, from, until })
    }

    /// Each way to the entries, by a column that names the account, with the index to go by. The server would rather walk
    /// the whole log than trust that there is something to find.
    fn ways(&self) -> Vec<(Option<&'static str>, &'static str)> {
        const TARGET: &str = "ix_audit_log_target";
        const ACTOR: &str = "ix_audit_log_actor";
        if !self.account.is_empty() {
            return vec![(Some("target_id"), TARGET), (Some("actor_id"), ACTOR)];
        }
        let index = match (&self.target, &self.by, self.action) {
            (Some(_), ..) => TARGET,
            (_, Some(_), _) => ACTOR,
            (.., Some(_)) => "ix_audit_log_action",
            _ => "PRIMARY",
        };
        vec![(None, index)]
    }

    /// Adds a query for the ids of a page, which goes by one index.
    fn ids(&self, (column, index): (Option<&str>, &str), page: &Page, statement: &mut QueryBuilder<MySql>) {
        statement.push(format_args!("SELECT id FROM audit_log FORCE INDEX ({index}) WHERE id < "));
        statement.push_bind(page.before.clone());
        if let Some(column) = column {
            statement.push(format_args!(" AND {column} = ")).push_bind(self.account.clone());
        }
        for (condition, value) in [
            (" AND target_id = ", self.target.clone()),
            (" AND actor_id = ", self.by.clone()),
            (" AND action = ", self.action.map(|action| action.name().to_owned())),
            (" AND id >= ", self.from.map(|from| earliest_id(from, -APART))),
            (" AND id < ", self.until.map(|until| earliest_id(until, APART))),
        ] {
            if let Some(value) = value {
                statement.push(condition).push_bind(value);
            }
        }
        for (condition, time) in [(" AND at >= ", self.from), (" AND at < ", self.until)] {
            if let Some(time) = time {
                statement.push(condition).push_bind(time);
            }
        }
        statement.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit as i64 + 1);
    }
}

/// The moment nearest to what is given that the table can hold, if one is given.
fn moment(told: Option<Timestamp>) -> Option<DateTime<Utc>> {
    /// The end of the year 9999.
    const LAST: i64 = 253_402_300_799;
    let Timestamp { seconds, nanos } = told?;
    from_timestamp(Timestamp { seconds: seconds.clamp(0, LAST), nanos: nanos.clamp(0, 999_999_999) })
}

/// What the ids of entries from so long after a moment on are not below (RFC 9562 section 5.7).
fn earliest_id(moment: DateTime<Utc>, after: TimeDelta) -> String {
    const LARGEST: i64 = (1 << 48) - 1;
    let milliseconds = (moment.timestamp_millis() + after.num_milliseconds()).clamp(0, LARGEST);
    format!("{:08x}-{:04x}", milliseconds >> 16, milliseconds & 0xffff)
}

#[derive(FromRow)]
struct Row {
    id: String,
    at: DateTime<Utc>,
    actor_id: Option<String>,
    action: String,
    target_id: Option<String>,
    ip_address: String,
    request_id: String,
    details: Json<Value>,
}

/// Each way is read from its own index, so that a long log costs no more than a page.
async fn read(connection: &mut MySqlConnection, sought: &Sought, page: &Page) -> Outcome<Vec<AuditEntry>> {
    let mut statement = QueryBuilder::<MySql>::new(
        "SELECT audit_log.id, at, actor_id, action, target_id, ip_address, request_id, details FROM (",
    );
    for (place, way) in sought.ways().into_iter().enumerate() {
        statement.push(if place == 0 { "(" } else { " UNION (" });
        sought.ids(way, page, &mut statement);
        statement.push(")");
    }
    statement.push(") AS page JOIN audit_log ON audit_log.id = page.id ORDER BY audit_log.id DESC LIMIT ");
    statement.push_bind(page.limit as i64 + 1);
    let rows: Vec<Row> = statement.build_query_as().fetch_all(connection).await.map_err(failed)?;
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        AuditEntry {
            id: row.id,
            at: Some(to_timestamp(row.at)),
            actor_id: row.actor_id,
            action: row.action,
            target_id: row.target_id,
            ip_address: row.ip_address,
            request_id: row.request_id,
            details_json: row.details.0.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_table_holds_is_the_nearest_that_one_does_and_not_none_at_all() {
        let of = |seconds, nanos| moment(Some(Timestamp { seconds, nanos })).map(|time| time.timestamp());
        assert_eq!(of(i64::MAX, i32::MAX), Some(253_402_300_799));
        assert_eq!(of(i64::MIN, i32::MIN), Some(0));
        assert_eq!((of(5, 1), moment(None)), (Some(5), None));
    }
}
