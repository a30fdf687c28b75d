//! Accounts that may have no subscription yet. subscription-svc may not read accounts, so it is told of each until it
//! has said that it knows: whoever made the account, and whatever broke off meanwhile.

use chassis::mysql::{failed, write};
use contract::Outcome;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};

/// Most accounts of one answer, and most that are acknowledged at once.
pub const MOST: usize = 1000;

/// Keeps in the transaction that makes an account that it is new.
///
/// # Errors
/// GW001 when the database is away.
pub async fn add(tx: &mut MySqlConnection, user_id: &str) -> Outcome<()> {
    sqlx::query!("INSERT INTO newcomers (user_id) VALUES (?)", user_id).execute(tx).await.map_err(failed)?;
    Ok(())
}

/// As [`add`], for many accounts.
///
/// # Errors
/// GW001 when the database is away.
pub async fn add_all(tx: &mut MySqlConnection, user_ids: impl Iterator<Item = &str>) -> Outcome<()> {
    let mut statement = QueryBuilder::<MySql>::new("INSERT INTO newcomers (user_id) ");
    statement.push_values(user_ids, |mut row, user_id| {
        row.push_bind(user_id);
    });
    statement.build().execute(tx).await.map_err(failed)?;
    Ok(())
}

/// Forgets those that are known by now, and gives some of the others.
///
/// # Errors
/// GW001 when the database is away.
pub async fn exchange(pool: &MySqlPool, known: &[String]) -> Outcome<Vec<String>> {
    if !known.is_empty() {
        let mut statement = QueryBuilder::<MySql>::new("DELETE FROM newcomers WHERE user_id IN (");
        let mut list = statement.separated(", ");
        for user_id in known {
            list.push_bind(user_id);
        }
        statement.push(")");
        write(pool, statement.build()).await?;
    }
    sqlx::query_scalar!("SELECT user_id FROM newcomers ORDER BY user_id LIMIT ?", MOST as i64)
        .fetch_all(pool)
        .await
        .map_err(failed)
}
