//! What the database itself holds to, whatever a service does.

use std::collections::BTreeSet;

use e2e::{Process, Sandbox};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

#[tokio::test]
async fn no_row_outlives_or_precedes_the_account_that_it_is_of() {
    let sandbox = Sandbox::start().await;
    let user = sandbox.register().await;
    sandbox.edge().get("/api/v1/subscription", &user.token).await.must_be(200);
    sandbox.project(&user).await;
    let mut connection = sandbox.connection().await;
    let keys: BTreeSet<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS CHAR), CAST(referenced_table_name AS CHAR)
         FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE()",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the foreign keys")
    .into_iter()
    .collect();
    let tables = [("user_profiles", "user_id"), ("projects", "owner_id"), ("subscriptions", "user_id")];
    for (table, column) in tables.into_iter().chain([("sessions", "user_id")]) {
        assert!(keys.contains(&(table.to_owned(), "users".to_owned())), "{table}: {keys:?}");
        let orphan = format!("UPDATE {table} SET {column} = ? WHERE {column} = ?");
        let refused = sqlx::query(AssertSqlSafe(orphan))
            .bind(Uuid::now_v7().to_string())
            .bind(&user.id)
            .execute(&mut connection)
            .await
            .expect_err("nobody's");
        let is_foreign_key = refused.as_database_error().is_some_and(|e| e.is_foreign_key_violation());
        assert!(is_foreign_key, "{table}: {refused}");
    }
    sqlx::query("DELETE FROM users WHERE id = ?")
        .bind(&user.id)
        .execute(&mut connection)
        .await
        .expect("deleted");
    for (table, column) in tables {
        let left = format!("SELECT COUNT(*) FROM {table} WHERE {column} = ?");
        let left = sqlx::query(AssertSqlSafe(left)).bind(&user.id).fetch_one(&mut connection).await;
        assert_eq!(left.expect("counted").get::<i64, _>(0), 0, "{table}");
    }
}

#[tokio::test]
async fn tables_are_made_with_the_settings_of_the_database_alone() {
    let sandbox = Sandbox::start().await;
    let mut settings = sandbox.settings();
    settings.retain(|(name, _)| name.starts_with("AUTH_DB_"));
    // As it stands in the settings that the processes share, without the certificates that a call would need.
    settings.push(("IDENTITY_URL", "https://identity-svc:50051".to_owned()));
    for service in ["identity-svc", "subscription-svc"] {
        Process::run(service, &settings, &["migrate"]).await;
    }
    settings.retain(|(name, _)| *name != "AUTH_DB_PASSWORD");
    let said = Process::run_to_failure("identity-svc", &settings, &["migrate"]).await;
    assert!(said.contains("AUTH_DB_PASSWORD is not set") && !said.contains("JWT_SECRET_KEY"), "{said}");
}
