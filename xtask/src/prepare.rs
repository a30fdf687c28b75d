//! The committed `.sqlx` data, with which the query macros check the SQL when no database is at hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::migrate::Migrator;

use crate::Outcome;
use crate::cargo::{cargo, run as run_cargo};
use crate::database::{Account, Database, drop_schema, make_scratch};
use crate::process::unless_interrupted;
use crate::workspace::{root, target};

#[derive(clap::Args)]
pub struct Options {
    /// Only say whether the committed data are right
    #[arg(long)]
    check: bool,
}

/// The services with SQL, in the order in which their migrations depend on each other, and what each calls its table
/// of applied migrations.
const SERVICES: [(&str, &str); 2] =
    [("identity-svc", "_identity_migrations"), ("subscription-svc", "_subscription_migrations")];

/// `cargo xtask prepare`
pub async fn run(options: Options) -> Outcome {
    let mut database = unless_interrupted(Database::open_throw_away()).await?;
    let outcome = unless_interrupted(prepare(&database.admin, options.check)).await;
    database.stop().await.and(outcome)
}

/// Writes the data anew, or compares.
pub async fn prepare(admin: &Account, check: bool) -> Outcome {
    let scratch = make_scratch(admin, "persona_prepare").await?;
    migrate(&scratch).await?;
    let folder = target("sqlx-data");
    describe(&scratch, &folder).await?;
    drop_schema(&scratch).await?;

    let (fresh, committed) = (read(&folder)?, read(&root().join(".sqlx"))?);
    if check {
        return compare(&fresh, &committed);
    }
    store(&fresh, &committed)?;
    println!("{} queries in .sqlx", fresh.len());
    Ok(())
}

/// Applies the migrations of both services.
async fn migrate(scratch: &Account) -> Outcome {
    let mut connection = scratch.connect().await?;
    for (service, bookkeeping) in SERVICES {
        let folder = root().join(service).join("migrations");
        let mut migrator = Migrator::new(folder).await.map_err(|e| format!("{service}: {e}"))?;
        // Nobody else has this schema, and sqlx's lock does not work on MariaDB.
        migrator.set_locking(false);
        migrator.dangerous_set_table_name(bookkeeping);
        let applied = migrator.run_direct(None, &mut connection, false).await;
        applied.map_err(|e| format!("{service}: {e}"))?;
    }
    connection.close().await?;
    Ok(())
}

/// Has the query macros ask the scratch schema and note down what they learn.
async fn describe(scratch: &Account, folder: &Path) -> Outcome {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    // The macros run only where the compiler does.
    let touched: Vec<Touched> = SERVICES
        .iter()
        .flat_map(|(service, _)| {
            ["main.rs", "lib.rs"].map(|file| root().join(service).join("src").join(file))
        })
        .filter(|file| file.exists())
        .map(Touched::new)
        .collect::<Outcome<_>>()?;
    let mut check = cargo(&["check", "--all-targets"]);
    for (service, _) in SERVICES {
        check.args(["--package", service]);
    }
    check.env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", folder).env("DATABASE_URL", scratch.url());
    let outcome = run_cargo(&mut check).await;
    drop(touched);
    outcome
}

/// A source file that looks changed to cargo until this is dropped, so that nothing else has to be built again.
struct Touched {
    path: PathBuf,
    before: SystemTime,
    since: SystemTime,
}

impl Touched {
    fn new(path: PathBuf) -> Outcome<Self> {
        let file = File::options().append(true).open(&path)?;
        let before = file.metadata()?.modified()?;
        file.set_modified(SystemTime::now())?;
        let since = file.metadata()?.modified()?;
        Ok(Touched { path, before, since })
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // Unless somebody has changed it meanwhile. A file that stays touched costs one compilation.
        if let Ok(file) = File::options().append(true).open(&self.path)
            && file.metadata().and_then(|data| data.modified()).is_ok_and(|modified| modified == self.since)
        {
            let _ = file.set_modified(self.before);
        }
    }
}

/// The described queries: file name to content.
type Queries = BTreeMap<String, String>;

fn read(folder: &Path) -> Outcome<Queries> {
    let mut queries = Queries::new();
    if !folder.exists() {
        return Ok(queries);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            queries.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(queries)
}

fn compare(fresh: &Queries, committed: &Queries) -> Outcome {
    let missing = fresh.keys().filter(|name| !committed.contains_key(*name)).count();
    let stale = committed.keys().filter(|name| !fresh.contains_key(*name)).count();
    let changed =
        fresh.iter().filter(|(name, content)| differs(content, committed.get(*name))).count() - missing;
    if missing + stale + changed == 0 {
        println!("{} queries in .sqlx, all up to date", fresh.len());
        return Ok(());
    }
    Err(format!(
        ".sqlx is out of date ({missing} queries missing, {stale} stale, {changed} changed): \
         run `cargo xtask prepare` and commit the result"
    )
    .into())
}

fn store(fresh: &Queries, committed: &Queries) -> Outcome {
    let folder = root().join(".sqlx");
    std::fs::create_dir_all(&folder)?;
    for (name, content) in fresh.iter().filter(|(name, content)| differs(content, committed.get(*name))) {
        std::fs::write(folder.join(name), content)?;
    }
    for name in committed.keys().filter(|name| !fresh.contains_key(*name)) {
        std::fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

fn differs(fresh: &str, committed: Option<&String>) -> bool {
    committed.is_none_or(|committed| essence(fresh) != essence(committed))
}

/// What the macros check against. The rest (collations, lengths, the scratch schema's name) depends on the server, as
/// does what a JSON column is called, and must not make the committed data of one wrong on another.
fn essence(content: &str) -> Option<Value> {
    let mut description: Value = serde_json::from_str(content).ok()?;
    for column in description.pointer_mut("/describe/columns")?.as_array_mut()? {
        let kind = match column["type_info"]["type"].as_str()? {
            "Json" => "Blob",
            other => other,
        };
        let unsigned = column["type_info"]["flags"].as_str().is_some_and(|flags| flags.contains("UNSIGNED"));
        *column = json!({"name": column["name"], "type": kind, "unsigned": unsigned});
    }
    Some(description)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: &str, collation: u32) -> (String, String) {
        let kind = json!({"type": kind, "flags": "NOT_NULL", "collation": collation});
        let described = json!({"describe": {"columns": [{"name": "n", "type_info": kind}]}});
        (format!("query-{name}.json"), described.to_string())
    }

    #[test]
    fn missing_stale_and_changed_queries_are_noticed_and_another_server_is_not() {
        let one = query("1", "Long", 63);
        let two = query("2", "Json", 255);
        let committed = Queries::from([one.clone(), two.clone()]);
        assert!(compare(&committed, &committed).is_ok());
        assert!(compare(&Queries::from([one.clone()]), &committed).is_err());
        assert!(compare(&committed, &Queries::from([one.clone()])).is_err());
        assert!(compare(&Queries::from([one.clone(), query("2", "Blob", 45)]), &committed).is_ok());
        assert!(compare(&Queries::from([one, query("2", "VarString", 255)]), &committed).is_err());
    }
}
