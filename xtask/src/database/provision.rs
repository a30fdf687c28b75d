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
    let mut connection = admin
        .connect_to_server()
        .await
        .map_err(|e| refused(admin, "signing in", &e))?;
    make_schema(&mut connection, admin).await?;
    let identity = admin.with_user("identity_svc", &kept_secret("identity_svc")?);
    let subscription = admin.with_user("subscription_svc", &kept_secret("subscription_svc")?);
    for service in [&identity, &subscription] {
        match make_user(&mut connection, service).await {
            Err(error) if lacks_privilege(&error) => {
                println!(
                    "{} may not make database users on {}: the services sign in with it.",
                    admin.user, admin.host
                );
                return Ok(Services {
                    identity: admin.clone(),
                    subscription: admin.clone(),
                });
            }
            made => made.map_err(|e| refused(admin, &format!("making the user {}", service.user), &e))?,
        }
    }
    grant(admin).await?;
    for service in [&identity, &subscription] {
        service
            .connect()
            .await
            .map_err(|e| refused(service, "signing in", &e))?;
    }
    Ok(Services {
        identity,
        subscription,
    })
}

/// Makes an empty schema of this name, in place of one that may be there.
pub async fn make_scratch(admin: &Account, name: &str) -> Outcome<Account> {
    let scratch = admin.with_schema(name);
    let mut connection = admin
        .connect_to_server()
        .await
        .map_err(|e| refused(admin, "signing in", &e))?;
    let drop = format!("DROP DATABASE IF EXISTS {name}");
    run(&mut connection, drop)
        .await
        .map_err(|e| refused(admin, "dropping the scratch schema", &e))?;
    make_schema(&mut connection, &scratch).await?;
    Ok(scratch)
}

async fn make_schema(connection: &mut MySqlConnection, admin: &Account) -> Outcome {
    let name = &admin.schema;
    let create = format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    match run(connection, create).await {
        // An account that may only use the schema, which is there.
        Err(error) if lacks_privilege(&error) && admin.connect().await.is_ok() => Ok(()),
        made => made.map_err(|e| refused(admin, &format!("making the schema {name}"), &e)),
    }
}

async fn make_user(connection: &mut MySqlConnection, service: &Account) -> sqlx::Result<()> {
    let Account { user, password, .. } = service;
    run(
        connection,
        format!("CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}'"),
    )
    .await?;
    run(
        connection,
        format!("ALTER USER '{user}'@'%' IDENTIFIED BY '{password}'"),
    )
    .await
}

async fn grant(admin: &Account) -> Outcome {
    let path = root().join("deploy/database/grants.sql");
    let grants = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    // The grants name no schema: they mean the one that is selected.
    let mut connection = admin
        .connect()
        .await
        .map_err(|e| refused(admin, "signing in", &e))?;
    run(&mut connection, grants)
        .await
        .map_err(|e| refused(admin, "granting rights", &e))
}

/// Runs statements as they are: those that manage users cannot be prepared everywhere.
async fn run(connection: &mut MySqlConnection, statements: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map(drop)
}

fn refused(account: &Account, what: &str, error: &sqlx::Error) -> crate::Fault {
    format!(
        "{what} as {} at {}:{}: {error}",
        account.user, account.host, account.port
    )
    .into()
}

/// Access denied to a schema (1044), to a table (1142), or to an action (1227).
fn lacks_privilege(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    let number = database
        .and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>())
        .map(MySqlDatabaseError::number);
    matches!(number, Some(1044 | 1142 | 1227))
}
