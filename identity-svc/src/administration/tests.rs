//! Rules of administration that only a real database can show.

use chrono::{DateTime, Utc};
use contract::identity::{
    ApproveTierChangeRequest, AuditFilter, ChangeUsersRequest, Device, ExportUsersRequest,
    ImportUsersRequest, ImportedRow, ListAuditRequest, ListUsersRequest,
};
use contract::{ErrorCode, Outcome, Role, to_timestamp};
use prost_types::Timestamp;
use sqlx::MySqlPool;

use super::change::Change;
use super::export::Export;
use super::{Actor, audit, bulk, change, import, list, permissions, sessions};
use crate::identity::Identity;
use crate::tests::{identity, register};
use crate::{administrators, edges, newcomers};

fn actor(id: &str) -> Actor {
    Actor::of(id.to_owned(), None).expect("an actor")
}

/// A new account that is an administrator.
async fn administrator(identity: &Identity, email: &str) -> String {
    let id = register(identity, email).await;
    sqlx::query("UPDATE users SET role = 'admin' WHERE id = ?")
        .bind(&id)
        .execute(&identity.pool)
        .await
        .expect("promoted");
    id
}

fn rows(count: u64) -> Vec<ImportedRow> {
    let row = |row| ImportedRow { row, email: format!("u{row}@example.com"), ..ImportedRow::default() };
    (0..count).map(row).collect()
}

fn log_of(user_id: &str) -> ListAuditRequest {
    ListAuditRequest { user_id: user_id.to_owned(), ..ListAuditRequest::default() }
}

fn import_of(rows: Vec<ImportedRow>) -> ImportUsersRequest {
    ImportUsersRequest { client_id: "shop".to_owned(), rows, ..ImportUsersRequest::default() }
}

#[sqlx::test(migrations = "./migrations")]
async fn nobody_but_an_active_administrator_administers(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let target = register(&identity, "target@example.com").await;
    let user = register(&identity, "user@example.com").await;
    let disabled = administrator(&identity, "disabled@example.com").await;
    sqlx::query("UPDATE users SET is_active = FALSE WHERE id = ?")
        .bind(&disabled)
        .execute(&pool)
        .await
        .expect("disabled");
    // Every permission is not the role.
    sqlx::query("INSERT INTO user_permissions (user_id, permission, granted_at) VALUES (?, '*', NOW())")
        .bind(&user)
        .execute(&pool)
        .await
        .expect("granted");
    let nobody = uuid::Uuid::now_v7().to_string();
    let before = entries(&pool).await;
    for id in [&user, &disabled, &nobody] {
        let actor = actor(id);
        let many = ChangeUsersRequest {
            user_ids: vec![target.clone()],
            operation: "delete".to_owned(),
            ..ChangeUsersRequest::default()
        };
        let tier = ApproveTierChangeRequest {
            user_ids: vec![target.clone()],
            tier: "basic".to_owned(),
            ..ApproveTierChangeRequest::default()
        };
        let export = ExportUsersRequest { format: "csv".to_owned(), ..ExportUsersRequest::default() };
        let role = Change { role: Some(Role::Moderator), ..Change::default() };
        let outcomes: [Outcome<()>; 14] = [
            list::list(&identity, &actor, ListUsersRequest::default()).await.map(drop),
            list::details(&identity, &actor, &target).await.map(drop),
            change::update(&identity, &actor, &target, role).await.map(drop),
            change::remove(&identity, &actor, &target, None).await,
            change::set_password(&identity, &actor, &target, "another good one").await,
            permissions::grant(&identity, &actor, &target, "*").await.map(drop),
            permissions::revoke(&identity, &actor, &target, "*").await,
            sessions::list(&identity, &actor, &target).await.map(drop),
            sessions::end_all(&identity, &actor, &target).await,
            audit::list(&identity, &actor, log_of(&target)).await.map(drop),
            edges::list(&identity, &actor).await.map(drop),
            bulk::change(&identity, &actor, many).await.map(drop),
            bulk::approve_tier(&identity, &actor, tier).await.map(drop),
            Export::begin(&identity, &actor, export).await.map(drop),
        ];
        for (place, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.expect_err("refused").code(), ErrorCode::Forbidden, "the call at {place}");
        }
        for rows in [rows(1), vec![]] {
            let refused = import::import(&identity, &actor, import_of(rows)).await.expect_err("refused");
            assert_eq!(refused.code(), ErrorCode::Forbidden);
        }
    }
    assert_eq!(entries(&pool).await, before, "nothing was done");
}

async fn entries(pool: &MySqlPool) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM audit_log").fetch_one(pool).await.expect("a count")
}

