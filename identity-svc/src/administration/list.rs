//! Lists of accounts, and what is known of one.

use chassis::mysql::failed;
use chrono::{DateTime, Utc};
use contract::identity::{GetUserDetailsResponse, ListUsersRequest, ListUsersResponse, Profile, User};
use contract::{ErrorCode, Failure, Outcome, Role, UserSort, to_timestamp};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, MySql, MySqlConnection, QueryBuilder};

use super::filter::{Filter, named};
use super::{Actor, sessions};
use crate::accounts::with_those_of_the_role;
use crate::identity::Identity;
use crate::{profiles, projects, throttle};

const DEFAULT_PAGE_SIZE: i32 = 20;
const MAX_PAGE_SIZE: i32 = 100;
/// The last page that can be asked for: the server walks past all rows before it.
const MAX_PAGE: i32 = 1_000_000;

/// The columns of [`Row`]; `users` and `user_profiles` must be in the statement.
pub const COLUMNS: &str = "users.id, users.email, users.role, users.client_id, users.subscription_tier, \
     users.is_active, users.email_verified, users.created_at, users.updated_at, users.last_login_at, \
     user_profiles.first_name, user_profiles.last_name, user_profiles.company, user_profiles.phone, \
     user_profiles.avatar_url, user_profiles.updated_at AS profile_updated_at, \
     (SELECT GROUP_CONCAT(permission ORDER BY permission) FROM user_permissions \
      WHERE user_permissions.user_id = users.id) AS permissions";

/// An account with its profile as a list has it.
#[derive(FromRow)]
pub struct Row {
    pub id: String,
    email: String,
    role: String,
    client_id: String,
    subscription_tier: String,
    is_active: bool,
    email_verified: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    last_login_at: Option<DateTime<Utc>>,
    first_name: Option<String>,
    last_name: Option<String>,
    company: Option<String>,
    phone: Option<String>,
    avatar_url: Option<String>,
    profile_updated_at: DateTime<Utc>,
    permissions: Option<String>,
    #[sqlx(default)]
    preferences: Option<Json<Value>>,
}

impl TryFrom<Row> for User {
    type Error = Failure;

    fn try_from(row: Row) -> Outcome<User> {
        let role: Role = row.role.parse().map_err(Failure::internal)?;
        let granted = row.permissions.as_deref().unwrap_or_default();
        let granted = granted.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let profile = Profile {
            first_name: row.first_name,
            last_name: row.last_name,
            company: row.company,
            phone: row.phone,
            avatar_url: row.avatar_url,
            preferences_json: row.preferences.map_or_else(|| "{}".to_owned(), |json| json.0.to_string()),
        };
        Ok(User {
            id: row.id,
            email: row.email,
            role: row.role,
            client_id: row.client_id,
            subscription_tier: row.subscription_tier,
            is_active: row.is_active,
            email_verified: row.email_verified,
            created_at: Some(to_timestamp(row.created_at)),
            updated_at: Some(to_timestamp(row.updated_at.max(row.profile_updated_at))),
            last_login_at: row.last_login_at.map(to_timestamp),
            profile: Some(profile),
            permissions: with_those_of_the_role(role, granted),
        })
    }
}

/// The columns of an order, as an index has them. The id makes it whole: without it a row could be on two pages, or on
/// none.
fn columns(sort: UserSort) -> &'static [&'static str] {
    match sort {
        UserSort::CreatedAt => &["users.created_at", "users.id"],
        UserSort::UpdatedAt => &["users.updated_at", "users.id"],
        UserSort::LastLoginAt => &["users.last_login_at", "users.id"],
        UserSort::Email => &["users.email"],
        UserSort::Role => &["users.role", "users.created_at", "users.id"],
        UserSort::Tier => &["users.subscription_tier", "users.created_at", "users.id"],
        UserSort::ClientId => &["users.client_id", "users.created_at", "users.id"],
    }
}

/// Which part of the list, in which order.
struct Page {
    page: i32,
    page_size: i32,
    sort: UserSort,
    direction: &'static str,
}

