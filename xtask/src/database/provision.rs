//! The schema and the two users of the services, each of which can touch its own tables alone.

use sqlx::mysql::MySqlDatabaseError;
use sqlx::{AssertSqlSafe, MySqlConnection};

use super::account::Account;
use crate::Outcome;
use crate::workspace::{kept_secret, root};

/// Who the services sign in as.
pub struct Services {
    pub identity: Account,
    pub subscription: Account,
}

/// Makes the schema and the users where they are missing, and gives the users what `grants.sql` says.
pub async fn provision(admin: &Account) -> Outcome<Services> {
    ensure_schema(admin).await?;
    let services = Services {
        identity: admin.with_user("identity_svc", &kept_secret("identity_svc")?),
        subscription: admin.with_user("subscription_svc", &kept_secret("subscription_svc")?),
    };
    match make_users(admin, &services).await {
        Ok(()) => {}
        Err(error) if lacks_privilege(&error) => {
            let Account { user, host, .. } = admin;
            println!(
                "{user} may not make database users on {host}: the services sign in as {user} themselves."
            );
            return Ok(Services { identity: admin.clone(), subscription: admin.clone() });
        }
        Err(error) => return Err(refused(admin, "making the users of the services", &error)),
    }
    for service in [&services.identity, &services.subscription] {
        sign_in(service).await?;
    }
    Ok(services)
}

/// Makes the schema when it is missing.
pub async fn ensure_schema(admin: &Account) -> Outcome {
    let mut connection = sign_in_without_schema(admin).await?;
    let name = &admin.schema;
    let create = format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    match run(&mut connection, create).await {
        // An account that may only use the schema, which is there.
        Err(error) if lacks_privilege(&error) && admin.connect().await.is_ok() => Ok(()),
        made => made.map_err(|e| refused(admin, &format!("making the schema {name}"), &e)),
    }
}

/// Makes an empty schema of this name, in place of one that may be there.
pub async fn make_scratch(admin: &Account, name: &str) -> Outcome<Account> {
    let scratch = admin.with_schema(name);
    drop_schema(&scratch).await?;
    ensure_schema(&scratch).await?;
    Ok(scratch)
}

/// Drops the schema that `admin` names, if it exists.
pub async fn drop_schema(admin: &Account) -> Outcome {
    let mut connection = sign_in_without_schema(admin).await?;
    let drop = format!("DROP DATABASE IF EXISTS {}", admin.schema);
    run(&mut connection, drop).await.map_err(|e| refused(admin, "dropping a schema", &e))
}

/// The passwords are set anew each time: what is kept under `target/` may be younger than the users.
async fn make_users(admin: &Account, services: &Services) -> sqlx::Result<()> {
    let path = root().join("deploy/database/grants.sql");
    let grants = std::fs::read_to_string(&path).map_err(sqlx::Error::Io)?;
    // The grants name no schema: they mean the one that is selected.
    let mut connection = admin.connect().await?;
    for Account { user, password, .. } in [&services.identity, &services.subscription] {
        let named = format!("'{user}'@'%' IDENTIFIED BY '{password}'");
        run(&mut connection, format!("CREATE USER IF NOT EXISTS {named}; ALTER USER {named}")).await?;
    }
    run(&mut connection, grants).await
}

async fn sign_in(account: &Account) -> Outcome<MySqlConnection> {
    account.connect().await.map_err(|e| refused(account, "signing in", &e))
}

async fn sign_in_without_schema(account: &Account) -> Outcome<MySqlConnection> {
    account.connect_to_server().await.map_err(|e| refused(account, "signing in", &e))
}

/// Runs statements as they are: those that manage users cannot be prepared everywhere.
async fn run(connection: &mut MySqlConnection, statements: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.map(drop)
}

fn refused(account: &Account, what: &str, error: &sqlx::Error) -> crate::Fault {
    format!("{what} as {} at {}:{}: {error}", account.user, account.host, account.port).into()
}