#[sqlx::test(migrations = "./migrations")]
async fn a_permission_with_spaces_at_its_end_is_none_and_never_stands_for_the_real_one(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let admin = actor(&administrator(&identity, "admin@example.com").await);
    let user = register(&identity, "user@example.com").await;
    for padded in ["projects.manage ", "projects.manage  ", "* ", "Projects.manage", ""] {
        let refused = permissions::grant(&identity, &admin, &user, padded).await.expect_err("refused");
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{padded:?}");
        let refused = permissions::revoke(&identity, &admin, &user, padded).await.expect_err("refused");
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{padded:?}");
    }
    let held = permissions::grant(&identity, &admin, &user, "projects.manage").await.expect("granted");
    assert_eq!(held, ["projects.manage"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn whoever_makes_an_account_leaves_it_to_be_given_a_subscription(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let admin = administrator(&identity, "admin@example.com").await;
    administrators::make_administrator(&identity, "b@example.com", "admin", "correct horse battery")
        .await
        .expect("made");
    import::import(&identity, &actor(&admin), import_of(rows(1500).split_off(1000))).await.expect("imported");
    let told = newcomers::exchange(&pool, &[]).await.expect("told");
    assert_eq!(told.len(), 502);
    assert_eq!(newcomers::exchange(&pool, &told[..500]).await.expect("told"), told[500..]);
    assert!(newcomers::exchange(&pool, &told[500..]).await.expect("told").is_empty());
}

#[sqlx::test(migrations = "./migrations")]
async fn imports_of_the_same_rows_at_once_make_each_account_once(pool: MySqlPool) {
    const AT_ONCE: usize = 4;
    const ROWS: u64 = 300;
    let identity = identity(pool.clone()).await;
    let admin = administrator(&identity, "admin@example.com").await;
    let imports = (0..AT_ONCE).map(|_| {
        let (identity, admin) = (identity.clone(), admin.clone());
        tokio::spawn(async move {
            import::import(&identity, &actor(&admin), import_of(rows(ROWS))).await.expect("imported")
        })
    });
    let mut sums = [0, 0, 0];
    for import in imports.collect::<Vec<_>>() {
        let answer = import.await.expect("joined");
        sums = [sums[0] + answer.created, sums[1] + answer.unchanged, sums[2] + answer.failed];
    }
    assert_eq!(sums, [ROWS, ROWS * (AT_ONCE as u64 - 1), 0]);
    for table in ["users", "user_profiles", "account_versions"] {
        let statement = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(statement).fetch_one(&pool).await.expect("a count");
        assert_eq!(count, ROWS as i64 + 1, "{table}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn an_account_without_a_password_cannot_be_told_from_others(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let admin = administrator(&identity, "admin@example.com").await;
    import::import(&identity, &actor(&admin), import_of(rows(2))).await.expect("imported");
    let hashes: Vec<String> = sqlx::query_scalar("SELECT password_hash FROM users WHERE client_id = 'shop'")
        .fetch_all(&pool)
        .await
        .expect("hashes");
    // A sign-in must find something to verify, at the usual cost.
    assert!(hashes.iter().all(|hash| hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$")), "{hashes:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn an_export_has_every_account_of_its_filter_once(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let admin = administrator(&identity, "admin@example.com").await;
    for first in [0, 500, 1000] {
        let rows = rows(first + 500).split_off(first as usize);
        import::import(&identity, &actor(&admin), import_of(rows)).await.expect("imported");
    }
    for (client_id, expected) in [(None, 1501), (Some("shop"), 1500), (Some("nobody"), 0)] {
        let mut request = ExportUsersRequest { format: "csv".to_owned(), ..ExportUsersRequest::default() };
        request.filter.get_or_insert_default().client_id = client_id.map(str::to_owned);
        let mut export = Export::begin(&identity, &actor(&admin), request).await.expect("begun");
        let mut emails = Vec::new();
        while let Some(users) = export.next().await.expect("a page") {
            emails.extend(users.into_iter().map(|user| user.email));
        }
        let all = emails.len();
        emails.sort();
        emails.dedup();
        assert_eq!((emails.len(), all), (expected, expected), "{client_id:?}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn who_acted_and_from_where_is_kept(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let admin = administrator(&identity, "admin@example.com").await;
    let user = register(&identity, "user@example.com").await;
    let device = Device {
        ip_address: "192.0.2.1".to_owned(),
        user_agent: "a browser".to_owned(),
        request_id: "a-request".to_owned(),
    };
    let actor = Actor::of(admin.clone(), Some(device)).expect("an actor");
    permissions::grant(&identity, &actor, &user, "projects.manage").await.expect("granted");
    let log = audit::list(&identity, &actor, ListAuditRequest { limit: 1, ..log_of(&user) }).await;
    let log = log.expect("a page");
    let entry = &log.entries[0];
    assert_eq!((entry.actor_id.as_deref(), entry.target_id.as_deref()), (Some(&*admin), Some(&*user)));
    assert_eq!((entry.ip_address.as_str(), entry.request_id.as_str()), ("192.0.2.1", "a-request"));
    assert_eq!(entry.details_json, r#"{"permission":"projects.manage"}"#);
    assert!(!log.next_cursor.is_empty());
}

/// The id of an entry, and when who did what to whom.
type Row = (String, DateTime<Utc>, Option<String>, String, Option<String>);

/// The ids of a log's entries, page by page, as long as they are.
async fn walked(identity: &Identity, actor: &Actor, filter: AuditFilter, user_id: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let filter = Some(filter.clone());
        let request = ListAuditRequest { limit: 2, cursor, filter, ..log_of(user_id) };
        let page = audit::list(identity, actor, request).await.expect("a page");
        assert!(page.entries.len() <= 2);
        ids.extend(page.entries.into_iter().map(|entry| entry.id));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return ids;
        }
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn the_log_of_all_is_filtered_by_what_was_done_by_whom_to_whom_and_when(pool: MySqlPool) {
    let identity = identity(pool.clone()).await;
    let (admin, other) =
        (administrator(&identity, "a@example.com").await, register(&identity, "o@x.org").await);
    let actor = actor(&admin);
    for permission in ["projects.manage", "personas.create", "personas.delete"] {
        permissions::grant(&identity, &actor, &other, permission).await.expect("granted");
    }
    permissions::revoke(&identity, &actor, &other, "personas.create").await.expect("revoked");
    permissions::grant(&identity, &actor, &admin, "projects.manage").await.expect("granted");
    let rows: Vec<Row> =
        sqlx::query_as("SELECT id, at, actor_id, action, target_id FROM audit_log ORDER BY id DESC")
            .fetch_all(&pool)
            .await
            .expect("the log");
    let middle = rows[2].1;
    let named = |id: &Option<String>, whom: &str| id.as_deref() == Some(whom);
    let text = |text: &str| Some(text.to_owned());
    let time = Some(to_timestamp(middle));
    type Admits<'a> = &'a dyn Fn(&Row) -> bool;
    let cases: [(AuditFilter, &str, Admits); 8] = [
        (AuditFilter::default(), "", &|_| true),
        (AuditFilter { action: text("permission_granted"), ..AuditFilter::default() }, "", &|row| {
            row.3 == "permission_granted"
        }),
        (AuditFilter { by_id: text(&admin), ..AuditFilter::default() }, "", &|row| named(&row.2, &admin)),
        (AuditFilter { target_id: text(&other), ..AuditFilter::default() }, "", &|row| named(&row.4, &other)),
        (AuditFilter { from: time, ..AuditFilter::default() }, "", &|row| row.1 >= middle),
        (AuditFilter { until: time, ..AuditFilter::default() }, "", &|row| row.1 < middle),
        (AuditFilter { action: text("permission_granted"), ..AuditFilter::default() }, &other, &|row| {
            row.3 == "permission_granted" && (named(&row.2, &other) || named(&row.4, &other))
        }),
        (
            AuditFilter {
                action: text("permission_granted"),
                by_id: text(&admin),
                target_id: text(&other),
                from: time,
                until: None,
            },
            "",
            &|row| {
                row.3 == "permission_granted"
                    && named(&row.2, &admin)
                    && named(&row.4, &other)
                    && row.1 >= middle
            },
        ),
    ];
    for (place, (filter, user_id, admits)) in cases.into_iter().enumerate() {
        let expected: Vec<String> = rows.iter().filter(|row| admits(row)).map(|row| row.0.clone()).collect();
        assert!(!expected.is_empty(), "case {place} shows nothing");
        assert_eq!(walked(&identity, &actor, filter, user_id).await, expected, "case {place}");
    }
    let ancient = Some(Timestamp { seconds: -70_000_000_000, nanos: 0 });
    let distant = Some(Timestamp { seconds: 300_000_000_000, nanos: 0 });
    let always = AuditFilter { from: ancient, until: distant, ..AuditFilter::default() };
    assert_eq!(walked(&identity, &actor, always, "").await.len(), rows.len());
    let bad =
        AuditFilter { action: text("x"), by_id: text("y"), target_id: text("z"), ..AuditFilter::default() };
    let request = ListAuditRequest { filter: Some(bad), ..log_of("w") };
    let refused = audit::list(&identity, &actor, request).await.expect_err("refused");
    assert_eq!(refused.fields().len(), 4, "{refused:?}");
}