impl Page {
    fn parse(request: &ListUsersRequest, failure: &mut Failure) -> Page {
        let page = if request.page == 0 { 1 } else { request.page };
        let page_size = if request.page_size == 0 { DEFAULT_PAGE_SIZE } else { request.page_size };
        if !(1..=MAX_PAGE).contains(&page) {
            failure.add_field("page", format!("must be 1 to {MAX_PAGE}"));
        }
        if !(1..=MAX_PAGE_SIZE).contains(&page_size) {
            failure.add_field("page_size", format!("must be 1 to {MAX_PAGE_SIZE}"));
        }
        let sort = Some(request.sort_by.as_str()).filter(|name| !name.is_empty());
        Page {
            page,
            page_size,
            sort: named("sort_by", sort, failure).unwrap_or(UserSort::CreatedAt),
            direction: if request.ascending { " ASC" } else { " DESC" },
        }
    }

    fn order(&self, statement: &mut QueryBuilder<MySql>) {
        let mut list = statement.push(" ORDER BY ").separated(", ");
        for column in columns(self.sort) {
            list.push(column).push_unseparated(self.direction);
        }
    }

    /// Adds a query for the ids of the page, which come from an index alone.
    fn ids(&self, filter: &Filter, statement: &mut QueryBuilder<MySql>) {
        statement.push("SELECT users.id FROM users WHERE TRUE");
        filter.restrict(statement);
        self.order(statement);
        let offset = (i64::from(self.page) - 1) * i64::from(self.page_size);
        statement.push(" LIMIT ").push_bind(self.page_size).push(" OFFSET ").push_bind(offset);
    }
}

/// A page of accounts.
///
/// # Errors
/// AUTH004; REQ001 with every field that is wrong.
pub async fn list(
    identity: &Identity,
    actor: &Actor,
    mut request: ListUsersRequest,
) -> Outcome<ListUsersResponse> {
    let mut failure = Failure::new(ErrorCode::InvalidRequest);
    let filter = Filter::parse(request.filter.take().unwrap_or_default(), &mut failure);
    let page = Page::parse(&request, &mut failure);
    if !failure.fields().is_empty() {
        return Err(failure);
    }
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    Ok(ListUsersResponse {
        total_count: count(&mut connection, &filter).await?,
        users: read(&mut connection, &filter, &page).await?,
        page: page.page,
        page_size: page.page_size,
    })
}

async fn count(connection: &mut MySqlConnection, filter: &Filter) -> Outcome<i64> {
    let mut statement = QueryBuilder::new("SELECT COUNT(*) FROM users WHERE TRUE");
    filter.restrict(&mut statement);
    statement.build_query_scalar().fetch_one(connection).await.map_err(failed)
}

/// Only the rows of the page are read whole.
async fn read(connection: &mut MySqlConnection, filter: &Filter, page: &Page) -> Outcome<Vec<User>> {
    let mut statement = QueryBuilder::new("SELECT ");
    statement.push(COLUMNS).push(", user_profiles.preferences FROM (");
    page.ids(filter, &mut statement);
    statement.push(
        ") AS page JOIN users ON users.id = page.id JOIN user_profiles ON user_profiles.user_id = users.id",
    );
    page.order(&mut statement);
    let rows: Vec<Row> = statement.build_query_as().fetch_all(connection).await.map_err(failed)?;
    rows.into_iter().map(User::try_from).collect()
}

/// An account with what an administrator asks first.
///
/// # Errors
/// AUTH004, USER001.
pub async fn details(identity: &Identity, actor: &Actor, user_id: &str) -> Outcome<GetUserDetailsResponse> {
    let mut connection = identity.pool.acquire().await.map_err(failed)?;
    actor.must_administer(&mut connection).await?;
    let user = profiles::user(&mut connection, user_id).await?;
    let guesses = identity.limits.account().of(&user.email);
    Ok(GetUserDetailsResponse {
        failed_sign_ins: throttle::attempts(&mut connection, &guesses).await?,
        user: Some(user),
        projects_count: projects::count(&mut connection, user_id).await?,
        active_sessions: sessions::count(&mut connection, user_id).await?,
    })
}