/// Access denied to a schema (1044), to a table (1142), or to an action (1227).
fn lacks_privilege(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    let number =
        database.and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>()).map(MySqlDatabaseError::number);
    matches!(number, Some(1044 | 1142 | 1227))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn as_(account: &Account, statement: &str) -> sqlx::Result<()> {
        run(&mut account.connect().await?, statement.to_owned()).await
    }

    #[test]
    fn every_table_of_the_migrations_is_granted_to_its_service() {
        let grants = std::fs::read_to_string(root().join("deploy/database/grants.sql")).expect("the grants");
        for (service, user) in [("identity-svc", "identity_svc"), ("subscription-svc", "subscription_svc")] {
            for entry in std::fs::read_dir(root().join(service).join("migrations")).expect("migrations") {
                let migration =
                    std::fs::read_to_string(entry.expect("an entry").path()).expect("a migration");
                let Some((_, rest)) = migration.split_once("CREATE TABLE ") else {
                    continue;
                };
                let table = rest.split([' ', '(', '\n']).next().unwrap_or_default().trim_matches('`');
                let granted = format!(" ON {table} TO '{user}'@");
                assert!(
                    grants.contains(&granted),
                    "{service} makes {table}: add it to deploy/database/grants.sql"
                );
            }
        }
    }

    #[tokio::test]
    async fn each_service_can_touch_its_own_tables_alone() {
        let admin = make_scratch(&Account::of_the_test_server(), "persona_grants").await.expect("a schema");
        // Before any table exists, and again as the next `up` does.
        provision(&admin).await.expect("provisioned");
        let Services { identity, subscription } = provision(&admin).await.expect("provisioned again");

        as_(&identity, "CREATE TABLE users (id VARCHAR(36) PRIMARY KEY)").await.expect("its own table");
        let child = "CREATE TABLE subscriptions (id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(36) NOT NULL,
            CONSTRAINT fk_owner FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE)";
        as_(&subscription, child).await.expect("a table that refers to the other's");
        as_(&identity, "INSERT INTO users VALUES ('u')").await.expect("its own table");
        as_(&subscription, "INSERT INTO subscriptions VALUES ('s', 'u')").await.expect("its own table");

        let foreign = [
            (&identity, "SELECT * FROM subscriptions"),
            (&identity, "DROP TABLE subscriptions"),
            (&identity, "CREATE TABLE other (id INT)"),
            (&subscription, "SELECT * FROM users"),
            (&subscription, "UPDATE users SET id = 'v'"),
            (&subscription, "ALTER TABLE users ADD COLUMN role TEXT"),
        ];
        for (account, statement) in foreign {
            let refused = as_(account, statement).await.expect_err(statement);
            assert!(lacks_privilege(&refused), "{} {statement}: {refused}", account.user);
        }
        as_(&identity, "DELETE FROM users").await.expect("its own table");
        drop_schema(&admin).await.expect("dropped");
    }

    #[tokio::test]
    async fn an_account_that_may_make_no_users_is_used_for_the_services() {
        let admin = make_scratch(&Account::of_the_test_server(), "persona_modest").await.expect("a schema");
        let modest = admin.with_user("persona_modest", &kept_secret("persona_modest").expect("a secret"));
        let Account { user, password, schema, .. } = &modest;
        let make = format!(
            "DROP USER IF EXISTS '{user}'@'%'; CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'; \
             GRANT ALL ON {schema}.* TO '{user}'@'%'"
        );
        as_(&admin, &make).await.expect("a user with one schema");
        let services = provision(&modest).await.expect("provisioned");
        assert_eq!(services.identity.user, "persona_modest");
        assert_eq!(services.subscription.user, "persona_modest");
        as_(&admin, &format!("DROP USER '{user}'@'%'")).await.expect("dropped");
        drop_schema(&admin).await.expect("dropped");
    }
}
