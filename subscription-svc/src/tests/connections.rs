//! A connection of the pool must survive whoever was dropped while using it.

use std::time::Duration;

use chassis::mysql;
use contract::Outcome;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, MySqlPool};

use super::service;

/// Asks for a number with a statement that was never prepared before, and must get it.
async fn must_answer(pool: &MySqlPool, number: i64) {
    let sql = AssertSqlSafe(format!("SELECT {number} + ?"));
    let answer: i64 = sqlx::query_scalar(sql).bind(1_i64).fetch_one(pool).await.expect("an answer");
    assert_eq!(answer, number + 1, "somebody else's answer");
}

#[sqlx::test(migrations = false)]
async fn a_probe_or_transaction_that_is_dropped_half_way_leaves_no_answer_behind(
    options: MySqlPoolOptions,
    database: MySqlConnectOptions,
) {
    let (service, _) = service(options, database).await;
    let pool = &service.pool;
    for number in 0..400_i64 {
        let patience = Duration::from_micros(20 * (number as u64 % 100));
        // Dropped wherever they are by then.
        let _ = tokio::time::timeout(patience, mysql::probe(pool)).await;
        let work = mysql::transaction(pool, "dropped", number, |tx, number| {
            Box::pin(async move {
                let sql = AssertSqlSafe(format!("SELECT {number} + 7 + ?"));
                let answer = sqlx::query_scalar::<_, i64>(sql).bind(1_i64).fetch_one(tx).await;
                answer.map_err(mysql::failed)
            })
        });
        let dropped: Result<Outcome<i64>, _> = tokio::time::timeout(patience, work).await;
        if let Ok(done) = dropped {
            assert_eq!(done.expect("an answer"), number + 8);
        }
        for more in 0..3 {
            must_answer(pool, 1000 * number + more).await;
        }
    }
}