#[cfg(test)]
mod tests {
    use contract::identity::UserFilter;
    use sqlx::{AssertSqlSafe, MySqlPool, Row as _};

    use super::*;

    /// Twenty thousand accounts of ten clients, a hundredth of them moderators, a tenth disabled.
    async fn seed(pool: &MySqlPool) {
        let digits = "(SELECT 0 AS d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
                      UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
        for half in ["x", "y"] {
            let insert = format!(
                "INSERT INTO users (id, email, password_hash, role, client_id, subscription_tier, is_active,
                                    created_at, updated_at, last_login_at)
                 SELECT UUID(), CONCAT('{half}', a.d, b.d, c.d, e.d, '@example.com'), '',
                        IF(a.d = 0 AND b.d = 0, 'moderator', 'user'), CONCAT('client', c.d),
                        ELT(1 + e.d MOD 4, 'free', 'basic', 'premium', 'enterprise'), b.d > 0,
                        NOW() - INTERVAL (a.d * 1000 + b.d * 100 + c.d) SECOND,
                        NOW() - INTERVAL (e.d * 1000 + c.d * 100 + a.d) SECOND,
                        NOW() - INTERVAL (c.d * 1000 + e.d * 100 + b.d) SECOND
                 FROM {digits} AS a, {digits} AS b, {digits} AS c, {digits} AS e"
            );
            sqlx::raw_sql(AssertSqlSafe(insert)).execute(pool).await.expect("seeded");
        }
        sqlx::raw_sql("ANALYZE TABLE users").execute(pool).await.expect("analysed");
    }

    /// The index that a page is read from, and what else the server does.
    async fn plan(pool: &MySqlPool, request: &ListUsersRequest) -> (String, String) {
        let mut failure = Failure::new(ErrorCode::InvalidRequest);
        let filter = Filter::parse(request.filter.clone().unwrap_or_default(), &mut failure);
        let page = Page::parse(request, &mut failure);
        assert!(failure.fields().is_empty(), "{:?}", failure.fields());
        let mut statement = QueryBuilder::new("EXPLAIN FORMAT = TRADITIONAL ");
        page.ids(&filter, &mut statement);
        let row = statement.build().fetch_one(pool).await.expect("a plan");
        (row.try_get("key").unwrap_or_default(), row.try_get("Extra").unwrap_or_default())
    }

    #[sqlx::test(migrations = "./migrations")]
    async fn a_page_of_a_long_list_is_read_from_an_index_and_not_sorted(pool: MySqlPool) {
        seed(&pool).await;
        let unfiltered = UserFilter::default();
        let of = |change: fn(&mut UserFilter)| {
            let mut filter = unfiltered.clone();
            change(&mut filter);
            filter
        };
        let orders = [
            ("", "ix_users_created"),
            ("created_at", "ix_users_created"),
            ("updated_at", "ix_users_updated"),
            ("last_login_at", "ix_users_last_login"),
            ("email", "uq_users_email"),
            ("role", "ix_users_role_created"),
            ("tier", "ix_users_tier"),
            ("client_id", "ix_users_client"),
        ];
        let filters = [
            (of(|filter| filter.role = Some("moderator".to_owned())), "ix_users_role_created"),
            (of(|filter| filter.tier = Some("premium".to_owned())), "ix_users_tier"),
            (of(|filter| filter.client_id = Some("client7".to_owned())), "ix_users_client"),
            (of(|filter| filter.is_active = Some(false)), "ix_users_active"),
        ];
        let orders = orders.map(|(sort_by, index)| (sort_by, unfiltered.clone(), index));
        let filters = filters.map(|(filter, index)| ("", filter, index));
        for (sort_by, filter, index) in orders.into_iter().chain(filters) {
            for ascending in [false, true] {
                let filter = Some(filter.clone());
                let sort_by = sort_by.to_owned();
                let request = ListUsersRequest { filter, sort_by, ascending, ..ListUsersRequest::default() };
                let (key, extra) = plan(&pool, &request).await;
                assert_eq!(key, index, "{request:?}: {extra}");
                assert!(!extra.contains("filesort"), "{request:?}: {extra}");
            }
        }
    }
}
