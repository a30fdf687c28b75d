use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

/// The rows of a platform's tables at one moment, kept beside them.
pub struct Backup {
    tables: Vec<String>,
}

impl Backup {
    /// Copies all tables of the schema that `connection` uses.
    pub async fn of(connection: &mut MySqlConnection) -> Backup {
        let tables = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables
                      WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'";
        let tables = sqlx::query_scalar(tables).fetch_all(&mut *connection).await.expect("its tables");
        let backup = Backup { tables };
        for table in &backup.tables {
            run(connection, format!("CREATE TABLE backup_of_{table} AS SELECT * FROM {table}")).await;
        }
        backup
    }

    /// Sets all tables back, at once.
    pub async fn restore(self, connection: &mut MySqlConnection) {
        run(connection, "SET foreign_key_checks = 0".to_owned()).await;
        let mut tx = connection.begin().await.expect("a transaction");
        for table in &self.tables {
            run(&mut tx, format!("DELETE FROM {table}")).await;
            run(&mut tx, format!("INSERT INTO {table} SELECT * FROM backup_of_{table}")).await;
        }
        tx.commit().await.expect("committed");
    }
}

async fn run(connection: &mut MySqlConnection, statement: String) {
    let ran = connection.execute(AssertSqlSafe(statement.clone())).await;
    ran.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
